"""Real images of a split with one label each, small, in memory."""

from __future__ import annotations

import numpy as np
from PIL import Image

from xreal_synth.errors import TrainingError
from xreal_synth.evaluation.cases import CaseReader, split_rows
from xreal_synth.evaluation.request import Report
from xreal_synth.evaluation.utility import LabelledImages
from xreal_synth.images.manifest import BadImage
from xreal_synth.storage import Store
from xreal_synth.types import GreyImage

MOST_REFUSED = 0.05


def resized(image: GreyImage, side: int) -> GreyImage:
    """uint8 [H, W] -> [side, side] by Lanczos."""
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def read_labelled(store: Store, split: str, finding: str, side: int, report: Report) -> LabelledImages:
    """The split's images whose label is known; raises TrainingError if more than a few cannot be read."""
    reader = CaseReader(store, side)
    rows = [row for row in split_rows(store, split) if finding not in row.unknown]
    images, used, refused = [], [], []
    for row in rows:
        report(f"reading {split} images", 1, len(rows))
        try:
            images.append(reader.image(row))
            used.append(row)
        except BadImage as bad:
            refused.append(f"{row.image}: {bad}")
    if not images or len(refused) > MOST_REFUSED * len(rows):
        raise TrainingError(
            where=store.uri,
            found=f"{len(refused)} of {len(rows)} images of split {split!r} refused: {'; '.join(refused[:5])}",
            wanted=f"images labelled for {finding}, at most {MOST_REFUSED:.0%} of them faulty",
            hint="correct these images or the manifest",
        )
    return LabelledImages(
        np.stack(images),
        np.asarray([finding in row.labels for row in used]),
        np.asarray([row.patient for row in used]),
        synthetic=False,
    )


def apart(training: LabelledImages, test: LabelledImages) -> None:
    """Raises TrainingError if a patient is in both, or the test images are all with the finding or without."""
    shared = sorted(set(training.patients.tolist()) & set(test.patients.tolist()))
    if shared:
        raise TrainingError(
            found=f"patients both in training and in test images: {', '.join(shared[:5])}",
            wanted="splits by patient",
            hint="name other splits, or correct the manifest",
        )
    if test.positive.all() or not test.positive.any():
        raise TrainingError(
            found=f"{int(test.positive.sum())} of {len(test)} test images show the finding",
            wanted="images with the finding and without",
            hint="give another --finding or another --split",
        )
