"""Images of a study with their labels, and boxes where places are asked for: small, in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from xreal_synth.dataset.meta import norm_box
from xreal_synth.dataset.source import Source
from xreal_synth.errors import TrainingError
from xreal_synth.evaluation.cases import CaseReader, resized, split_rows
from xreal_synth.evaluation.dataset_images import check_synthetic, generated_images
from xreal_synth.evaluation.places import Boxes
from xreal_synth.evaluation.request import Report
from xreal_synth.evaluation.utility import LabelledImages
from xreal_synth.findings import TXRV18
from xreal_synth.images.manifest import BadImage
from xreal_synth.storage import Store
from xreal_synth.types import GreyImage, SampleMeta

MOST_REFUSED = 0.05


@dataclass(slots=True)
class _Collected:
    """Images one by one, with the labels and boxes of the study's findings; `places` says whether boxes matter."""

    findings: tuple[str, ...]
    places: bool
    images: list[GreyImage] = field(default_factory=list)
    labels: list[list[int]] = field(default_factory=list)
    boxes: list[Boxes] = field(default_factory=list)
    whose: list[str] = field(default_factory=list)

    def wants(self, labels: Sequence[int], boxes: Boxes) -> list[int] | None:
        """The image's labels in the study, None where none of them is known: where places matter, 1 needs a box."""
        if self.places:
            labels = [1 if own else min(one, -one) for one, own in zip(labels, boxes, strict=True)]
        return list(labels) if max(labels) >= 0 else None

    def add(self, image: GreyImage, labels: list[int], boxes: Boxes, whose: str) -> None:
        self.images.append(image)
        self.labels.append(labels)
        self.boxes.append(boxes)
        self.whose.append(whose)

    def taken(self, *, synthetic: bool) -> LabelledImages:
        boxes = tuple(self.boxes) if self.places else ()
        labels, whose = np.asarray(self.labels, np.int64), np.asarray(self.whose, dtype=str)
        return LabelledImages(np.stack(self.images), self.findings, labels, whose, synthetic, boxes)


def read_real(
    store: Store, split: str, findings: tuple[str, ...], side: int, report: Report, *, places: bool
) -> LabelledImages:
    """The split's images with a known label; raises TrainingError if more than a few cannot be read."""
    reader, found, refused = CaseReader(store, side), _Collected(findings, places), list[str]()
    rows = split_rows(store, split)
    for row in rows:
        report(f"reading {split} images", 1, len(rows))
        boxes = tuple(tuple(box.box for box in row.boxes if box.name == name) for name in findings)
        given = [1 if name in row.labels else -1 if name in row.unknown else 0 for name in findings]
        labels = found.wants(given, boxes)
        if labels is None:
            continue
        try:
            found.add(reader.image(row), labels, boxes, row.patient)
        except BadImage as bad:
            refused.append(f"{row.image}: {bad}")
    if not found.images or len(refused) > MOST_REFUSED * (len(refused) + len(found.images)):
        raise TrainingError(
            where=store.uri,
            found=f"{len(refused)} of {len(refused) + len(found.images)} images of split {split!r} refused: "
            f"{'; '.join(refused[:5])}",
            wanted=f"images labelled for {', '.join(findings)}, at most {MOST_REFUSED:.0%} of them faulty",
            hint="correct these images or the manifest",
        )
    return found.taken(synthetic=False)


def read_generated(
    source: Source, findings: tuple[str, ...], side: int, report: Report, *, places: bool
) -> tuple[LabelledImages, dict[str, str]]:
    """The dataset's images with a known label, of all its splits, and what dataset it is.

    Raises DatasetError for one of real images, TrainingError if no label is known.
    """
    check_synthetic(source, "an edited image may be a test patient's")
    found, content = _Collected(findings, places), hashlib.sha256()
    for read in generated_images(source, report):
        meta = read.sample.meta
        boxes = tuple(_boxes_of(meta, name) for name in findings)
        labels = found.wants([_label_of(meta, name) for name in findings], boxes)
        if labels is not None:
            content.update(f"{meta.key} {read.sha256}\n".encode())
            found.add(resized(read.sample.image, side), labels, boxes, str(meta.group))
    if not found.images:
        raise TrainingError(
            where=source.store.uri,
            found=f"no image whose label {' or '.join(findings)} is known",
            wanted="images with the finding and without",
            hint="name another --finding",
        )
    head = {
        "dataset": source.head.name,
        "digest": source.head.digest,
        "images_sha256": content.hexdigest(),
    }
    return found.taken(synthetic=True), head


def apart(training: LabelledImages, test: LabelledImages) -> None:
    """Raises TrainingError if a patient is in both, DatasetError if all or no test images are with a finding."""
    shared = sorted(set(training.patients.tolist()) & set(test.patients.tolist()))
    if shared:
        raise TrainingError(
            found=f"patients both in training and in test images: {', '.join(shared[:5])}",
            wanted="splits by patient",
            hint="name other splits, or correct the manifest",
        )
    test.check_both("the test images", "leave the finding out, or give another --split")


def _label_of(meta: SampleMeta, name: str) -> int:
    label = meta.labels["txrv18" if name in TXRV18 else "chexpert14"][name]
    return -1 if label is None else int(label)


def _boxes_of(meta: SampleMeta, name: str) -> tuple[tuple[float, float, float, float], ...]:
    boxes = [box for finding in meta.findings if finding.name == name for box in finding.boxes]
    return tuple(norm_box(box, meta.image_size) for box in boxes)
