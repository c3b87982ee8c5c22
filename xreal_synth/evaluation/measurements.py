"""Images as rows: what the evaluators and other instruments saw of each, whose it is, what it shows, read in a stream.

Images are not kept, but for the last one of each finding: diversity is MS-SSIM between images of one finding and of two
groups (or patients), each compared with the last such image, after which both are let go.

Shapes: N images, F features, L findings or names (P those of the locator), K pixels of a thumbnail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from xreal_synth.evaluation.evaluators import Evaluators
from xreal_synth.evaluation.fidelity import ms_ssim, organ_dice, ring_powers
from xreal_synth.evaluation.findings import PEAK_SIDE, Labels, label_table
from xreal_synth.evaluation.inception import InceptionFeatures
from xreal_synth.evaluation.intervals import Array, Bootstrap, Estimate, unknown
from xreal_synth.findings import NO_FINDING, ORGANS, TXRV18
from xreal_synth.models.networks.finding_classifier import peaks
from xreal_synth.quality.copies import thumbnail
from xreal_synth.types import GreyImage, Mask

ALL: Final = ""
"""The pairs of any two images."""

MOST_PAIRS: Final = 100
"""A finding; beyond it the interval is narrow enough."""


class ImagePairs:
    """Takes images one by one and keeps MS-SSIM of pairs by finding."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[str, GreyImage]] = {}
        self._scores: dict[str, list[tuple[str, float]]] = {}

    def add(self, image: GreyImage, group: str, findings: Iterable[str]) -> None:
        """An image of `group` that shows `findings`; it is paired within each, and among all images. uint8 [H, W]."""
        for name in (ALL, *findings):
            scores = self._scores.setdefault(name, [])
            if len(scores) >= MOST_PAIRS:
                continue
            former = self._waiting.get(name)
            if former is None or former[0] == group:
                self._waiting.setdefault(name, (group, image))
                continue
            scores.append((group, ms_ssim([image], [former[1]])[0]))
            del self._waiting[name]

    def figure(self, finding: str = ALL) -> Estimate:
        """Mean MS-SSIM of the finding's pairs, `n` of them; lower is more diverse."""
        scores = self._scores.get(finding, [])
        if not scores:
            return unknown()
        return Bootstrap([group for group, _ in scores]).mean(np.array([score for _, score in scores]))


_BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Measurements:
    """Rows of N images: features [N, F] and logits [N, L] of the evaluator classifier, power in rings [N, 8],
    thumbnails [N, K], Dice of the evaluator segmenter's organs [N, 4] (NaN where no mask was given), and where the
    locator's maps have their peaks [N, P] (findings.PEAK_SIDE; P is 0 without one)."""

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
    stream = iter(images)
    while batch := list(islice(stream, _BATCH)):
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


NAMES: Final = (*TXRV18, NO_FINDING)


@dataclass(frozen=True, slots=True, eq=False)
class GivenImage:
    """An image on its way to the evaluators.

    `mask` is what it was made from or is outlined by, None where there is none. `group` says which images are
    resampled together: the patient of a real image, of a made one its group, or whose mask or image it came from.
    `positive` and `unknown` are names of NAMES; `paired` is MS-SSIM to its real image, NaN without one.
    """

    image: GreyImage
    mask: Mask | None
    group: str
    positive: frozenset[str]
    unknown: frozenset[str]
    paired: float = float("nan")
    flagged: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """N images: `labels` [N, L] over NAMES (1, 0, -1 unknown), `paired` [N], `flagged` [N], `inception`
    [N, 2048] or [N, 0]; `pairs` are of images of one finding."""

    measurements: Measurements
    groups: npt.NDArray[np.str_]
    labels: Labels
    paired: Array
    flagged: npt.NDArray[np.bool_]
    inception: npt.NDArray[np.float32]
    pairs: ImagePairs

    def __len__(self) -> int:
        return len(self.groups)

    def rows(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> ImageSet:
        """Some of the images; the pairs stay those of all."""
        return ImageSet(
            self.measurements.rows(chosen), self.groups[chosen], self.labels[chosen], self.paired[chosen],
            self.flagged[chosen], self.inception[chosen], self.pairs,
        )  # fmt: skip

    def showing(self, finding: str) -> ImageSet:
        """The images whose label for it is 1."""
        return self.rows(self.label(finding) == 1)

    def label(self, finding: str) -> Labels:
        """[N] of 1, 0, -1."""
        return np.asarray(self.labels[:, NAMES.index(finding)])

    def bootstrap(self) -> Bootstrap:
        """Draws of the images with replacement, whole groups at once."""
        return Bootstrap(list(self.groups))

    def at_most(self, images: int, seed: int) -> ImageSet:
        """Whole groups in a random order until so many images are reached; all images if there are no more."""
        if len(self) <= images:
            return self
        names, of_image = np.unique(self.groups, return_inverse=True)
        place = np.argsort(np.random.default_rng(seed).permutation(len(names)))[of_image]
        return self.rows(np.sort(np.argsort(place, kind="stable")[:images]))


@dataclass(slots=True)
class _KeptRows:
    """What is kept of each image beside the evaluators' measurements."""

    inception: InceptionFeatures | None
    diversity: bool
    pairs: ImagePairs = field(default_factory=ImagePairs)
    groups: list[str] = field(default_factory=list)
    named: list[tuple[frozenset[str], frozenset[str]]] = field(default_factory=list)
    paired: list[float] = field(default_factory=list)
    flagged: list[bool] = field(default_factory=list)

    def passing(self, images: Iterable[GivenImage]) -> Iterator[tuple[GreyImage, Mask | None]]:
        for seen in images:
            self.groups.append(seen.group)
            self.named.append((seen.positive, seen.unknown))
            self.paired.append(seen.paired)
            self.flagged.append(seen.flagged)
            if self.inception is not None:
                self.inception.add(seen.image)
            if self.diversity:
                self.pairs.add(seen.image, seen.group, sorted(seen.positive))
            yield seen.image, seen.mask


def measure_set(
    evaluators: Evaluators,
    images: Iterable[GivenImage],
    *,
    inception: InceptionFeatures | None = None,
    diversity: bool = True,
    on_image: Callable[[int], None] = lambda images: None,
) -> ImageSet:
    """Looks at every image once, in a stream; with `diversity` also at pairs of images of one finding."""
    kept = _KeptRows(inception, diversity)
    measurements = measure(evaluators, kept.passing(images), on_image, thumbs=False)
    count = len(kept.groups)
    return ImageSet(
        measurements=measurements,
        groups=np.asarray(kept.groups, dtype=str),
        labels=label_table(kept.named, NAMES),
        paired=np.asarray(kept.paired, np.float64),
        flagged=np.asarray(kept.flagged, bool),
        inception=np.empty((count, 0), np.float32) if inception is None else inception.take(),
        pairs=kept.pairs,
    )
