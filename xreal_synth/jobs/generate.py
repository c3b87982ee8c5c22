"""`python -m xreal_synth.jobs.generate RECIPE --output-root URI`: the entry point for `ray job submit`.

The same run as `xreal-synth generate`, with plain lines for a job's log and the same exit codes: 0 complete,
2 a mistake (nothing written), 3 partial, 75 stopped, run again to go on. In a Ray job the cluster is found
through RAY_ADDRESS, which Ray sets; elsewhere a Ray of this machine's own is started.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from xreal_synth.cache import cache_folder
from xreal_synth.engine.log import LineLog
from xreal_synth.engine.own_prompts import stored_encoder
from xreal_synth.engine.place import output_place
from xreal_synth.engine.progress import NOT_STARTED, PARTIAL, RunSummary
from xreal_synth.engine.quiet import quiet_ray
from xreal_synth.engine.setup import Run, open_run, require_placeable
from xreal_synth.errors import XrealError
from xreal_synth.escaping import for_terminal
from xreal_synth.models.describe import BundleInfo
from xreal_synth.recipe.load import LoadedRecipe, load_recipe
from xreal_synth.report.build import try_build
from xreal_synth.storage import is_remote, open_store


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] | None = None) -> int:
    """Runs the job; returns the exit code."""
    quiet_ray()
    given = parser().parse_args(arguments)
    say = say or _say
    try:
        return _generate(given, say)
    except XrealError as error:
        say(f"error: {error}")
        return NOT_STARTED


def _generate(given: argparse.Namespace, say: Callable[[str], None]) -> int:
    loaded = load_recipe(given.recipe, overrides=given.set)
    place = output_place(loaded.recipe.output.uri, given.output_root)
    if is_remote(loaded.recipe.bundle):
        say(f"bundle {loaded.recipe.bundle}: fetched once per machine, to {cache_folder()}")
    run = _opened(given, load_recipe(given.recipe, overrides=given.set, output=place))
    require_placeable(run, str(given.recipe))
    from xreal_synth.engine.ray_driver import generate

    address = given.address or os.environ.get("RAY_ADDRESS") or None
    store = open_store(place)

    def encode(info: BundleInfo, texts: Sequence[str], encoder: str) -> bytes:
        from xreal_synth.models.own_prompts import TextSource, encode_own

        say(f"encoding {len(texts)} prompts that the bundle lacks, once, for this dataset")
        return encode_own(info, texts, encoder, TextSource.given(given.text_encoder, given.vocab))

    summary = generate(run, store, address=address, on_event=LineLog(say).on_event, encode=encode)
    failed = ""
    if summary.dataset is not None:
        built, failed = try_build(store, summary.dataset, run.bundle)
        say(failed if built is None else f"report: {built.report}")
    _end(summary, say)
    return summary.exit_code or (PARTIAL if failed else summary.exit_code)


def _opened(given: argparse.Namespace, loaded: LoadedRecipe) -> Run:
    if given.text_encoder is None and given.vocab is None:
        return open_run(loaded, lambda: stored_encoder(open_store(loaded.recipe.output.uri)))
    from xreal_synth.models.own_prompts import TextSource

    source = TextSource.given(given.text_encoder, given.vocab)
    assert source is not None
    run = open_run(loaded, source.identity)
    source.require_use(run.own is not None)
    return run


def _end(summary: RunSummary, say: Callable[[str], None]) -> None:
    for failure in summary.failures:
        state = "in quarantine" if failure.quarantined else "not made"
        say(f"shard {failure.shard} {state}: {failure.reason or 'not begun'}")
    say(
        f"{summary.shards_done} of {summary.shards_total} shards, {summary.samples} films of {summary.groups} groups "
        f"in {summary.uri}"
    )
    if summary.message:
        say(summary.message)


def parser() -> argparse.ArgumentParser:
    """The job's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m xreal_synth.jobs.generate",
        description="Makes a dataset from a recipe on the Ray cluster this job runs on.",
        epilog="Running it again goes on. Exit codes: 0 complete, 2 a mistake, 3 partial, 75 stopped.",
    )
    parser.add_argument("recipe", type=Path, help="the recipe, a YAML file")
    parser.add_argument(
        "--output-root",
        metavar="URI",
        help="an absolute place; a relative output.uri of the recipe goes below it",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        help="replaces a field of the recipe; may be repeated",
    )
    parser.add_argument(
        "--text-encoder",
        type=Path,
        help="encodes, once, the recipe's prompts that the bundle lacks: what it was converted from",
    )
    parser.add_argument(
        "--vocab", type=Path, help="vocab.txt of bert-base-uncased, for a --text-encoder file"
    )
    parser.add_argument("--address", help="a Ray cluster's address, instead of RAY_ADDRESS")
    return parser


def _say(line: str) -> None:
    print(for_terminal(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
