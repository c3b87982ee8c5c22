"""The images of a source one after another, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from xreal_synth.dataset.source import Source, read_shards
from xreal_synth.dataset.summary import Tally
from xreal_synth.dataset.tar import TarSample
from xreal_synth.errors import DatasetError
from xreal_synth.types import ShardRecord

OnImage = Callable[[int, int], None]
"""Called with images done and images in all."""


@dataclass(slots=True)
class Counted:
    """What has been exported: images, images by split, and the tally of their tables."""

    images: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    def shard(self, record: ShardRecord, table: Any) -> None:
        self.tally.count(record)
        self.tally.add(table)

    def image(self, split: str) -> None:
        self.images += 1
        self.splits[split] = self.splits.get(split, 0) + 1


def each_image(source: Source, counted: Counted, on_image: OnImage) -> Iterator[TarSample]:
    """Every image of every sound shard; raises DatasetError if there turns out to be none."""
    for record, table, images in read_shards(source):
        counted.shard(record, table)
        for image in images:
            yield image
            counted.image(image.sample.split)
            on_image(counted.images, source.images)
    if not counted.images:
        none = "all are excluded (excluded.csv)" if source.excluded else "every group was dropped"
        reason = str(source.skipped[0]) if source.skipped else none
        raise DatasetError(
            where=source.store.uri,
            found=f"no image to export: {reason}",
            hint="run xreal-synth verify to see what is wrong",
        )
