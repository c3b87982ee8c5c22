"""`python -m tests.gpu_day --out FOLDER`: the first eight minutes on a GPU.

Every step is a process with its own time limit and prints a line at once, so that a session that is cut short has told
all it knew; full numbers go to FOLDER/STEP.json, and all of them to FOLDER/gpu_day.json. Where there is no GPU the same
steps run small on the CPU, but for those that need CUDA. `--only STEP` (may be repeated) runs some of them. Exit code 3
if a step failed, took too long or missed what it must keep.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MISSED = 3


def main(arguments: list[str]) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from tests.gpu_day.steps import STEPS  # torch with all that is measured, once for all steps

    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu_day", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--only", action="append", choices=[step.name for step in STEPS], default=[])
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    began = time.monotonic()
    for step in STEPS:
        if given.only and step.name not in given.only:
            continue
        found[step.name] = one = apart(step, given.out)
        text = json.dumps(one, indent=1, default=str)
        (given.out / f"{step.name}.json").write_text(text, encoding="utf-8")
        (given.out / "gpu_day.json").write_text(json.dumps(found, indent=1, default=str), encoding="utf-8")
        print(f"{step.name:<12} {one['state']:<8} {one['seconds']:6.1f} s  {one['line']}", flush=True)
    bad = [name for name, one in found.items() if one["state"] in ("failed", "late", "missed")]
    print(f"{time.monotonic() - began:.0f} s in all; {', '.join(bad) or 'nothing'} failed", flush=True)
    return MISSED if bad else 0


def apart(step: Any, out: Path) -> dict[str, Any]:
    """Runs a step in a process of its own; this one touches no device. `state` is done, skipped, missed (it ran, and a
    thing that must hold does not), failed or late."""
    from tests.gpu_day.steps import start_method

    context: Any = multiprocessing.get_context(start_method())
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(step, out, there))
    began = time.monotonic()
    process.start()
    there.close()
    answer: dict[str, Any] = {"state": "late", "line": f"longer than {step.limit_s} s"}
    if here.poll(step.limit_s):
        try:
            answer = here.recv()
        except EOFError:
            process.join()
            answer = {"state": "failed", "line": f"the process ended with {process.exitcode}"}
    process.kill()
    process.join()
    return answer | {"seconds": round(time.monotonic() - began, 2)}


def _child(step: Any, out: Path, pipe: Connection) -> None:
    from tests.gpu_day.steps import Day, MissedError, SkippedError

    with (out / f"{step.name}.log").open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            line, numbers = step.run(Day.of_this_machine(out))
            answer = {"state": "done", "line": line, "numbers": numbers}
        except SkippedError as skipped:
            answer = {"state": "skipped", "line": str(skipped)}
        except MissedError as missed:
            answer = {"state": "missed", "line": str(missed), "numbers": missed.numbers}
        except Exception as error:  # whatever a new device raises is what the day is for
            answer = {"state": "failed", "line": f"{type(error).__name__}: {str(error).splitlines()[:1]}",
                      "trace": traceback.format_exc()}  # fmt: skip
        pipe.send(answer)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
