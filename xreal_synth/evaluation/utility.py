"""Do generated images help a classifier, or a detector? The same one trained on real, made and both, tested on real.

Four ways to train, at several shares of the real training images: on real images; on synthetic ones alone; on both,
half of every batch each; on synthetic images for the first half of the steps and on real ones for the second. All
take the same number of steps of the optimiser. Nothing is chosen by the test images.

Shapes: N images, S their side, L findings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from xreal_synth.dataset.meta import norm_box
from xreal_synth.dataset.source import Source
from xreal_synth.errors import DatasetError, TrainingError
from xreal_synth.evaluation.cases import CaseReader, Report, check_apart, resized, split_rows
from xreal_synth.evaluation.dataset_images import check_synthetic, generated_images, open_real
from xreal_synth.evaluation.findings import Boxes, Labels
from xreal_synth.evaluation.kept import claim, json_bytes
from xreal_synth.findings import TXRV18
from xreal_synth.images.manifest import MANIFEST, BadImage
from xreal_synth.opening import parse_json
from xreal_synth.seeds import stream
from xreal_synth.storage import LocalStore, Store, sha256_bytes
from xreal_synth.types import GreyImage

STUDY: Final = "study.json"


class Arm(StrEnum):
    """Images that a classifier is trained on."""

    real = "real"
    synthetic = "synthetic"
    both = "real + synthetic"
    pretrained = "synthetic, then real"


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """Images uint8 [N, S, S], their labels [N, L] (1, 0, -1 unknown), and whose they are (patient or group) [N].

    With `boxes`, one entry an image, 1 stands where the finding has a box; there without one it is unknown.
    """

    images: npt.NDArray[np.uint8]
    findings: tuple[str, ...]
    labels: Labels
    patients: npt.NDArray[np.str_]
    synthetic: bool
    boxes: tuple[Boxes, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, chosen: npt.NDArray[np.int64]) -> LabelledImages:
        """Some of the images."""
        return replace(
            self,
            images=self.images[chosen],
            labels=self.labels[chosen],
            patients=self.patients[chosen],
            boxes=tuple(self.boxes[at] for at in chosen) if self.boxes else (),
        )

    def positives(self) -> dict[str, int]:
        """Images with each finding."""
        return dict(zip(self.findings, (self.labels == 1).sum(axis=0).tolist(), strict=True))

    def counts(self) -> dict[str, Any]:
        """How many images, patients, and images with each finding."""
        patients = len(set(self.patients.tolist()))
        return {"images": len(self), "positive": self.positives(), "patients": patients}

    def check_both(self, what: str, hint: str) -> None:
        """Raises DatasetError unless every finding has images with it and without."""
        for at, (name, shown) in enumerate(self.positives().items()):
            if not shown or not (self.labels[:, at] == 0).any():
                raise DatasetError(
                    found=f"{what}: {shown} of {len(self)} images show {name}{' in a box' if self.boxes else ''}",
                    wanted="images with the finding and without",
                    hint=hint,
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
    """A cell that is done: its outputs on the test images, images trained on, seconds of the training.

    `outputs` are a classifier's logits [N, L], or a detector's boxes (findings.py).
    """

    cell: UtilityCell
    outputs: npt.NDArray[np.float64]
    real_images: int
    synthetic_images: int
    seconds: float


Fit = Callable[[Sequence[TrainingPhase], int], tuple[npt.NDArray[np.float64], float]]
"""Trains a fresh network in these phases with this seed -> outputs on the test images, seconds."""

BESIDE_SYNTHETIC: Final = (Arm.real, Arm.both, Arm.pretrained)


def cells_of(shares: Sequence[float], seeds: int, arms: Sequence[Arm] = BESIDE_SYNTHETIC) -> list[UtilityCell]:
    """Every cell of a study, seed by seed, so that a study that is broken off has whole seeds."""
    own = [(Arm.synthetic, 0.0), *((arm, share) for share in shares for arm in arms)]
    return [UtilityCell(arm, share, seed) for seed in range(seeds) for arm, share in own]


def real_share(images: LabelledImages, share: float, seed: int) -> LabelledImages:
    """The images of a share of the patients, of those with each finding and with none alike, each rounded up.

    A patient counts to the rarest finding that an image shows. A larger share of the same seed holds the smaller.
    """
    names, of_image = np.unique(images.patients, return_inverse=True)
    shown = np.zeros((len(names), len(images.findings) + 1), bool)
    np.logical_or.at(shown[:, :-1], of_image, images.labels == 1)
    order = np.argsort(shown[:, :-1].sum(axis=0), kind="stable")
    shown[:, -1] = True
    kind = np.append(order, len(order))[shown[:, np.append(order, len(order))].argmax(axis=1)]
    kept: list[str] = []
    for at, word in enumerate((*images.findings, "none")):
        part = names[kind == at]
        drawn = stream(seed, 0, 0, "rows", "utility", word).permutation(len(part))
        kept += part[drawn[: int(np.ceil(share * len(part) - 1e-9))]].tolist()
    return images.rows(np.flatnonzero(np.isin(images.patients, kept)))


def phases_of(
    cell: UtilityCell, real: LabelledImages, synthetic: LabelledImages, steps: int
) -> tuple[TrainingPhase, ...]:
    """What a cell trains on; raises DatasetError if a set lacks images with the finding, or without."""
    hint = "leave the finding out, or give larger --shares or other images"
    if cell.arm is not Arm.real:
        synthetic.check_both("the synthetic images", hint)
    if cell.arm is Arm.synthetic:
        return (TrainingPhase((synthetic,), steps),)
    part = real_share(real, cell.share, cell.seed)
    part.check_both(f"{cell.share:.0%} of the real training images", hint)
    if cell.arm is Arm.pretrained:
        return (TrainingPhase((synthetic,), steps // 2), TrainingPhase((part,), steps - steps // 2))
    return (TrainingPhase((part,) if cell.arm is Arm.real else (part, synthetic), steps),)


def run_study(
    out: Path,
    identity: Mapping[str, Any],
    cells: Sequence[UtilityCell],
    real: LabelledImages,
    synthetic: LabelledImages,
    steps: int,
    fit: Fit,
    on_steps: Callable[[int], None],
) -> list[Trained]:
    """Every cell, from `out/cells/*.json` where it is done, else trained; `on_steps` is told of those that are done.

    `study.json` says of what study the folder's cells are. Raises DatasetError for cells of another study, a file that
    is not a cell, and, before anything is trained, for what cannot be trained.
    """
    store, done = LocalStore(out), list[Trained]()
    claim(
        store, STUDY, identity, found="cells of another study", wanted="cells of this study",
        hint="give --out another folder, or the former settings again",
    )  # fmt: skip
    for cell in cells:
        phases_of(cell, real, synthetic, steps)
    for cell in cells:
        if store.exists(cell.key):
            done.append(_read(store, cell))
            on_steps(steps)
        else:
            done.append(_train(store, cell, phases_of(cell, real, synthetic, steps), fit))
    return done


def _read(store: LocalStore, cell: UtilityCell) -> Trained:
    try:
        raw = parse_json(store.read_bytes(cell.key))
        outputs = np.asarray(raw["outputs"], np.float64)
        return Trained(cell, outputs, raw["real_images"], raw["synthetic_images"], raw["seconds"])
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            where=f"{store.uri}/{cell.key}",
            found=f"cannot be read: {error}",
            wanted="a cell of the study",
            hint="remove it; the same command trains it again",
        ) from error


def _train(store: LocalStore, cell: UtilityCell, phases: Sequence[TrainingPhase], fit: Fit) -> Trained:
    outputs, seconds = fit(phases, cell.seed)
    sets = [one for phase in phases for one in phase.sets]
    synthetic = sum(len(one) for one in sets if one.synthetic)
    real = sum(len(one) for one in sets) - synthetic
    record = {
        "arm": cell.arm.value, "share": cell.share, "seed": cell.seed, "real_images": real,
        "synthetic_images": synthetic, "seconds": round(seconds, 1), "outputs": outputs.tolist(),
    }  # fmt: skip
    store.replace(cell.key, json_bytes(record))
    return Trained(cell, outputs, real, synthetic, seconds)


MOST_REFUSED: Final = 0.05

_Row = tuple[GreyImage, list[int], Boxes, str]
"""An image, its labels and boxes of the study's findings, and whose it is."""


