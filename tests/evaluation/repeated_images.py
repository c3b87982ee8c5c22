"""A dataset of as many images as wanted from a small one, without sampling: to time readers of large datasets.

    python tests/evaluation/repeated_images.py out/quickstart out/thousand --images 1000

Images, masks, labels and boxes are those of the small dataset, group by group and again from the first, under new
keys and with a little noise of their own; shards are written as a run writes them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, groupby
from pathlib import Path

import numpy as np

from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import open_dataset, read_head
from xreal_synth.dataset.names import table_key, tar_key
from xreal_synth.dataset.record import build_record, stamp
from xreal_synth.dataset.table import build_table
from xreal_synth.dataset.tar import TarWriter, encode_sample, read_tar
from xreal_synth.engine.publish import publish
from xreal_synth.storage import LocalStore
from xreal_synth.types import Sample, ShardPlan, sample_key

GROUPS = 32
"""Of a shard."""


def groups_of(folder: Path) -> list[list[Sample]]:
    """The dataset's groups, in order; all of it is kept in memory."""
    samples = [sample for tar in sorted((folder / "shards").glob("*.tar")) for sample in read_tar(tar)]
    return [list(members) for _, members in groupby(samples, key=lambda sample: sample.meta.group)]


def renumbered(samples: list[Sample], group: int) -> list[Sample]:
    """The group's images as those of another group, with a grey level's noise."""
    noise = np.random.default_rng(group).normal(0, 1, samples[0].image.shape)
    return [
        replace(
            sample,
            image=(sample.image + noise).round().clip(0, 255).astype(np.uint8),
            meta=replace(sample.meta, group=group, key=sample_key(group, sample.meta.member)),
        )
        for sample in samples
    ]


def repeated(groups: list[list[Sample]], images: int) -> Iterator[list[Sample]]:
    """Whole groups until there are at least so many images."""
    made = 0
    for number, samples in enumerate(cycle(groups)):
        if made >= images:
            return
        made += len(samples)
        yield renumbered(samples, number)


def write(source: Path, out: Path, images: int) -> int:
    """Returns how many images were written."""
    store = LocalStore(out)
    head = replace(read_head(LocalStore(source)), name="repeated", shard_samples=GROUPS)
    open_dataset(store, head, "version: 1\n", lambda there, here: [])
    total, shard, waiting = 0, 0, list[list[Sample]]()
    for group in repeated(groups_of(source), images):
        waiting.append(group)
        total += len(group)
        if len(waiting) == GROUPS:
            _publish(store, head.digest, shard, waiting)
            shard, waiting = shard + 1, []
    if waiting:
        _publish(store, head.digest, shard, waiting)
    finish(store, head)
    return total


def _publish(store: LocalStore, digest: str, shard: int, groups: list[list[Sample]]) -> None:
    plan = ShardPlan("repeated", shard, shard * GROUPS, shard * GROUPS + len(groups))
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "shard.tar"
        with TarWriter(tar) as writer:
            for sample in (sample for group in groups for sample in group):
                writer.add(encode_sample(replace(sample, meta=replace(sample.meta, digest=digest))))
        table = build_table(plan, writer.rows)
        record = build_record(
            plan, writer.rows, (), tar=stamp(tar_key(plan.stem), tar), table=stamp(table_key(plan.stem), table),
            rejects=None, digest=digest, fingerprint={"device": "cpu"}, timings={}, actor="repeated_images", attempt=0,
        )  # fmt: skip
        publish(store, plan.stem, record, tar, table, None, replacing=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    given = parser.parse_args()
    print(f"{write(given.source, given.out, given.images)} images in {given.out}")


if __name__ == "__main__":
    main()
