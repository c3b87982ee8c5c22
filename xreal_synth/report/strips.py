"""The images that a report shows, read from the tars that hold them: strips of a group's pictures, mean anatomy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from xreal_synth.dataset.check import local_copy
from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.names import parse_key, stem_of, tar_key
from xreal_synth.dataset.tar import read_samples
from xreal_synth.errors import DatasetError
from xreal_synth.findings import ORGANS
from xreal_synth.report.drawing import SIDES, Picture, change_picture, reduced
from xreal_synth.report.figures import marks, view_box
from xreal_synth.storage import Store
from xreal_synth.types import GreyImage, Role, Sample, SampleMeta

MEAN_GROUPS: Final = 32
"""Groups of each spread shard that the mean image and mean anatomy are taken over, at most."""
MEAN_SIDE: Final = 256


@dataclass(frozen=True, slots=True, eq=False)
class Strip:
    """An image with what stands beside it: pictures uint8, at most SIDES[0] wide; None where not delivered.

    `change` is None for an image that was made of no other; `sham` is painted where the group's first variant is.
    """

    meta: SampleMeta
    image: Picture
    marks: Markup
    view_box: str
    twin: Picture | None = None
    change: Picture | None = None
    sham: Picture | None = None


@dataclass(slots=True)
class MeanAnatomy:
    """Mean image and share of masks with each organ, over the first images of some groups."""

    count: int = 0
    _image: npt.NDArray[np.float64] | None = None
    _organs: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        """Adds a sample's image and organ mask, both reduced to the mean's side."""
        image = reduced(sample.image, MEAN_SIDE).astype(np.float64)
        step = max(1, sample.anatomy.shape[1] // MEAN_SIDE)
        mask = sample.anatomy[step // 2 :: step, step // 2 :: step]
        self._image = image if self._image is None else self._image + image
        for name, code in ORGANS.items():
            inside = (mask == code).astype(np.float64)
            self._organs[name] = inside + self._organs[name] if name in self._organs else inside
        self.count += 1

    @property
    def image(self) -> GreyImage | None:
        """uint8 [h, w], None where no image was added."""
        return None if self._image is None else (self._image / self.count).round().astype(np.uint8)

    @property
    def view_box(self) -> str:
        """The SVG's coordinates: the mean image's size."""
        return view_box((1, 1) if self._image is None else (self._image.shape[0], self._image.shape[1]))

    @property
    def organs(self) -> dict[str, npt.NDArray[np.float64]]:
        """By organ, the share of masks that have it in each pixel, float64 [h, w] in 0..1."""
        return {name: total / self.count for name, total in self._organs.items()}


@dataclass(frozen=True, slots=True, eq=False)
class GreyImages:
    """Strips by the key of their image, and the mean anatomy."""

    strips: dict[str, Strip]
    mean: MeanAnatomy


def read_strips(
    store: Store, head: DatasetHead, wanted: Iterable[tuple[int, str]], mean_over: Sequence[int]
) -> GreyImages:
    """Reads the tars of `wanted` (shard, key) and of the shards `mean_over`, one image's group at a time.

    Raises DatasetError where a tar is damaged or lacks an image, StorageError where it is missing.
    """
    by_shard: dict[int, set[str]] = defaultdict(set)
    for shard in mean_over:
        by_shard[shard] = set()
    for shard, key in wanted:
        by_shard[shard].add(key)
    strips: dict[str, Strip] = {}
    mean = MeanAnatomy()
    for shard, keys in sorted(by_shard.items()):
        for group in _groups(store, head, shard, keys, MEAN_GROUPS if shard in mean_over else 0):
            if group.counts:
                mean.add(group.members[0])
            strips.update({key: _strip(group.members, key) for key in group.keys})
        if missing := sorted(keys - strips.keys()):
            where = tar_key(stem_of(head.name, shard))
            raise DatasetError(where=where, found=f"no image {missing[0]}", hint="run xreal-synth verify")
    return GreyImages(strips, mean)


@dataclass(frozen=True, slots=True, eq=False)
class _StripGroup:
    members: tuple[Sample, ...]
    keys: tuple[str, ...]
    counts: bool


def _groups(store: Store, head: DatasetHead, shard: int, keys: set[str], means: int) -> Iterator[_StripGroup]:
    """Groups with a wanted image, whole, and of the first `means` groups at least their first image."""
    whole = {parse_key(key).group for key in keys}
    first: dict[int, str] = {}

    def wants(key: str) -> bool:
        group = parse_key(key).group
        begins = first.setdefault(group, key) == key
        return group in whole or (begins and len(first) <= means)

    name = tar_key(stem_of(head.name, shard))
    with local_copy(store, name) as path:
        read = (found.sample for found in read_samples(path, name, wants))
        for seen, (_, run) in enumerate(groupby(read, key=lambda sample: sample.meta.group)):
            members = tuple(run)
            picked = tuple(one.meta.key for one in members if one.meta.key in keys)
            yield _StripGroup(members, picked, seen < means)


def _strip(members: Sequence[Sample], key: str) -> Strip:
    by_member = {sample.meta.member: sample for sample in members}
    sample = next(one for one in members if one.meta.key == key)
    edited = sample.meta.member != Role.healthy
    twin = by_member.get(Role.healthy) if edited else None
    sham = by_member.get(Role.sham.member()) if sample.meta.member == Role.variant.member() else None
    return Strip(
        meta=sample.meta,
        image=_small(sample.image),
        marks=marks(sample),
        view_box=view_box(sample.meta.image_size),
        twin=_small(twin.image) if twin else None,
        change=_small(change_picture(sample.image, sample.change, twin.image if twin else None))
        if edited and sample.change.any()
        else None,
        sham=_small(sham.image) if sham else None,
    )


def _small(picture: Picture) -> Picture:
    return reduced(picture, SIDES[0])