def _known(labels: Sequence[int], boxes: Boxes, *, places: bool) -> list[int] | None:
    """An image's labels in the study, None where none of them is known: where places matter, 1 needs a box."""
    if places:
        labels = [1 if own else min(one, -one) for one, own in zip(labels, boxes, strict=True)]
    return list(labels) if max(labels) >= 0 else None


def _labelled(rows: Sequence[_Row], findings: tuple[str, ...], *, places: bool, synthetic: bool) -> LabelledImages:
    images, labels, boxes, whose = zip(*rows, strict=True)
    return LabelledImages(
        np.stack(images), findings, np.asarray(labels, np.int64), np.asarray(whose, dtype=str), synthetic,
        boxes if places else (),
    )  # fmt: skip


def read_both(
    manifest: str, splits: tuple[str, str], findings: tuple[str, ...], side: int, report: Report, *, places: bool
) -> tuple[LabelledImages, LabelledImages, dict[str, str]]:
    """Training images and test images, and what manifest they are of.

    Raises TrainingError if a patient is in both, DatasetError if all or no test images are with a finding.
    """
    store = open_real(manifest)
    training, test = (_read_real(store, split, findings, side, report, places=places) for split in splits)
    check_apart(training.patients.tolist(), test.patients.tolist(), "training and in test images")
    test.check_both("the test images", "leave the finding out, or give another --split")
    told = {"manifest_sha256": sha256_bytes(store.read_bytes(MANIFEST)), "splits": "/".join(splits)}
    return training, test, told


