"""How long a run takes from its command to its first image, and on what.

The run is a process of its own, as `xreal-synth generate` is one: `measure_start` begins it, its actor and it note
when they come to what (`marked.py`, `run_marked`). Every part ends where the next one begins.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from xreal_synth.engine.quiet import quiet_ray
from xreal_synth.errors import EngineError
from xreal_synth.opening import parse_json

PARTS: Final = (
    "python and recipe", "ray", "actor process", "torch and diffusers", "bundle", "to the first shard",
    "first micro-batch",
)  # fmt: skip
"""In order: until the recipe is opened and checked; until Ray is up; until the actor is to load its models; what it
imports for them; the models; until the driver has heard and a shard is begun; until its first images are there."""

_LONGEST_S = 600.0


@dataclass(frozen=True, slots=True)
class StartUp:
    """Seconds of each of PARTS, and from the command to the first image."""

    parts: tuple[float, ...]

    def named(self) -> dict[str, float]:
        return dict(zip(PARTS, self.parts, strict=True))

    @property
    def first_image(self) -> float:
        return sum(self.parts)


def measure_start(recipe: str, image_s: float | None = None) -> StartUp:
    """Runs the recipe (a text) in a process of its own; with `image_s`, with a model that sleeps so long over an image.

    Raises EngineError if the run does not end well.
    """
    with tempfile.TemporaryDirectory(prefix="xreal-start-") as name:
        folder = Path(name)
        (folder / "marks").mkdir()
        (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
        command = [sys.executable, "-m", "tests.speed.start_up", name, "" if image_s is None else str(image_s)]
        began = time.time()
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
        if done.returncode:
            raise EngineError(
                found=f"a run that was to be timed ended with exit code {done.returncode}: {done.stderr[-800:]}",
                wanted="a run that nothing disturbs",
            )
        return read_start(folder, began)


def read_start(folder: Path, began: float) -> StartUp:
    """From the moments that a run with one actor has left in its folder."""
    from tests.speed.marked import read_marks

    driver: dict[str, float] = parse_json((folder / "driver.json").read_text())
    (actor,) = read_marks(folder / "marks")
    assert actor.begun is not None
    assert actor.first_image is not None
    moments = (
        began, driver["checked"], driver["ray"], actor.called, actor.imported, actor.loaded, actor.begun,
        actor.first_image,
    )  # fmt: skip
    return StartUp(tuple(max(0.0, after - before) for before, after in pairwise(moments)))


def run_marked(folder: Path, image_s: float | None) -> int:
    """What `xreal-synth generate` does, in its order; returns its exit code. `image_s` as in `measure_start`."""
    quiet_ray()
    from xreal_synth.recipe.load import load_recipe
    from xreal_synth.run.setup import open_run, require_placeable

    run = open_run(load_recipe(folder / "recipe.yaml", output=str(folder / "out")))
    require_placeable(run, "recipe")
    moments = {"checked": time.time()}
    from tests.speed.marked import Marked
    from tests.speed.ways import sleeping
    from xreal_synth.engine.backend import Networks
    from xreal_synth.engine.progress import Event, RunStarted
    from xreal_synth.engine.ray_driver import generate
    from xreal_synth.storage import open_store

    def on_event(event: Event) -> None:
        if isinstance(event, RunStarted):
            moments["ray"] = time.time()

    model = Networks() if image_s is None else sleeping(run, image_s)
    spec = Marked(model, str(folder / "marks"))
    summary = generate(run, open_store(run.recipe.output.uri), on_event=on_event, backend=spec)
    (folder / "driver.json").write_text(json.dumps(moments))
    return summary.exit_code


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(run_marked(Path(sys.argv[1]), float(sys.argv[2]) if sys.argv[2] else None))
