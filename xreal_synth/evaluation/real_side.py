"""The real images that a dataset is measured beside: a split of a manifest, and a second sample of real images.

The second sample says what real images reach against real images: another split of the manifest (by default the
training images), or, where there is none, half of the split's own patients, who are then left out of the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Final

import numpy as np

from xreal_synth.errors import AnatomyError, TrainingError
from xreal_synth.evaluation.cases import CaseReader, Report, check_apart, split_rows
from xreal_synth.evaluation.evaluators import Evaluators
from xreal_synth.evaluation.inception import InceptionFeatures
from xreal_synth.evaluation.measurements import ImageSet, measure, ms_ssim, real_images
from xreal_synth.images.files import ImageFiles, ImagePair, decode_image
from xreal_synth.images.manifest import MANIFEST, TRAINING_COLUMNS, BadImage, ImageRow, read_manifest
from xreal_synth.storage import Store, sha256_bytes
from xreal_synth.types import Sample, SampleMeta

SAME_MASK: Final = 0.995
"""Share of pixels in which an image's organ mask and a real image's agree where the image is said to be its pair."""

LEAST_PATIENTS: Final = 4


@dataclass(frozen=True, slots=True)
class RealRows:
    """The real images chosen: the split's, and the second sample, which `second` names in words."""

    store: Store
    manifest_sha256: str
    split: str
    rows: tuple[ImageRow, ...]
    second_rows: tuple[ImageRow, ...]
    second: str


def real_rows(store: Store, split: str, beside: str | None) -> RealRows:
    """The rows of the split and of the second sample: the split `beside`, or half of the split's own patients.

    Without `beside` it is `train` where the manifest has it. Raises TrainingError: no manifest, an empty split,
    too few patients, patients in both samples.
    """
    rows, named = split_rows(store, split), beside
    second: tuple[ImageRow, ...] = ()
    if beside is not None:
        second = split_rows(store, beside)
    elif split != "train":
        second, named = read_manifest(store, TRAINING_COLUMNS, ("train",)).rows, "train"
    patients = sorted({row.patient for row in rows})
    if len(patients) < LEAST_PATIENTS:
        raise TrainingError(
            found=f"images of {len(patients)} patients in split {split!r}",
            wanted=f"at least {LEAST_PATIENTS} patients, or there is no interval to state",
            hint="name a larger split with --split",
        )
    words = f"split {named}"
    if not second:
        drawn = np.random.default_rng(0).permutation(len(patients))[: len(patients) // 2]
        half = {patients[at] for at in drawn}
        second = tuple(row for row in rows if row.patient in half)
        rows = tuple(row for row in rows if row.patient not in half)
        words = f"the other half of split {split}'s patients"
    check_apart(
        (row.patient for row in rows), (row.patient for row in second),
        f"split {split} and in split {named}", "another sample of other patients",
        "name another split with --beside, or leave it out",
    )  # fmt: skip
    manifest = sha256_bytes(store.read_bytes(MANIFEST))
    return RealRows(store, manifest, split, rows, second, words)


def measure_real(
    evaluators: Evaluators, real: RealRows, reader: CaseReader, inception: InceptionFeatures | None, report: Report
) -> tuple[ImageSet, ImageSet]:
    """Both samples, image by image; raises TrainingError where one has no usable image.

    Images come in a random order, so that neighbours are of any patients; faulty ones are left out.
    """
    found = []
    for rows, words, first in ((real.rows, f"split {real.split}", True), (real.second_rows, real.second, False)):
        order = [rows[at] for at in np.random.default_rng(0).permutation(len(rows))]
        seen = real_images(reader, order, f"real images of {words}", report, masks=first)
        images = measure(evaluators, seen, inception=inception, diversity=first)
        if len(images) < 2:
            raise TrainingError(
                where=real.store.uri,
                found=f"{len(images)} usable images in {words}",
                wanted="two or more",
                hint="see the manifest, or name another split",
            )
        found.append(images)
    return found[0], found[1]


def check_size(real: RealRows, size: int) -> None:
    """Raises TrainingError unless the first readable real image is at least `size` pixels wide and high."""
    files = ImageFiles(real.store)
    for row in real.rows:
        try:
            shape = decode_image(files.read(row.shard, row.image)).shape
        except BadImage:
            continue
        if min(shape) < size:
            raise TrainingError(
                where=f"{real.store.uri}/{row.image}",
                found=f"a real image of {shape[1]} x {shape[0]} pixels beside made ones of {size}",
                wanted=f"real images of at least {size} pixels: enlarged ones lack the detail to measure by",
                hint=f"prepare the real images at {size} pixels or more (xreal-synth prepare --size {size})",
            )
        return


class PairFinder:
    """The real image that a generated image belongs beside: the one it was edited from, or the one of its organ mask.

    `augmented` counts images whose mask was taken from a real image of the split and changed.
    """

    def __init__(self, reader: CaseReader, rows: Sequence[ImageRow]) -> None:
        self.pairs = self.augmented = 0
        self._reader = reader
        names = [PurePosixPath(row.mask).name for row in rows]
        times = Counter(names)
        self._by_mask = {name: row for name, row in zip(names, rows, strict=True) if times[name] == 1}
        self._by_image = {f"{row.shard}/{row.image}" if row.shard else row.image: row for row in rows}
        self._read = lru_cache(maxsize=1)(self._read_pair)

    def ms_ssim(self, sample: Sample) -> float:
        """MS-SSIM of an image to its real image, NaN where it has none in the split."""
        source = sample.meta.source
        pair = self._read(self._row(sample.meta), None if source is None else source.sha256)
        if pair is not None and source is None and float((pair.mask == sample.anatomy).mean()) < SAME_MASK:
            self.augmented += 1
            pair = None
        if pair is None:
            return float("nan")
        self.pairs += 1
        return ms_ssim(sample.image, pair.image)

    def unit(self, meta: SampleMeta) -> str:
        """Whose images come and go together when figures are resampled: images of one mask or one real image.

        The patient where that image is of the split; of drawn masks the group.
        """
        row = self._row(meta)
        if row is not None:
            return f"patient {row.patient}"
        if meta.source is not None:
            return f"image {meta.source.id}"
        return f"mask {meta.anatomy_id}" if meta.anatomy_source == "masks" else f"group {meta.group}"

    def _row(self, meta: SampleMeta) -> ImageRow | None:
        if meta.source is not None:
            return self._by_image.get(meta.source.id)
        return self._by_mask.get(meta.anatomy_id) if meta.anatomy_source == "masks" else None

    def _read_pair(self, row: ImageRow | None, sha256: str | None) -> ImagePair | None:
        """Read once for the images of a group, which follow one another; None where it cannot be, or is another."""
        with suppress(AnatomyError, BadImage):
            if row is not None and (sha256 is None or self._reader.sha256(row) == sha256):
                return self._reader.read(row)
        return None