def _read_real(
    store: Store, split: str, findings: tuple[str, ...], side: int, report: Report, *, places: bool
) -> LabelledImages:
    """The split's images with a known label; raises TrainingError if more than a few cannot be read."""
    reader, found, refused = CaseReader(store, side), list[_Row](), list[str]()
    rows = split_rows(store, split)
    for row in rows:
        report(f"reading {split} images", 1, len(rows))
        boxes = tuple(tuple(box.box for box in row.boxes if box.name == name) for name in findings)
        given = [1 if name in row.labels else -1 if name in row.unknown else 0 for name in findings]
        labels = _known(given, boxes, places=places)
        if labels is None:
            continue
        try:
            found.append((reader.image(row), labels, boxes, row.patient))
        except BadImage as bad:
            refused.append(f"{row.image}: {bad}")
    if not found or len(refused) > MOST_REFUSED * (len(refused) + len(found)):
        raise TrainingError(
            where=store.uri,
            found=f"{len(refused)} of {len(refused) + len(found)} images of split {split!r} refused: "
            f"{'; '.join(refused[:5])}",
            wanted=f"images labelled for {', '.join(findings)}, at most {MOST_REFUSED:.0%} of them faulty",
            hint="correct these images or the manifest",
        )
    return _labelled(found, findings, places=places, synthetic=False)


def read_generated(
    source: Source, findings: tuple[str, ...], side: int, report: Report, *, places: bool
) -> tuple[LabelledImages, dict[str, str]]:
    """The dataset's images with a known label, of all its splits, and what dataset it is.

    Raises DatasetError for one of real images, TrainingError if no label is known.
    """
    check_synthetic(source, "an edited image may be a test patient's")
    found, content = list[_Row](), hashlib.sha256()
    for read in generated_images(source, report):
        meta = read.sample.meta
        boxes = tuple(
            tuple(norm_box(box, meta.image_size) for one in meta.findings if one.name == name for box in one.boxes)
            for name in findings
        )
        given = [meta.labels["txrv18" if name in TXRV18 else "chexpert14"][name] for name in findings]
        labels = _known([-1 if one is None else int(one) for one in given], boxes, places=places)
        if labels is not None:
            content.update(f"{meta.key} {read.sha256}\n".encode())
            found.append((resized(read.sample.image, side), labels, boxes, str(meta.group)))
    if not found:
        raise TrainingError(
            where=source.store.uri,
            found=f"no image whose label {' or '.join(findings)} is known",
            wanted="images with the finding and without",
            hint="name another --finding",
        )
    head = {"dataset": source.head.name, "digest": source.head.digest, "images_sha256": content.hexdigest()}
    return _labelled(found, findings, places=places, synthetic=True), head
