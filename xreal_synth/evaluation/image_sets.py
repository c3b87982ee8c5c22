"""Sets of images as rows: what the evaluators saw of each image, whose it is, what it shows. Images are not kept.

Shapes: N images, L names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from xreal_synth.evaluation.diversity import ImagePairs
from xreal_synth.evaluation.evaluators import Evaluators
from xreal_synth.evaluation.findings import Labels
from xreal_synth.evaluation.inception import InceptionFeatures
from xreal_synth.evaluation.intervals import Array, Bootstrap
from xreal_synth.evaluation.measurements import Measurements, measure
from xreal_synth.findings import NO_FINDING, TXRV18
from xreal_synth.types import GreyImage, Mask

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
    labels: list[list[int]] = field(default_factory=list)
    paired: list[float] = field(default_factory=list)
    flagged: list[bool] = field(default_factory=list)

    def passing(self, images: Iterable[GivenImage]) -> Iterator[tuple[GreyImage, Mask | None]]:
        for seen in images:
            self.groups.append(seen.group)
            self.labels.append([1 if n in seen.positive else -1 if n in seen.unknown else 0 for n in NAMES])
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
        labels=np.asarray(kept.labels, np.int64).reshape(count, len(NAMES)),
        paired=np.asarray(kept.paired, np.float64),
        flagged=np.asarray(kept.flagged, bool),
        inception=np.empty((count, 0), np.float32) if inception is None else inception.take(),
        pairs=kept.pairs,
    )
