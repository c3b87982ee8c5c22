"""Samples by key or by number, read from a dataset's tars, and the images that a report shows: chosen by a fixed rule
that looks at no image.

Those come from a few shards spread evenly over the dataset, so that few tars are read. Within them, those groups are
shown whose number comes first in a fixed shuffle (multiplication by a constant, as in Fibonacci hashing). A
combination of findings that none of these shards holds is taken from the first shard that does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.names import RECORDS, parse_key, shards_in, stem_of, tar_key
from xreal_synth.dataset.tar import read_samples, read_tar
from xreal_synth.errors import DatasetError
from xreal_synth.storage import Store, local_copy
from xreal_synth.types import Role, Sample


def find_sample(store: Store, head: DatasetHead, key: str) -> Sample:
    """The sample of this key; raises DatasetError if the dataset does not hold it."""
    shard = parse_key(key).group // head.shard_samples
    name = tar_key(stem_of(head.name, shard))
    if store.exists(name):
        with local_copy(store, name) as path:
            for read in read_samples(path, name, lambda one: one == key):
                return read.sample
    raise DatasetError(
        found=f"{store.uri} holds no sample {key}",
        wanted="a key of this dataset, e.g. 0000000000-h or 0000000000-v0",
        hint="look in samples.parquet, or list a tar's members with `tar tf`",
    )


def first_samples(store: Store, head: DatasetHead, limit: int) -> Iterator[Sample]:
    """Up to `limit` samples in order of shards; whole groups, so that twins stand beside variants."""
    count, last_group = 0, -1
    for shard in shards_in(store, RECORDS, head.name):
        with local_copy(store, tar_key(stem_of(head.name, shard))) as path:
            for sample in read_tar(path):
                if count >= limit and sample.meta.group != last_group:
                    return
                count, last_group = count + 1, sample.meta.group
                yield sample


MOST_SHARDS: Final = 8
SHEETS: Final = 12
IMAGES: Final = 6
_IMAGES_IN_ALL: Final = 48
_LEAST: Final = 2
_KINDS: Final = 4096
_SHUFFLE: Final = np.uint64(0x9E3779B97F4A7C15)

NO_FINDING: Final = "No finding"
PAINTED_OVER: Final = "Painted over"
JOIN: Final = " + "


@dataclass(frozen=True, slots=True)
class Pick:
    """An image to show, on the sheet of its kind: `images` of this kind are in the dataset."""

    kind: str
    key: str
    shard: int
    images: int


def spread(shards: Sequence[int], most: int = MOST_SHARDS) -> tuple[int, ...]:
    """Up to `most` of the shards, the first and the last among them, evenly apart."""
    if len(shards) <= most:
        return tuple(shards)
    return tuple(shards[round(i * (len(shards) - 1) / (most - 1))] for i in range(most))


class Picker:
    """Chooses while the rows stream by. `healthy` are the findings rows that paint nothing."""

    def __init__(self, shards: Sequence[int], healthy: frozenset[int]) -> None:
        self.shards = spread(shards)
        self._healthy = np.array(sorted(healthy), np.int64)
        self._images: Counter[str] = Counter()
        self._first: dict[str, int] = {}
        self._best: dict[str, list[tuple[int, str, int]]] = {}

    def add(self, batch: Any) -> None:
        """A batch of samples.parquet with key, group, member, shard, row and findings."""
        kinds = _kinds(batch, self._healthy)
        groups, shards = batch.column("group").to_numpy(), batch.column("shard").to_numpy()
        order = groups.astype(np.uint64) * _SHUFFLE
        chosen = np.isin(shards, self.shards)
        for kind in dict.fromkeys(kinds.tolist()):
            if not kind or (kind not in self._images and len(self._images) >= _KINDS):
                continue
            mine = np.flatnonzero(kinds == kind)
            self._images[kind] += len(mine)
            self._first.setdefault(kind, int(shards[mine[0]]))
            usable = mine[chosen[mine] | (shards[mine] == self._first[kind])]
            best = usable[np.argsort(order[usable], kind="stable")[: 2 * IMAGES]]
            found = [(int(order[i]), str(batch.column("key")[int(i)]), int(shards[int(i)])) for i in best]
            ranked = sorted([*self._best.get(kind, []), *found], key=lambda one: (one[2] not in self.shards, one))
            self._best[kind] = ranked[:IMAGES]

    def picks(self) -> tuple[Pick, ...]:
        """By kind, in the order in which they are shown: the most frequent kinds, and of each finding that is not among
        them its most frequent kind."""
        ranked = sorted(self._images, key=lambda kind: (kind != NO_FINDING, -self._images[kind], kind))
        sheets = ranked[:SHEETS]
        shown = {name for kind in sheets for name in kind.split(JOIN)}
        for kind in ranked[SHEETS:]:
            if not set(kind.split(JOIN)) <= shown:
                sheets.append(kind)
                shown.update(kind.split(JOIN))
        images = max(_LEAST, min(IMAGES, _IMAGES_IN_ALL // max(len(sheets), 1)))
        return tuple(
            Pick(kind, key, shard, self._images[kind]) for kind in sheets for _, key, shard in self._best[kind][:images]
        )


def _kinds(batch: Any, healthy: Any) -> Any:
    """The kind of each image, "" where it is not shown by itself: a twin or a sham."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = batch.column("findings")
    names = pc.struct_field(column.flatten(), "name")
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(column).to_numpy())]).astype(np.int32)
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), names), JOIN)
    kinds = joined.to_numpy(zero_copy_only=False).astype(object)
    role = np.array([member[0] for member in batch.column("member").to_pylist()])
    kinds[(role == "v") & (kinds == "")] = PAINTED_OVER
    kinds[role != "v"] = ""
    kinds[(role == Role.healthy) & np.isin(batch.column("row").to_numpy(), healthy)] = NO_FINDING
    return kinds
