"""Rows that a model is paid for and rows that end in an image: what padded micro-batches cost where a gate refuses.

`python -m tests.speed.rows` counts the rows of every evaluation of a small model while shards are made one after
another, with a gate that refuses a share of the attempts at random. A refused attempt's rows are useful: only copies
that fill a micro-batch are not.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.doubles.tables import markdown
from xreal_synth.engine.backend import Networks, TorchBackend
from xreal_synth.engine.publish import OpenShard
from xreal_synth.engine.ray_actor import WAITING
from xreal_synth.engine.worker import Worker
from xreal_synth.quality.checks import JudgedImage
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import open_run
from xreal_synth.types import Verdict

RECIPE = """\
version: 1
name: rows
seed: 7
anatomies: {anatomies}
bundle: xreal-tiny
findings:
  - {{weight: 1, labels: []}}
  - {{weight: 1, labels: [{{name: Pneumonia}}]}}
  - {{weight: 1, labels: [{{name: Effusion, side: right}}]}}
  - {{weight: 1, labels: [{{name: Edema}}]}}
pairs: {{twin: true}}
sampling: {{steps: 2}}
quality: {{profile: standard, max_attempts: 3}}
output: {{uri: unset, shard_samples: {groups}}}
compute: {{precision: fp32}}
"""


class CountedModel:
    """A sampler's model that counts: rows in all, and those that are no copies of another's latents."""

    def __init__(self, model: Any, micro_batch: int) -> None:
        self._model, self._size, self.rows = model, micro_batch, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def denoise(self, latents: Any, *given: Any, **named: Any) -> Any:
        times = len(latents) // self._size
        self.rows["paid"] += len(latents)
        self.rows["useful"] += times * len({one.numpy().tobytes() for one in latents})
        return self._model.denoise(latents, *given, **named)


class RandomGate:
    """Refuses a group's first image in `share` of the attempts, the same ones always."""

    def __init__(self, share: float) -> None:
        self._share = share

    def judge(self, images: Sequence[JudgedImage]) -> list[Verdict]:
        return [self._verdict(image) for image in images]

    def _verdict(self, image: JudgedImage) -> Verdict:
        drawn = int.from_bytes(hashlib.sha256(image.image.tobytes()).digest()[:8], "big") / 2**64
        first = image.twin is None
        refused = ("random",) if first and drawn < self._share else ()
        return Verdict(refused=refused, flags=(), reasons=refused, scores=(), passed=None)


@dataclass(frozen=True, slots=True)
class RowsCount:
    """Rows of `shards` shards of `groups` groups."""

    groups: int
    waiting: int
    paid: int
    useful: int

    @property
    def share(self) -> float:
        return self.useful / self.paid


def count_rows(shards: int, groups: int, micro_batch: int, refused: float, waiting: int = WAITING) -> RowsCount:
    """Makes the shards with a worker as an actor does; nothing is published."""
    text = RECIPE.format(anatomies=shards * groups, groups=groups)
    run = open_run(LoadedRecipe(recipe_from_text(text), text))
    shape = actor_shape(run.recipe.compute, Resources(1, 0), recorded=micro_batch)
    opened = Networks().open(run, shape)
    assert isinstance(opened, TorchBackend)
    model = CountedModel(opened.model, micro_batch)
    counted: Any = model
    gate: Any = RandomGate(refused)
    backend = TorchBackend(run, counted, gate, opened.device, opened.precision, micro_batch)

    def drop(rendered: OpenShard) -> None:
        with rendered.folder:
            rendered.encoder.close()

    with Worker(run, backend, drop) as worker:
        for number in range(shards):
            worker.make(run.plan.shard(number), waiting)
        worker.finish()
    return RowsCount(groups, waiting, model.rows["paid"], model.rows["useful"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.speed.rows", description=__doc__)
    parser.add_argument("--shards", type=int, default=48)
    parser.add_argument("--groups", type=int, default=64, help="anatomies of a shard")
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--refused", type=float, default=0.1, help="share of the attempts")
    given = parser.parse_args()
    counted = [
        count_rows(given.shards, given.groups, given.micro_batch, given.refused, waiting)
        for waiting in range(WAITING + 1)
    ]
    print(f"{given.refused:.0%} refused, micro-batch {given.micro_batch}, {given.shards} shards of {given.groups}")
    rows = [(str(one.waiting), str(one.paid), f"{one.share:.3f}") for one in counted]
    print("\n".join(markdown(("shards that may wait", "rows paid", "useful"), rows)))
