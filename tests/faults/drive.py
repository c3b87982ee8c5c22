"""`python -m tests.faults.drive OUT ADDRESS SLEEP_S [HELD FOLDER]`: a driver in its own process."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from tests.doubles.fake_backend import FakeImages
from tests.faults.bed import LIMITS, RECIPE
from xreal_synth.engine.log import LineLog
from xreal_synth.engine.ray_driver import generate
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.setup import open_run
from xreal_synth.storage import LocalStore

EXIT_CODE = "exit code "
"""Begins the last line: of a job that was stopped Ray does not keep the code."""


def main(out: str, address: str, sleep_s: str, held: str | None = None, folder: str | None = None) -> int:
    """Runs the bed's recipe with one actor; returns the exit code. The group `held` waits for marks in `folder`."""
    recipe = recipe_from_text(RECIPE, overrides=["compute.actors=1"])
    groups = frozenset[int]() if held is None else frozenset({int(held)})
    summary = generate(
        open_run(LoadedRecipe(recipe, RECIPE)), LocalStore(Path(out)), address=address,
        backend=FakeImages(sleep_s=float(sleep_s), held=groups, hold=folder), limits=replace(LIMITS, drain_s=60),
        on_event=LineLog(lambda line: print(line, flush=True)).on_event,
    )  # fmt: skip
    print(f"{EXIT_CODE}{summary.exit_code}", flush=True)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
