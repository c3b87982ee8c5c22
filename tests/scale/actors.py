"""How well a run's throughput grows with its actors, with a model that only sleeps.

The sleep takes no processor, so that what is seen is the engine's own loss: handing out shards, writing and
recording them, waiting for the driver. Each actor is given the same number of shards; the clock runs from the
first shard's beginning, with every actor up, to the last shard's record.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from tests.doubles.fake_backend import FakeImages
from tests.faults.bed import LIMITS, RECIPE
from xreal_synth.engine.progress import ActorUp, Event
from xreal_synth.engine.ray_driver import generate
from xreal_synth.errors import EngineError
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.setup import open_run
from xreal_synth.storage import LocalStore

CPUS_PER_ACTOR = 0.1
GROUPS_PER_SHARD = 2


@dataclass(frozen=True, slots=True)
class ScaleRow:
    """`shards` by `actors` in `seconds`; `linear` is shards per second over actors times those of one actor, 1 for
    a run that loses nothing."""

    actors: int
    shards: int
    seconds: float
    shards_per_s: float
    linear: float


def measure_scale(
    actors: list[int], folder: Path, *, shards_per_actor: int, shard_s: float, address: str | None
) -> list[ScaleRow]:
    """A run for each number of actors, the first of which is the measure of the others.

    Raises EngineError if a run does not end well.
    """
    rows: list[ScaleRow] = []
    for count in actors:
        shards = count * shards_per_actor
        seconds = _timed(count, shards, shard_s, folder / f"{count}", address)
        rate = shards / seconds
        one = rows[0].shards_per_s / rows[0].actors if rows else rate / count
        rows.append(ScaleRow(count, shards, seconds, rate, rate / (count * one)))
    return rows


def _timed(actors: int, shards: int, shard_s: float, out: Path, address: str | None) -> float:
    settings: dict[str, object] = {
        "anatomies": GROUPS_PER_SHARD * shards, "output.shard_samples": GROUPS_PER_SHARD,
        "compute.actors": {"min": actors, "max": actors}, "compute.cpus_per_actor": CPUS_PER_ACTOR,
    }  # fmt: skip
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    run = open_run(LoadedRecipe(recipe_from_text(RECIPE, overrides=overrides), RECIPE))
    began: list[float] = []

    def on_event(event: Event) -> None:
        if isinstance(event, ActorUp):
            began.append(time.monotonic())

    backend = FakeImages(sleep_s=shard_s / GROUPS_PER_SHARD)
    summary = generate(run, LocalStore(out), address=address, backend=backend, limits=LIMITS, on_event=on_event)
    records = list((out / "records").glob("*.json"))
    if summary.exit_code or len(began) != actors or len(records) != shards:
        raise EngineError(
            found=f"{actors} actors: exit code {summary.exit_code}, {len(began)} came up, {len(records)} shards of "
            f"{shards}",
            wanted="a run that nothing disturbs",
        )
    wall = time.time() - max(path.stat().st_mtime for path in records)
    return time.monotonic() - wall - began[-1]
