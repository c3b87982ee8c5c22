"""`python -m xreal_synth.training NETWORK CONFIG --data DIR --out DIR`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from xreal_synth.errors import XrealError
from xreal_synth.training.loop import EXIT_STOPPED
from xreal_synth.training.run import train
from xreal_synth.training.settings import CONFIGS


def main() -> int:
    """The command: trains one network; 2 for a mistake of the user's, 75 where it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m xreal_synth.training", description=__doc__)
    parser.add_argument("network", choices=sorted(CONFIGS))
    parser.add_argument(
        "config", type=Path, help="YAML config; shipped ones lie in xreal_synth/training/configs"
    )
    parser.add_argument("--data", required=True, help="folder or URI with manifest.csv")
    parser.add_argument(
        "--out", type=Path, required=True, help="state, metrics, samples and the network; resumed"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. loop.steps=500")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--threads", type=int, help="CPU threads; the same bits need the same number")
    given = parser.parse_args()
    try:
        result = train(
            given.network, given.config, given.data, given.out, given.set, given.device, given.threads
        )
    except XrealError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{given.network}: step {result.step}, {result.seconds / 60:.1f} min, best val loss {result.best}")
    return 0 if result.finished else EXIT_STOPPED


if __name__ == "__main__":
    sys.exit(main())
