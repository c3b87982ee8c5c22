"""Images for an evaluation of a dataset: its own, of all its shards or some, and a manifest's real ones beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain, islice

import numpy as np

from xreal_synth.dataset.names import parse_key, record_key
from xreal_synth.dataset.record import PLACEMENT, added
from xreal_synth.dataset.source import Source, each_image, open_source, read_shards, shard_table
from xreal_synth.dataset.tar import TarSample
from xreal_synth.errors import DatasetError, TrainingError
from xreal_synth.evaluation.cases import Report
from xreal_synth.images.manifest import MANIFEST
from xreal_synth.storage import Store, open_store
from xreal_synth.types import Acceptance, GreyImage, Sample


def open_real(manifest: str) -> Store:
    """The folder of a manifest.csv; raises TrainingError for another file."""
    folder, _, name = manifest.rpartition("/")
    if name == MANIFEST:
        return open_store(folder or ".")
    if name.endswith(".csv"):
        found = manifest if open_store(folder or ".").exists(name) else f"no file {manifest}"
        raise TrainingError(
            found=found, wanted=f"a file named {MANIFEST}, which says where its images lie, or its folder",
            hint=f"prepare folder makes one of any table, or name the file {MANIFEST}",
        )  # fmt: skip
    return open_store(manifest)


def check_synthetic(source: Source, why: str) -> None:
    """Raises DatasetError for a dataset of real images, as they are or edited; `why` says what would be wrong."""
    if source.head.real_images:
        raise DatasetError(
            where=source.store.uri,
            found="a dataset of real images, as they are or edited",
            wanted=f"images made from organ masks: {why}",
            hint="give a dataset made with anatomy.source: bank or masks",
        )


def images_named(source: Source, keys: set[str], report: Report, what: str) -> dict[str, GreyImage]:
    """The images of these keys, from the shards that hold them; raises DatasetError where one is not to be had."""
    shards = {parse_key(key, key)[0] // source.head.shard_samples for key in keys}
    records = tuple(record for record in source.records if record.shard in shards)
    part = replace(source, records=records, skipped=[])
    found = {
        read.sample.meta.key: read.sample.image
        for read in generated_images(part, report, what)
        if read.sample.meta.key in keys
    }
    lost = sorted(keys - found.keys())
    if lost:
        raise DatasetError(
            where=source.store.uri,
            found=str(part.skipped[0]) if part.skipped else f"no image {lost[0]}",
            wanted="shards that are what their records say",
            hint="run xreal-synth verify",
        )
    return found


def generated_images(source: Source, report: Report, what: str = "reading generated images") -> Iterator[TarSample]:
    """Every image of the shards, one in memory at a time."""
    return each_image(source, lambda done, total: report(what, 1, total))


@dataclass(frozen=True, slots=True, eq=False)
class ChosenShards:
    """The shards that are read: all, or as many whole ones in a random order as give the images wanted.

    `images` are those that will be read, `size` their side in pixels, `unfinished` counts the shards that no run has
    finished.
    """

    source: Source
    images: int
    images_in_all: int
    size: int
    asked: frozenset[str]
    unfinished: int

    @property
    def control(self) -> str:
        """What made the images follow their masks: xreal, controlnet, none; "images" for edited real images."""
        if self.source.head.real_images:
            return "images"
        return str(self.source.head.setting("sampling", "control") or "xreal")

    @property
    def gate(self) -> dict[str | None, tuple[int, int]] | None:
        """Attempts accepted, and attempts, by finding and in all (None); None where there was no gate.

        What had no place was not tried.
        """
        total: Acceptance | None = reduce(added, [record.gate for record in self.source.records], None)
        if total is None:
            return None
        groups = sum(record.groups for record in self.source.records)
        refused = sum(count for check, count in total.reasons.items() if check != PLACEMENT)
        found: dict[str | None, tuple[int, int]] = {None: (groups, groups + refused)}
        found.update({name: (total.accepted.get(name, 0), tried) for name, tried in total.tried.items()})
        return found

    def samples(self) -> Iterator[Sample]:
        """Every image, `images` of them at most; raises DatasetError at the first shard that is damaged."""
        every = chain.from_iterable(images for _, _, images in read_shards(self.source))
        for image in islice(every, self.images):
            _refuse(self.source, self.source.skipped)
            yield image.sample
        _refuse(self.source, self.source.skipped)


def choose(uri: str, most: int) -> ChosenShards:
    """Opens the dataset at a folder or URI; of more than `most` images reads some shards only.

    Raises DatasetError where there is no dataset, no finished shard, a damaged one, or images of several sizes.
    """
    source = open_source(open_store(uri))
    _refuse(source, [one for one in source.skipped if source.store.exists(record_key(one.shard))])
    unfinished = len(source.skipped)
    source.skipped.clear()
    records = source.records
    if source.images > most:
        order = np.random.default_rng(0).permutation(len(records))
        enough = int(np.searchsorted(np.cumsum([records[at].samples for at in order]), most)) + 1
        records = tuple(records[at] for at in sorted(order[:enough]))
    chosen = replace(source, records=records)
    sizes, asked = set[tuple[int, int]](), set[str]()
    for record in records:
        table = shard_table(chosen, record)
        _refuse(chosen, chosen.skipped)
        for row in table.select(["height", "width", "findings"]).to_pylist():
            sizes.add((row["height"], row["width"]))
            asked.update(finding["name"] for finding in row["findings"])
    if len(sizes) != 1 or any(height != width for height, width in sizes):
        shown = ", ".join(f"{width} x {height}" for height, width in sorted(sizes)) or "no image"
        raise DatasetError(
            where=source.store.uri,
            found=f"images of {shown}",
            wanted="square images of one size, made by one recipe",
            hint="run xreal-synth verify",
        )
    return ChosenShards(
        source=chosen,
        images=min(most, chosen.images),
        images_in_all=source.images,
        size=sizes.pop()[0],
        asked=frozenset(asked),
        unfinished=unfinished,
    )


def _refuse(source: Source, damaged: Sequence[object]) -> None:
    if damaged:
        raise DatasetError(
            where=source.store.uri,
            found=str(damaged[0]),
            wanted="shards that are what their records say: figures of what is left would be of another dataset",
            hint="run xreal-synth verify to see what is wrong, and generate again to make it anew",
        )
