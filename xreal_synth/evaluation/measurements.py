"""Images as rows: what the evaluators and other instruments saw of each, whose it is, what it shows, read in a stream.

Images are not kept, but for the last one of each finding: diversity is MS-SSIM between images of one finding and of two
groups (or patients), each compared with the last such image, after which both are let go.

Sharpness is the radial power spectrum in eight rings: ring i holds the spatial frequencies from i/8 to (i+1)/8 of the
highest (half a cycle per pixel). An image is centred and faded out at its borders by a Hann window first.

Shapes: N images, F features, L findings or names (P those of the locator).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from xreal_synth.errors import AnatomyError
from xreal_synth.evaluation.cases import CaseReader, Report
from xreal_synth.evaluation.evaluators import Evaluators
from xreal_synth.evaluation.findings import PEAK_SIDE, Labels, label_table
from xreal_synth.evaluation.inception import InceptionFeatures
from xreal_synth.evaluation.intervals import Array, Bootstrap, Estimate, unknown
from xreal_synth.findings import NO_FINDING, ORGANS, TXRV18
from xreal_synth.images.manifest import BadImage, ImageRow
from xreal_synth.models.networks.finding_classifier import peaks
from xreal_synth.quality.copies import reduced
from xreal_synth.types import GreyImage, Mask

MS_SSIM_SIDE: Final = 176
"""Its 11-pixel window must fit four halvings of the image."""


def dice(asked: npt.NDArray[Any], shown: npt.NDArray[Any], code: int) -> float:
    """2|A n B| / (|A| + |B|) of one organ code; NaN if neither has it. Label maps [H, W]; 0..1."""
    a, b = asked == code, shown == code
    total = int(a.sum()) + int(b.sum())
    return float("nan") if total == 0 else 2.0 * int((a & b).sum()) / total


def organ_dice(asked: Mask, shown: Mask) -> dict[str, float]:
    """Dice of each organ by name. Label maps uint8 [H, W]."""
    return {name: dice(asked, shown, code) for name, code in ORGANS.items()}


def ms_ssim(image: GreyImage, real: GreyImage) -> float:
    """MS-SSIM of two uint8 images [H, W]; NaN below 176 pixels, which lack its five scales."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure

    if min(image.shape) < MS_SSIM_SIDE:
        return float("nan")
    a, b = (torch.from_numpy(grey.astype(np.float32) / 255.0)[None, None] for grey in (image, real))
    return float(measure(a, b, data_range=1.0))


RINGS: Final = 8
UPPER: Final = slice(RINGS // 2, RINGS)
"""The rings of the upper half of the frequencies."""

_TICKS: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.3, 2.0, 3.0, 5.0)


def ring_powers(image: GreyImage) -> Array:
    """Mean power per frequency in each ring [8] of a uint8 image [H, H]."""
    size = image.shape[0]
    ring, kept = _rings(size)
    grey = image.astype(np.float64) / 255.0
    window = np.outer(np.hanning(size), np.hanning(size))
    power = np.abs(np.fft.fftshift(np.fft.fft2((grey - grey.mean()) * window))) ** 2
    return np.bincount(ring[kept], power[kept], RINGS) / ring_sizes(size)


def ring_sizes(size: int) -> Array:
    """How many frequencies each ring has [8] in an image of this side."""
    ring, kept = _rings(size)
    return np.bincount(ring[kept], minlength=RINGS).astype(np.float64)


def upper_power(rings_N8: Array, size: int) -> Array:
    """Mean power per frequency [N] over the upper half of the frequencies."""
    weights = ring_sizes(size)[UPPER]
    return np.asarray(rings_N8[:, UPPER] @ weights / weights.sum())


def draw_spectra(ratios: Mapping[str, Sequence[float]], out: Path) -> None:
    """Power over real images per ring, a line a kind of image, on a logarithmic axis -> PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    picture = Figure(figsize=(6, 3.6), dpi=120, layout="constrained")
    axes = picture.subplots()
    for name, values in ratios.items():
        axes.plot(range(1, RINGS + 1), values, marker="o", label=name)
    axes.axhspan(0.7, 1.3, color="0.9", zorder=0)
    axes.axhline(1.0, color="0.5", linewidth=0.8)
    axes.set(xlabel="eighth of the spatial frequencies, low to high", ylabel="power over real images")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(_TICKS))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(out)


def _rings(size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Each frequency's ring [H, H], and which frequencies lie in any (the corners do not)."""
    axis = np.arange(size) - size // 2
    radius = np.hypot(axis[:, None], axis[None, :])
    ring = (radius * (2 * RINGS / size)).astype(np.int64)
    return ring, ring < RINGS


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
    `positive` and `unknown` are names of NAMES; `paired` is MS-SSIM to its real image, NaN without one; `source` is a
    real image's row, or a made one's KEY where that is asked for.
    """

    image: GreyImage
    mask: Mask | None
    group: str
    positive: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    paired: float = float("nan")
    flagged: bool = False
    source: ImageRow | str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Rows of N images.

    `features` [N, F] and `logits` [N, L] are the evaluator classifier's, `rings` power in rings [N, 8], `reduced` the
    images' 64 x 64 means [N, 4096], `dice` of the evaluator segmenter's organs [N, 4] (NaN where no mask was given),
    `peaks` where the locator's maps have theirs [N, P] (findings.PEAK_SIDE; P is 0 without one), `labels` [N, L] over
    NAMES (1, 0, -1 unknown), `inception` [N, 2048] or [N, 0], `sources` as they were given [N]. `pairs` are of images
    of one finding.
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
    sources: npt.NDArray[np.object_]
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
    reader: CaseReader, rows: Sequence[ImageRow], what: str, report: Report, *, masks: bool = False
) -> Iterator[GivenImage]:
    """A manifest's images that can be read, with their masks or without."""
    for row in rows:
        report(f"looking at {what}", 1, len(rows))
        try:
            pair = reader.read(row) if masks else None
            image = reader.image(row) if pair is None else pair.image
        except (AnatomyError, BadImage):
            continue
        mask = None if pair is None else pair.mask
        yield GivenImage(image, mask, row.patient, frozenset(row.labels), frozenset(row.unknown), source=row)


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
            kept.append((reduced(one.image), ring_powers(one.image), one.group, one.paired, one.flagged, one.source))
            named.append((one.positive, one.unknown))
            if diversity:
                pairs.add(one.image, one.group, sorted(one.positive))
    features, logits, dice, peaks, deep = zip(*seen, strict=True) if seen else ((),) * 5
    small, rings, groups, paired, flagged, sources = zip(*kept, strict=True) if kept else ((),) * 6
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
        sources=np.asarray(sources, object),
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
