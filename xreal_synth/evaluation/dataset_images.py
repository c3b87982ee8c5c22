"""Images for an evaluation of a dataset: its own, and the real ones of a manifest beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from xreal_synth.dataset.names import parse_key
from xreal_synth.dataset.source import Counted, Source, each_image
from xreal_synth.dataset.tar import TarSample
from xreal_synth.errors import DatasetError, TrainingError
from xreal_synth.images.manifest import MANIFEST
from xreal_synth.storage import Store, open_store
from xreal_synth.types import GreyImage

if TYPE_CHECKING:
    from xreal_synth.evaluation.request import Report


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


def generated_images(
    source: Source, report: Report, what: str = "reading generated images"
) -> Iterator[TarSample]:
    """Every image of the shards, one in memory at a time."""

    yield from each_image(source, Counted(), lambda done, total: report(what, 1, total))
