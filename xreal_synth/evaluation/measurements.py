"""Measurements of each image by the evaluators and other instruments, kept as rows: images are read once, in a stream.

Shapes: N images, F features, L findings (P those of the locator), K pixels of a thumbnail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xreal_synth.evaluation.copies import thumbnail
from xreal_synth.evaluation.evaluators import Evaluators
from xreal_synth.evaluation.fidelity import organ_dice
from xreal_synth.evaluation.places import PEAK_SIDE
from xreal_synth.evaluation.spectrum import ring_powers
from xreal_synth.findings import ORGANS
from xreal_synth.models.networks.finding_classifier import peaks
from xreal_synth.types import GreyImage, Mask

_BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Measurements:
    """Rows of N images: features [N, F] and logits [N, L] of the evaluator classifier, power in rings [N, 8],
    thumbnails [N, K], Dice of the evaluator segmenter's organs [N, 4] (NaN where no mask was given), and where the
    locator's maps have their peaks [N, P] (places.PEAK_SIDE; P is 0 without one)."""

    features: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float64]
    rings: npt.NDArray[np.float64]
    thumbs: npt.NDArray[np.float32]
    dice: npt.NDArray[np.float64]
    peaks: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Measurements:
        """Some of the images."""
        return Measurements(*(getattr(self, part.name)[chosen] for part in fields(self)))


def measure(
    evaluators: Evaluators,
    images: Iterable[tuple[GreyImage, Mask | None]],
    on_image: Callable[[int], None] = lambda images: None,
    *,
    thumbs: bool = True,
    places: bool = False,
) -> Measurements:
    """Looks at each image, with the mask that it was made from or is outlined by; images are of one size.

    Without `thumbs` no thumbnails are kept (K is 0), without `places` the locator is not asked (P is 0).
    """
    found: list[tuple[npt.NDArray[np.float64], ...]] = []
    locator = evaluators.locator if places else None
    for batch in _batches(images):
        found.extend(_measure_batch(evaluators, batch, thumbs, locator))
        on_image(len(batch))
    kinds = (np.float32, np.float64, np.float64, np.float32, np.float64, np.int64)
    if not found:
        return Measurements(*(np.empty((0, 0), kind) for kind in kinds))
    parts = zip(zip(*found, strict=True), kinds, strict=True)
    return Measurements(*(np.stack(part).astype(kind) for part, kind in parts))


@torch.inference_mode()
def _measure_batch(
    evaluators: Evaluators, batch: list[tuple[GreyImage, Mask | None]], thumbs: bool, locator: Any | None
) -> Iterator[tuple[npt.NDArray[np.float64], ...]]:
    """Features, logits, rings, thumbnail, Dice and peaks of each image."""
    x = evaluators.batch([image for image, _ in batch])
    features = evaluators.classifier.features(x)
    logits = evaluators.classifier.logits_of(features).double().cpu().numpy()
    highest = np.empty((len(batch), 0))
    if locator is not None:
        highest = peaks(locator.maps(x), PEAK_SIDE).double().cpu().numpy()
    shown = None
    if any(mask is not None for _, mask in batch):
        shown = evaluators.segmenter.segment(x).cpu().numpy()
    for row, (image, mask) in enumerate(batch):
        dice = [float("nan")] * len(ORGANS)
        if mask is not None and shown is not None:
            dice = list(organ_dice(mask, shown[row]).values())
        yield (
            features[row].double().cpu().numpy(),
            logits[row],
            ring_powers(image),
            thumbnail(image).astype(np.float64) if thumbs else np.empty(0),
            np.asarray(dice),
            highest[row],
        )


def _batches(
    images: Iterable[tuple[GreyImage, Mask | None]],
) -> Iterator[list[tuple[GreyImage, Mask | None]]]:
    stream = iter(images)
    while batch := list(islice(stream, _BATCH)):
        yield batch
