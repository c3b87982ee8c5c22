"""Images of a finished dataset made again from its own settings, in this process, and held against those stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import SystemRandom
from typing import Any, Final

import numpy as np

from xreal_synth.dataset.head import read_head
from xreal_synth.dataset.names import RECORDS, parse_key, shards_in, stem_of, table_key, tar_key
from xreal_synth.dataset.table import read_table
from xreal_synth.dataset.verify import VerifyProblem
from xreal_synth.engine.backend import Backend, Networks
from xreal_synth.engine.worker import environment, replay
from xreal_synth.report.picks import find_sample
from xreal_synth.run.reopen import reopen
from xreal_synth.run.resources import Resources, actor_shape, recorded_micro_batch
from xreal_synth.run.setup import Run
from xreal_synth.storage import Store
from xreal_synth.types import Sample

MOST_APART: Final = 2.0
BLOCK: Final = 16
MOST_APART_IN_BLOCK: Final = 16.0
"""Grey levels by which another machine's image may differ, twice and more what was measured between precisions."""


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """A stored sample, what the dataset's settings give for it now, and whether its bytes are promised here."""

    stored: Sample
    made: Sample
    promised: bool

    @property
    def same_plan(self) -> bool:
        """Whether labels, boxes and organ mask are the same."""
        return self.made.meta == self.stored.meta and np.array_equal(self.made.anatomy, self.stored.anatomy)

    @property
    def apart(self) -> Any:
        """Grey levels between the images, int [H, W]."""
        return abs(self.made.image.astype(int) - self.stored.image)

    @property
    def forged(self) -> str:
        """Why the stored image is not what its settings give; empty if it is, or, where its bytes are not promised, as
        near as another machine makes it."""
        if not self.same_plan:
            return "its labels, boxes or organ mask are not what the recipe gives"
        apart = self.apart
        rows, columns = (side - side % BLOCK for side in apart.shape)
        blocks = apart[:rows, :columns].reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK).mean(axis=(1, 3))
        worst = blocks.max(initial=0.0)
        if (self.promised and apart.any()) or apart.mean() > MOST_APART or worst > MOST_APART_IN_BLOCK:
            return (
                f"its pixels are not what the recipe and the bundle give: {apart.mean():.1f} grey levels apart on "
                f"average, {worst:.1f} in a block of {BLOCK} x {BLOCK}"
            )
        return ""


def networks_here(run: Run, micro_batch: int | None) -> Backend:
    """The run's networks loaded in this process, on the GPU where torch sees one."""
    import torch

    here = Resources(cpus=1, gpus=float(torch.cuda.is_available()))
    return Networks().open(run, actor_shape(run.recipe.compute, here, micro_batch))


def made_again(store: Store, keys: Sequence[str], bundle: str | None, images: str | None) -> Iterator[Replayed]:
    """The samples of these keys; bundle, and images or masks, lie where the dataset says, or there. Raises as `reopen`
    and `find_sample`."""
    head = read_head(store)
    groups = max(parse_key(key).group for key in keys) + 1
    run = reopen(store, head, anatomies=groups, bundle=bundle, images=images)
    backend = networks_here(run, recorded_micro_batch(head.fingerprint))
    promised = environment(backend) == head.fingerprint
    for key in keys:
        stored = find_sample(store, head, key)
        yield Replayed(stored, replay(run, backend, key, stored.meta.attempt), promised)


def forged_images(store: Store, count: int, bundle: str | None, images: str | None) -> Iterator[VerifyProblem]:
    """Of `count` images that nobody could foresee, those that the dataset's settings do not give."""
    head, draw, keys = read_head(store), SystemRandom(), set[str]()
    shards = shards_in(store, RECORDS, head.name)
    draw.shuffle(shards)
    for number, shard in enumerate(shards):
        key = table_key(stem_of(head.name, shard))
        names = read_table(store.read_bytes(key), key).column("key").to_pylist()
        share = -(-(count - len(keys)) // (len(shards) - number))
        keys |= set(draw.sample(names, min(share, len(names))))
        if len(keys) >= count:
            break
    for one in made_again(store, sorted(keys), bundle, images) if keys else ():
        if reported := one.forged:
            shard = parse_key(one.stored.meta.key).group // head.shard_samples
            yield VerifyProblem(tar_key(stem_of(head.name, shard)), f"{one.stored.meta.key}: {reported}", shard)
