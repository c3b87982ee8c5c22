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

from xreal_synth.engine.job_package import output_place
from xreal_synth.engine.log import LineLog
from xreal_synth.engine.progress import NOT_STARTED
from xreal_synth.errors import XrealError
from xreal_synth.from_recipe import make_dataset, open_recipe, print_line
from xreal_synth.recipe.load import load_recipe


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] | None = None) -> int:
    """Runs the job; returns the exit code."""
    given, say = parser().parse_args(arguments), say or print_line
    address = given.address or os.environ.get("RAY_ADDRESS") or None
    try:
        recipe = load_recipe(given.recipe, overrides=given.set).recipe
        place = output_place(recipe.output.uri, given.output_root)
        run = open_recipe(given.recipe, overrides=given.set, output=place, say=say)
        end = make_dataset(run, source=str(given.recipe), address=address, on_event=LineLog(say).on_event)
    except XrealError as error:
        say(f"error: {error}")
        return NOT_STARTED
    summary, lines = end.summary, [f"report: {end.built.report}" if end.built is not None else end.failed]
    for failure in summary.failures:
        state = "in quarantine" if failure.quarantined else "not made"
        lines.append(f"shard {failure.shard} {state}: {failure.reason or 'not begun'}")
    lines.append(
        f"{summary.shards_done} of {summary.shards_total} shards, {summary.samples} images of {summary.groups} groups "
        f"in {summary.uri}"
    )
    for line in filter(None, [*lines, summary.message]):
        say(line)
    return end.exit_code


def parser() -> argparse.ArgumentParser:
    """The job's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m xreal_synth.jobs.generate",
        description="Makes a dataset from a recipe on the Ray cluster this job runs on.",
        epilog="Running it again goes on. Exit codes: 0 complete, 2 a mistake, 3 partial, 75 stopped.",
    )
    parser.add_argument("recipe", type=Path, help="the recipe, a YAML file")
    parser.add_argument(
        "--output-root", metavar="URI", help="an absolute place; a relative output.uri of the recipe goes below it"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        help="replaces a field of the recipe; may be repeated",
    )
    parser.add_argument("--address", help="a Ray cluster's address, instead of RAY_ADDRESS")
    return parser


if __name__ == "__main__":
    sys.exit(main())
