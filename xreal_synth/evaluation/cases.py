"""Real images of a split, each with what is to be made from it: its own organ mask and its existing findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from xreal_synth.anatomy.label_map import resize_mask
from xreal_synth.anatomy.validate import validate_mask
from xreal_synth.errors import AnatomyError, PlacementError, TrainingError
from xreal_synth.images.files import ImageFiles, ImagePair, check_contrast, checked_pair, decode_image
from xreal_synth.images.manifest import TRAINING_COLUMNS, BadImage, ImageRow, read_manifest
from xreal_synth.models.describe import BundleInfo
from xreal_synth.planning.chest import Chest, Ground
from xreal_synth.planning.placement import place
from xreal_synth.planning.prior import Prior
from xreal_synth.recipe.findings import FindingLabel
from xreal_synth.seeds import stream
from xreal_synth.storage import Store, sha256_bytes
from xreal_synth.types import GreyImage, Mask, PlacedFinding

MIN_OVERLAP = 0.6

Report = Callable[[str, int, int], None]
"""What is being done, images done now, images in all."""


@dataclass(frozen=True, slots=True)
class Case:
    """A real image and what is asked for in its place.

    `index` is its row in the split, which keys its noise; `findings` are placed by the prior, in the bundle's
    order; `unplaced` are findings of the image that found no place on this anatomy.
    """

    index: int
    row: ImageRow
    findings: tuple[PlacedFinding, ...]
    unplaced: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The real image's name in its folder."""
        return self.row.image

    @property
    def asked(self) -> frozenset[str]:
        """Names of the findings that are asked for."""
        return frozenset(finding.name for finding in self.findings)


class CaseReader:
    """Reads images and masks of a data folder at one size; nothing is kept."""

    def __init__(self, data: Store, size: int) -> None:
        self.size = size
        self._files = ImageFiles(data)

    def read(self, row: ImageRow) -> ImagePair:
        """Image and mask uint8 [size, size]; raises BadImage or AnatomyError if they cannot be used."""
        pair = checked_pair(*self._files.pair(row), row.mask)
        mask = resize_mask(pair.mask, self.size)
        validate_mask(mask, row.mask)
        return ImagePair(resized(pair.image, self.size), mask)

    def image(self, row: ImageRow) -> GreyImage:
        """The image alone, whatever its mask; raises BadImage if it cannot be used. uint8 [S, S]."""
        image = decode_image(self._files.read(row.shard, row.image))
        check_contrast(image)
        return resized(image, self.size)

    def sha256(self, row: ImageRow) -> str:
        """Of the image's file; raises BadImage if it cannot be read."""
        return sha256_bytes(self._files.read(row.shard, row.image))


def resized(image: GreyImage, side: int) -> GreyImage:
    """uint8 [H, W] -> [side, side] by Lanczos."""
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def split_rows(data: Store, split: str) -> tuple[ImageRow, ...]:
    """The manifest's rows of a split; raises TrainingError if the manifest cannot be read or has none."""
    rows = read_manifest(data, TRAINING_COLUMNS, (split,)).rows
    if not rows:
        raise TrainingError(
            where=data.uri,
            found=f"no usable row of split {split!r} in the manifest",
            wanted="images of that split",
            hint="name another split, or see the manifest",
        )
    return rows


def check_apart(
    patients: Iterable[str],
    others: Iterable[str],
    where: str,
    wanted: str = "splits by patient",
    hint: str = "name other splits, or correct the manifest",
) -> None:
    """Raises TrainingError for patients that have images in both, `where` in words."""
    if shared := sorted(set(patients) & set(others)):
        raise TrainingError(found=f"patients both in {where}: {', '.join(shared[:5])}", wanted=wanted, hint=hint)


def read_cases(
    data: Store, reader: CaseReader, info: BundleInfo, *, split: str, count: int | None, seed: int, most: int | None
) -> tuple[list[Case], list[str]]:
    """`count` images of a split (all by default), drawn without replacement, and the faulty ones met on the way.

    Each asks for its findings that the bundle knows, at most `most` of them. Raises TrainingError if
    the manifest cannot be read or has too few images.
    """
    rows, prior, cases, faulty = split_rows(data, split), Prior.load(), list[Case](), list[str]()
    for at in stream(seed, 0, 0, "rows", "evaluation").permutation(len(rows)):
        try:
            mask = reader.read(rows[at]).mask
        except (AnatomyError, BadImage):
            faulty.append(rows[at].image)
            continue
        cases.append(_case(rows[at], int(at), mask, info, prior, seed, most))
        if len(cases) == count:
            return cases, faulty
    if count is not None or not cases:
        raise TrainingError(
            found=f"{len(cases)} usable images in split {split!r}",
            wanted=str(count or "some"),
            hint="lower -n, or see the manifest",
        )
    return cases, faulty


def _case(row: ImageRow, index: int, mask: Mask, info: BundleInfo, prior: Prior, seed: int, most: int | None) -> Case:
    placed, unplaced = list[PlacedFinding](), list[str]()
    ground = Ground(Chest(mask, row.mask), prior, info.factor, MIN_OVERLAP)
    for name in [name for name in info.prompts if name in row.labels][:most]:
        rng = stream(seed, index, 0, "boxes", "evaluation", name)
        try:
            label = FindingLabel.model_validate({"name": name})
            placed.append(place(label, ground, rng))
        except PlacementError:
            unplaced.append(name)
    return Case(index, row, tuple(placed), tuple(unplaced))
