"""An audit for copies of training images, moved a little or in another exposure too, among generated images.

Two distances to the nearest training image. `pixels`: the middle 7/8 of the one image is held against every such window
of the other, moved by up to 1/16 of the side either way in steps of 1/64, both reduced to 28 x 28 means, less their
mean and divided by their length: the least distance between such vectors, 0 to 2, is sqrt(2 - 2 r) of the largest
correlation r. `features`: between the evaluator classifier's features, each less its mean over the training images
and divided by its deviation; that network looks at every image less its own mean and divided by its own deviation.

The threshold of a distance is the 0.1st percentile (linear between ranks) of this sample: for every training image
its distance to the nearest training image of another patient, one number an image. A generated image nearer than that
to a training image, by either distance, is listed as a copy. Validation images, whose patients are not in the training
images, are counted the same way: what they reach is chance. Smooth images lie nearer to all images by `pixels`, so an
image that is listed should be looked at.

`evaluate bundle` counts copies of its own images in the same way, by thumbnails and by features (`count_copies`).

Shapes: N images, M training images, S = THUMB = 64, F features, K numbers of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from xreal_synth.dataset.source import Source
from xreal_synth.errors import TrainingError
from xreal_synth.evaluation.cases import CaseReader, Report, check_apart, split_rows
from xreal_synth.evaluation.dataset_images import generated_images, open_real
from xreal_synth.evaluation.evaluators import Evaluators
from xreal_synth.evaluation.intervals import Array, Bootstrap, Estimate, proportion
from xreal_synth.evaluation.measurements import GivenImage, ImageSet, measure, real_images
from xreal_synth.evaluation.set_distances import distances
from xreal_synth.images.manifest import ImageRow
from xreal_synth.quality.copies import PERCENTILE, THUMB, Vectors

REACH: Final = 4
"""Largest shift, in reduced pixels."""
_ROWS: Final = 512

Patients = npt.NDArray[np.str_]
Owners = tuple[Patients, Patients] | None
"""Whose the images and the training images are, where those of the same patient do not count."""
Nearest = tuple[Array, npt.NDArray[np.int64]]
"""Each image's distance to its nearest training image [N], and which that is [N]."""


@dataclass(frozen=True, slots=True)
class CopyFigures:
    """In one metric: the threshold, the share of images below it, the distances' medians.

    `flagged` names generated images that fall below it, each with its nearest training image.
    """

    threshold: float
    made: Estimate
    real: Estimate
    median_made: float
    median_real: float
    flagged: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class MetricAudit:
    """One distance: its threshold, and the share of made and of validation images below it.

    The shares have exact 95% binomial intervals, images counted as independent of one another.
    """

    threshold: float
    made: Estimate
    validation: Estimate
    median_made: float
    median_validation: float


@dataclass(frozen=True, slots=True)
class CopyPair:
    """A generated image and its nearest training image, by the distance in which it is nearer (for its threshold).

    `training` is a row among the training images; `pixels` and `features` are the image's least distances, whichever
    training image has them; `by` names those below their threshold.
    """

    key: str
    training: int
    pixels: float
    features: float
    by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """`pairs` has every generated image's nearest training image, the closest first."""

    images: int
    training_images: int
    validation_images: int
    metrics: dict[str, MetricAudit]
    pairs: tuple[CopyPair, ...]

    @property
    def copies(self) -> tuple[CopyPair, ...]:
        """The images nearer to a training image than the threshold, by pixels or by features."""
        return tuple(pair for pair in self.pairs if pair.by)


@dataclass(frozen=True, slots=True, eq=False)
class _NearestOriginal:
    """Distances to the nearest training image: of made images, with which it is, and of real ones; the threshold."""

    threshold: float
    made: Array
    which: npt.NDArray[np.int64]
    real: Array


def _compared(
    nearest_of: Callable[[Vectors, Vectors, Owners], Nearest], sets: Sequence[Vectors], patients: Patients
) -> _NearestOriginal:
    """`sets` are the made images, the real ones and the training images, whose patients `patients` are."""
    made, real, training = sets
    among, _ = nearest_of(training, training, (patients, patients))
    among = among[np.isfinite(among)]
    threshold = float(np.percentile(among, PERCENTILE)) if len(among) else float("nan")
    return _NearestOriginal(threshold, *nearest_of(made, training, None), nearest_of(real, training, None)[0])


def count_copies(
    names: Sequence[str], made: ImageSet, real: ImageSet, training: ImageSet, bootstrap: Bootstrap
) -> dict[str, CopyFigures]:
    """By pixels (thumbnails) and by features, shares of the made and of the real images that are copies.

    `names` are the made images'; of the training images the rows are known.
    """
    sets, figures = (made, real, training), {}
    vectors = {
        "pixels": [one.thumbnails() for one in sets],
        "features": [standardised(one.features, training.features) for one in sets],
    }
    for metric, own in vectors.items():
        found = _compared(nearest, own, training.groups)
        copies = np.flatnonzero(found.made < found.threshold).tolist()
        figures[metric] = CopyFigures(
            threshold=found.threshold,
            made=bootstrap.mean(found.made < found.threshold),
            real=bootstrap.mean(found.real < found.threshold),
            median_made=float(np.median(found.made)),
            median_real=float(np.median(found.real)),
            flagged=tuple((names[at], training.sources[found.which[at]].image) for at in copies),
        )
    return figures


