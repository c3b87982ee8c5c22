"""The images that a report shows, read from the tars that hold them: strips of a group's pictures, mean anatomy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.names import parse_key, stem_of, tar_key
from xreal_synth.dataset.tar import read_samples
from xreal_synth.errors import DatasetError
from xreal_synth.findings import ORGANS
from xreal_synth.report.drawing import SIDES, Picture, change_picture, reduced
from xreal_synth.report.figures import marks
from xreal_synth.storage import Store, local_copy
from xreal_synth.types import GreyImage, Role, Sample, SampleMeta

MEAN_GROUPS: Final = 32
"""Groups of each spread shard that the mean image and mean anatomy are taken over, at most."""
MEAN_SIDE: Final = 256


@dataclass(frozen=True, slots=True, eq=False)
class Strip:
    """An image with what stands beside it, by kind: `image`, `twin`, `change` (of one made of another), and `sham`,
    painted where the group's first variant is; pictures uint8, at most SIDES[0] wide."""

    meta: SampleMeta
    marks: Markup
    pictures: dict[str, Picture]

    @property
    def caption(self) -> str:
        """The findings with their places, what was painted over, and a real image's name."""
        reported = []
        for finding in self.meta.findings:
            where = " ".join(word for word in (finding.side, finding.zone) if word not in ("any", ""))
            reported.append(f"{finding.name} ({where})" if where else finding.name)
        source = self.meta.source
        if source is not None:
            reported += [f"{own.name} painted over" for own in source.findings if own.removed is not None]
            reported.append(f"image {source.id}")
        return ", ".join(reported)


@dataclass(slots=True)
class MeanAnatomy:
    """Mean image and share of masks with each organ, over the first images of some groups."""

    count: int = 0
    _image: npt.NDArray[np.float64] | None = None
    _organs: dict[str, Any] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        """Adds a sample's image and organ mask, both reduced to the mean's side."""
        image = reduced(sample.image, MEAN_SIDE).astype(np.float64)
        step = max(1, sample.anatomy.shape[1] // MEAN_SIDE)
        mask = sample.anatomy[step // 2 :: step, step // 2 :: step]
        self._image = image if self._image is None else self._image + image
        for name, code in ORGANS.items():
            self._organs[name] = self._organs.get(name, 0.0) + (mask == code)
        self.count += 1

    @property
    def image(self) -> GreyImage | None:
        """uint8 [h, w], None where no image was added."""
        return None if self._image is None else (self._image / self.count).round().astype(np.uint8)

    @property
    def organs(self) -> dict[str, npt.NDArray[np.float64]]:
        """By organ, the share of masks that have it in each pixel, float64 [h, w] in 0..1."""
        return {name: total / self.count for name, total in self._organs.items()}


def read_strips(
    store: Store, head: DatasetHead, wanted: Iterable[tuple[int, str]], mean_over: Sequence[int]
) -> tuple[dict[str, Strip], MeanAnatomy]:
    """Strips by the key of their image, of `wanted` (shard, key), and the mean anatomy over the shards `mean_over`.

    Tars are read one image's group at a time. Raises DatasetError where a tar is damaged or lacks an image,
    StorageError where it is missing.
    """
    by_shard: dict[int, set[str]] = {shard: set() for shard in mean_over}
    for shard, key in wanted:
        by_shard.setdefault(shard, set()).add(key)
    strips: dict[str, Strip] = {}
    mean = MeanAnatomy()
    for shard, keys in sorted(by_shard.items()):
        means = MEAN_GROUPS if shard in mean_over else 0
        for number, members in enumerate(_groups(store, head, shard, keys, means)):
            if number < means:
                mean.add(members[0])
            strips |= {one.meta.key: _strip(members, one) for one in members if one.meta.key in keys}
        if missing := sorted(keys - strips.keys()):
            where = tar_key(stem_of(head.name, shard))
            raise DatasetError(where=where, found=f"no image {missing[0]}", hint="run xreal-synth verify")
    return strips, mean


def _groups(store: Store, head: DatasetHead, shard: int, keys: set[str], means: int) -> Iterator[tuple[Sample, ...]]:
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
        for _, run in groupby(read, key=lambda sample: sample.meta.group):
            yield tuple(run)


def _strip(members: Sequence[Sample], sample: Sample) -> Strip:
    by_member = {one.meta.member: one for one in members}
    pictures = {"image": sample.image}
    twin = by_member.get(Role.healthy)
    if sample.meta.member != Role.healthy:
        if twin is not None:
            pictures["twin"] = twin.image
        if sample.change.any():
            pictures["change"] = change_picture(sample.image, sample.change, twin.image if twin else None)
    if sample.meta.member == Role.variant.member() and (sham := by_member.get(Role.sham.member())):
        pictures["sham"] = sham.image
    small = {kind: reduced(picture, SIDES[0]) for kind, picture in pictures.items()}
    return Strip(sample.meta, marks(sample), small)
