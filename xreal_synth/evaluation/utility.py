"""Do generated images help a classifier? The same one trained on real, made and both, tested on real images.

Four ways to train, at several shares of the real training images: on real images; on synthetic ones alone; on both,
half of every batch each; on synthetic images for the first half of the steps and on real ones for the second. All
take the same number of steps of the optimiser. Nothing is chosen by the test images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from xreal_synth.errors import DatasetError
from xreal_synth.opening import parse_json
from xreal_synth.seeds import stream
from xreal_synth.storage import LocalStore

STUDY: Final = "study.json"


class Arm(StrEnum):
    """Images that a classifier is trained on."""

    real = "real"
    synthetic = "synthetic"
    both = "real + synthetic"
    pretrained = "synthetic, then real"


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """Images uint8 [N, S, S], whether each shows the finding [N], and whose they are (patient or group) [N]."""

    images: npt.NDArray[np.uint8]
    positive: npt.NDArray[np.bool_]
    patients: npt.NDArray[np.str_]
    synthetic: bool

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, chosen: npt.NDArray[np.int64]) -> LabelledImages:
        """Some of the images."""
        return LabelledImages(
            self.images[chosen], self.positive[chosen], self.patients[chosen], self.synthetic
        )


@dataclass(frozen=True, slots=True)
class UtilityCell:
    """One classifier: `share` of the real training images (0 for synthetic ones alone) and the seed."""

    arm: Arm
    share: float
    seed: int

    @property
    def key(self) -> str:
        """The cell's file."""
        return f"cells/{self.arm.name}-{self.share:g}-seed{self.seed}.json"


@dataclass(frozen=True, slots=True, eq=False)
class TrainingPhase:
    """Sets that are trained on together, each the same part of every batch, for `steps` steps."""

    sets: tuple[LabelledImages, ...]
    steps: int


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A cell that is done: its logits [N] on the test images, images trained on, seconds of the training."""

    cell: UtilityCell
    logits: npt.NDArray[np.float64]
    real_images: int
    synthetic_images: int
    seconds: float


Fit = Callable[[Sequence[TrainingPhase], int], tuple[npt.NDArray[np.float64], float]]
"""Trains a fresh classifier in these phases with this seed -> logits on the test images, seconds."""


def cells_of(shares: Sequence[float], seeds: int) -> list[UtilityCell]:
    """Every cell of a study, seed by seed, so that a study that is broken off has whole seeds."""
    found = []
    for seed in range(seeds):
        found.append(UtilityCell(Arm.synthetic, 0.0, seed))
        found += [
            UtilityCell(arm, share, seed) for share in shares for arm in (Arm.real, Arm.both, Arm.pretrained)
        ]
    return found


def real_share(images: LabelledImages, share: float, seed: int) -> LabelledImages:
    """The images of a share of the patients, of those with and without the finding alike, each rounded up.

    A patient is with the finding where one image shows it. A larger share of the same seed holds the smaller.
    """
    names = np.unique(images.patients)
    ill = np.isin(names, np.unique(images.patients[images.positive]))
    kept: list[str] = []
    for word, part in (("with", names[ill]), ("without", names[~ill])):
        order = stream(seed, 0, 0, "rows", "utility", word).permutation(len(part))
        kept += part[order[: int(np.ceil(share * len(part) - 1e-9))]].tolist()
    return images.rows(np.flatnonzero(np.isin(images.patients, kept)))


def phases_of(
    cell: UtilityCell, real: LabelledImages, synthetic: LabelledImages, steps: int
) -> tuple[TrainingPhase, ...]:
    """What a cell trains on; raises DatasetError if a set lacks images with the finding, or without."""
    if cell.arm is Arm.synthetic:
        _check_both(synthetic, "the synthetic images")
        return (TrainingPhase((synthetic,), steps),)
    part = real_share(real, cell.share, cell.seed)
    _check_both(part, f"{cell.share:.0%} of the real training images")
    if cell.arm is Arm.real:
        return (TrainingPhase((part,), steps),)
    _check_both(synthetic, "the synthetic images")
    if cell.arm is Arm.both:
        return (TrainingPhase((part, synthetic), steps),)
    return (TrainingPhase((synthetic,), steps // 2), TrainingPhase((part,), steps - steps // 2))


class Study:
    """A folder of cells that are done: `study.json` says of what, `cells/*.json` holds one each.

    Another study in the same folder is refused.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self._store = LocalStore(folder)
        record = json.loads(json.dumps(identity))
        if not self._store.put_if_absent(STUDY, _text(record)):
            self._check_identity(record)

    def done(self, cell: UtilityCell) -> Trained | None:
        """The cell, if it is done; raises DatasetError for a file that is not one."""
        if not self._store.exists(cell.key):
            return None
        try:
            raw = parse_json(self._store.read_bytes(cell.key))
            logits = np.asarray(raw["logits"], np.float64)
            return Trained(cell, logits, raw["real_images"], raw["synthetic_images"], raw["seconds"])
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                where=str(self.folder / cell.key),
                found=f"cannot be read: {error}",
                wanted="a cell of the study",
                hint="remove it; the same command trains it again",
            ) from error

    def train(self, cell: UtilityCell, phases: Sequence[TrainingPhase], fit: Fit) -> Trained:
        """Trains the cell and keeps it."""
        logits, seconds = fit(phases, cell.seed)
        sets = [one for phase in phases for one in phase.sets]
        synthetic = sum(len(one) for one in sets if one.synthetic)
        real = sum(len(one) for one in sets if not one.synthetic)
        found = Trained(cell, logits, real, synthetic, seconds)
        record = {
            "arm": cell.arm.value, "share": cell.share, "seed": cell.seed, "real_images": real,
            "synthetic_images": synthetic, "seconds": round(seconds, 1), "logits": logits.tolist(),
        }  # fmt: skip
        self._store.replace(cell.key, _text(record))
        return found

    def _check_identity(self, now: dict[str, Any]) -> None:
        try:
            former = parse_json(self._store.read_bytes(STUDY))
            other = [
                f"{key} {former.get(key)!r}, now {now[key]!r}" for key in now if former.get(key) != now[key]
            ]
        except (ValueError, AttributeError) as error:
            other = [f"{STUDY} cannot be read: {error}"]
        if other:
            raise DatasetError(
                where=str(self.folder),
                found="cells of another study: " + "; ".join(other),
                wanted="cells of this study",
                hint="give --out another folder, or the former settings again",
            )


def _check_both(images: LabelledImages, what: str) -> None:
    shown = int(images.positive.sum())
    if not shown or shown == len(images):
        raise DatasetError(
            found=f"{what}: {shown} of {len(images)} images show the finding",
            wanted="images with the finding and without",
            hint="give another --finding, larger --shares or other images",
        )


def _text(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=1) + "\n").encode()