def audit_images(keys: Sequence[str], made: ImageSet, training: ImageSet, validation: ImageSet) -> Audit:
    """Every generated image's nearest training image, and what real images of other patients reach.

    There must be training images of two patients at least.
    """
    sets, own = (made, validation, training), training.groups
    pixels = _compared(
        nearest_by_pixels, [one.reduced.reshape(-1, THUMB, THUMB).astype(np.float32) for one in sets], own
    )
    vectors = [standardised(one.features, training.features) for one in sets]
    found = {"pixels": pixels, "features": _compared(nearest, vectors, own)}
    metrics = {}
    for name, one in found.items():
        share, chance = (
            proportion(int((apart < one.threshold).sum()), len(apart), "exact") for apart in (one.made, one.real)
        )
        median, usual = (float(np.median(apart)) if len(apart) else float("nan") for apart in (one.made, one.real))
        metrics[name] = MetricAudit(one.threshold, share, chance, median, usual)
    ratios = np.stack([one.made / max(one.threshold, 1e-12) for one in found.values()])
    which = np.stack([one.which for one in found.values()])
    pairs = [
        CopyPair(
            key=keys[at],
            training=int(which[ratios[:, at].argmin(), at]),
            pixels=float(found["pixels"].made[at]),
            features=float(found["features"].made[at]),
            by=tuple(name for name, one in found.items() if one.made[at] < one.threshold),
        )
        for at in np.argsort(ratios.min(axis=0), kind="stable")
    ]
    return Audit(len(made), len(training), len(validation), metrics, tuple(pairs))


def nearest_by_pixels(images_NSS: Vectors, training_MSS: Vectors, patients: Owners = None) -> Nearest:
    """Least distance to a training image [N] and which it is [N], over all shifts.

    With `patients` of images and training images, those of the image's own patient are left out (infinite where all
    are).
    """
    middle = _windows(images_NSS, REACH, REACH)
    best = torch.full((len(images_NSS),), -torch.inf)
    which = torch.zeros(len(images_NSS), dtype=torch.long)
    for top in range(2 * REACH + 1):
        for left in range(2 * REACH + 1):
            window = _windows(training_MSS, top, left)
            for start in range(0, len(middle), _ROWS):
                rows = slice(start, start + _ROWS)
                likeness = middle[rows] @ window.T
                if patients is not None:
                    own = patients[0][rows, None] == patients[1][None]
                    likeness[torch.from_numpy(own)] = -torch.inf
                found = likeness.max(dim=1)
                better = found.values > best[rows]
                best[rows] = torch.where(better, found.values, best[rows])
                which[rows] = torch.where(better, found.indices, which[rows])
    apart = (2 - 2 * best.double()).clamp_min(0).sqrt()
    return apart.numpy(), which.numpy()


def _windows(images_NSS: Vectors, top: int, left: int) -> Tensor:
    """A window of each image -> [N, 28 * 28] without mean, of length 1 (0 for a window of one grey)."""
    side = THUMB - 2 * REACH
    window = torch.from_numpy(images_NSS[:, top : top + side, left : left + side])
    flat = functional.avg_pool2d(window, 2).flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    unit: Tensor = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return unit


def nearest(images_NK: Vectors, training_MK: Vectors, patients: Owners = None) -> Nearest:
    """By distance; with `patients` of images and training images, those of the image's own patient are left out."""
    found, which = np.empty(len(images_NK)), np.empty(len(images_NK), np.int64)
    for rows, apart in distances(images_NK, training_MK, patients):
        least = apart.min(dim=1)
        found[rows], which[rows] = least.values.numpy(), least.indices.numpy()
    return found, which


def standardised(features_NF: Vectors, like_MF: Vectors) -> Vectors:
    """Features by the mean and deviation of others, so that each counts alike in a distance."""
    return np.asarray((features_NF - like_MF.mean(0)) / (like_MF.std(0) + 1e-6), np.float32)


def audit_dataset(
    source: Source, evaluators: Evaluators, train: tuple[str, str], real: tuple[str, str], report: Report
) -> tuple[Audit, CaseReader, list[ImageRow]]:
    """The audit of a dataset's images, and the training images: what reads them, and their rows.

    `train` and `real` are manifests and splits. Raises TrainingError without training images of two patients or a
    validation image, or where a patient is in both.
    """
    sizes = set[int]()

    def own() -> Iterator[GivenImage]:
        for read in generated_images(source, report):
            sizes.add(len(read.sample.image))
            meta = read.sample.meta
            yield GivenImage(read.sample.image, None, str(meta.group), source=meta.key)

    made, found = measure(evaluators, own()), []
    for (manifest, split), what in ((train, "training images"), (real, "validation images")):
        store = open_real(manifest)
        reader = CaseReader(store, max(sizes))
        found.append((reader, measure(evaluators, real_images(reader, split_rows(store, split), what, report))))
    (reader, training), (_, validation) = found
    if len(set(training.groups)) < 2:
        raise TrainingError(
            found=f"usable training images of {len(set(training.groups))} patients",
            wanted="images of at least two: the threshold comes from images of different patients",
            hint="see the manifest, or name another --train-split",
        )
    if not len(validation.groups):
        raise TrainingError(
            found="no usable validation image: their rate is what chance reaches",
            wanted="images of other patients that can be read",
            hint="see the images of the split, or name another --split",
        )
    check_apart(
        training.groups.tolist(), validation.groups.tolist(), "training and in validation images",
        "validation images of other patients: their rate is what chance reaches",
    )  # fmt: skip
    return audit_images(made.sources.tolist(), made, training, validation), reader, training.sources.tolist()
