"""Images as rows: what the evaluators and other instruments saw of each, whose it is, what it shows, read in a stream.

Images are not kept, but for the last one of each finding: diversity is MS-SSIM between images of one finding and of two
groups (or patients), each compared with the last such image, after which both are let go.

Shapes: N images, F features, L findings or names (P those of the locator).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from xreal_synth.errors import AnatomyError
from xreal_synth.evaluation.cases import CaseReader, Report
from xreal_synth.evaluation.evaluators import Evaluators
from xreal_synth.evaluation.fidelity import ms_ssim, organ_dice, ring_powers
from xreal_synth.evaluation.findings import PEAK_SIDE, Labels, label_table
from xreal_synth.evaluation.inception import InceptionFeatures
from xreal_synth.evaluation.intervals import Array, Bootstrap, Estimate, unknown
from xreal_synth.findings import NO_FINDING, ORGANS, TXRV18
from xreal_synth.images.manifest import BadImage, ImageRow
from xreal_synth.models.networks.finding_classifier import peaks
from xreal_synth.quality.copies import reduced
from xreal_synth.types import GreyImage, Mask

NAMES: Final = (*TXRV18, NO_FINDING)

ALL: Final = ""
"""The pairs of any two images."""

_BATCH: Final = 8
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
            scores.append((group, ms_ssim(image, former[1])))
            del self._waiting[name]

    def figure(self, finding: str = ALL) -> Estimate:
        """Mean MS-SSIM of the finding's pairs, `n` of them; lower is more diverse."""
        scores = self._scores.get(finding, [])
        if not scores:
            return unknown()
        return Bootstrap([group for group, _ in scores]).mean(np.array([score for _, score in scores]))


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
    positive: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    paired: float = float("nan")
    flagged: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Rows of N images.

    `features` [N, F] and `logits` [N, L] are the evaluator classifier's, `rings` power in rings [N, 8], `reduced` the
    images' 64 x 64 means [N, 4096], `dice` of the evaluator segmenter's organs [N, 4] (NaN where no mask was given),
    `peaks` where the locator's maps have theirs [N, P] (findings.PEAK_SIDE; P is 0 without one), `labels` [N, L] over
    NAMES (1, 0, -1 unknown), `inception` [N, 2048] or [N, 0]. `pairs` are of images of one finding.
    """

    features: npt.NDArray[np.float32]
    logits: Array
    rings: Array
    reduced: npt.NDArray[np.uint8]
    dice: Array
    peaks: npt.NDArray[np.int64]
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
        columns = [part.name for part in fields(self) if part.name != "pairs"]
        return replace(self, **{name: getattr(self, name)[chosen] for name in columns})

    def showing(self, finding: str) -> ImageSet:
        """The images whose label for it is 1."""
        return self.rows(self.label(finding) == 1)

    def label(self, finding: str) -> Labels:
        """[N] of 1, 0, -1."""
        return np.asarray(self.labels[:, NAMES.index(finding)])

    def thumbnails(self) -> npt.NDArray[np.float32]:
        """The reduced images without their means [N, 4096]."""
        grey = self.reduced.astype(np.float32)
        return np.asarray(grey - grey.mean(axis=1, keepdims=True))

    def bootstrap(self) -> Bootstrap:
        """Draws of the images with replacement, whole groups at once."""
        return Bootstrap(list(self.groups))

    def at_most(self, images: int) -> ImageSet:
        """Whole groups in a random order until so many images are reached; all images if there are no more."""
        if len(self) <= images:
            return self
        names, of_image = np.unique(self.groups, return_inverse=True)
        place = np.argsort(np.random.default_rng(0).permutation(len(names)))[of_image]
        return self.rows(np.sort(np.argsort(place, kind="stable")[:images]))


def real_images(
    reader: CaseReader,
    rows: Sequence[ImageRow],
    used: list[ImageRow],
    what: str,
    report: Report,
    *,
    masks: bool = False,
) -> Iterator[GivenImage]:
    """A manifest's images that can be read, with their masks or without; `used` gets their rows."""
    for row in rows:
        report(f"looking at {what}", 1, len(rows))
        try:
            pair = reader.read(row) if masks else None
            image = reader.image(row) if pair is None else pair.image
        except (AnatomyError, BadImage):
            continue
        used.append(row)
        mask = None if pair is None else pair.mask
        yield GivenImage(image, mask, row.patient, frozenset(row.labels), frozenset(row.unknown))


def measure(
    evaluators: Evaluators,
    images: Iterable[GivenImage],
    *,
    places: bool = False,
    diversity: bool = False,
    inception: InceptionFeatures | None = None,
) -> ImageSet:
    """Looks at every image once, in a stream; images are of one size.

    With `places` the locator is asked, with `diversity` pairs of images of one finding are compared.
    """
    seen, kept, named, pairs, stream = list[Any](), list[Any](), list[Any](), ImagePairs(), iter(images)
    while batch := list(islice(stream, _BATCH)):
        seen += _measure_batch(evaluators, batch, evaluators.locator if places else None, inception)
        for one in batch:
            kept.append((reduced(one.image), ring_powers(one.image), one.group, one.paired, one.flagged))
            named.append((one.positive, one.unknown))
            if diversity:
                pairs.add(one.image, one.group, sorted(one.positive))
    features, logits, dice, peaks, deep = zip(*seen, strict=True) if seen else ((),) * 5
    small, rings, groups, paired, flagged = zip(*kept, strict=True) if kept else ((),) * 5
    return ImageSet(
        features=_table(features, np.float32),
        logits=_table(logits, np.float64),
        rings=_table(rings, np.float64),
        reduced=_table(small, np.uint8),
        dice=_table(dice, np.float64),
        peaks=_table(peaks, np.int64),
        groups=np.asarray(groups, dtype=str),
        labels=label_table(named, NAMES),
        paired=np.asarray(paired, np.float64),
        flagged=np.asarray(flagged, bool),
        inception=_table(deep, np.float32),
        pairs=pairs,
    )


def _table(rows: Sequence[Any], kind: type) -> Any:
    return np.stack(rows).astype(kind) if rows else np.empty((0, 0), kind)


@torch.inference_mode()
def _measure_batch(
    evaluators: Evaluators, batch: Sequence[GivenImage], locator: Any | None, inception: InceptionFeatures | None
) -> list[tuple[Array, ...]]:
    """Features, logits, Dice, peaks, and Inception's features of each image."""
    images = [one.image for one in batch]
    x = evaluators.batch(images)
    features = evaluators.classifier.features(x)
    logits = evaluators.classifier.logits_of(features)
    none = np.empty((len(batch), 0))
    highest = none if locator is None else peaks(locator.maps(x), PEAK_SIDE).cpu().numpy()
    deep = none if inception is None else inception.of(images)
    dice = np.full((len(batch), len(ORGANS)), np.nan)
    if any(one.mask is not None for one in batch):
        for row, (one, shown) in enumerate(zip(batch, evaluators.segmenter.segment(x).cpu().numpy(), strict=True)):
            if one.mask is not None:
                dice[row] = list(organ_dice(one.mask, shown).values())
    parts = features.double().cpu().numpy(), logits.double().cpu().numpy(), dice, highest, deep
    return list(zip(*parts, strict=True))
