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

Shapes: N images, M training images, S = 64, F features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from xreal_synth.errors import TrainingError
from xreal_synth.evaluation.cases import CaseReader, check_apart
from xreal_synth.evaluation.copies import nearest, standardised
from xreal_synth.evaluation.evaluators import Evaluators
from xreal_synth.evaluation.intervals import Estimate, proportion
from xreal_synth.evaluation.request import Report
from xreal_synth.images.manifest import BadImage, ImageRow
from xreal_synth.quality.copies import PERCENTILE
from xreal_synth.types import GreyImage

SIDE: Final = 64
REACH: Final = 4
"""Largest shift, in reduced pixels."""
_ROWS: Final = 512

Small = npt.NDArray[np.float32]
Patients = npt.NDArray[np.str_]


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredSet:
    """Images as the audit keeps them: reduced [N, S, S], features [N, F], and whose they are [N]."""

    small: Small
    features: npt.NDArray[np.float32]
    patients: Patients

    def __len__(self) -> int:
        return len(self.small)


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


def reduced(image: GreyImage) -> Small:
    """uint8 [H, W] -> means of SIDE x SIDE parts."""
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)


def nearest_by_pixels(
    images_NSS: Small, training_MSS: Small, patients: tuple[Patients, Patients] | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
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


def audit_images(
    keys: Sequence[str], made: MeasuredSet, training: MeasuredSet, validation: MeasuredSet
) -> Audit:
    """Every generated image's nearest training image, and what real images of other patients reach.

    `made.patients` are the groups. There must be training images of two patients at least.
    """
    found = {}
    metrics = {}
    for name in ("pixels", "features"):
        metrics[name], apart, which = _audit(name, made, training, validation)
        found[name] = (apart, which)
    ratios = {name: apart / max(metrics[name].threshold, 1e-12) for name, (apart, _) in found.items()}
    nearer = np.where(ratios["pixels"] <= ratios["features"], found["pixels"][1], found["features"][1])
    closeness = np.minimum(ratios["pixels"], ratios["features"])
    pairs = [
        CopyPair(
            key=keys[at],
            training=int(nearer[at]),
            pixels=float(found["pixels"][0][at]),
            features=float(found["features"][0][at]),
            by=tuple(name for name in metrics if found[name][0][at] < metrics[name].threshold),
        )
        for at in np.argsort(closeness, kind="stable")
    ]
    return Audit(len(made), len(training), len(validation), metrics, tuple(pairs))


def _audit(
    name: str, made: MeasuredSet, training: MeasuredSet, validation: MeasuredSet
) -> tuple[MetricAudit, npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    def apart(
        images: MeasuredSet, others: MeasuredSet, *, own: bool = True
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        patients = None if own else (images.patients, others.patients)
        if name == "pixels":
            return nearest_by_pixels(images.small, others.small, patients)
        a, b = (standardised(part.features, training.features) for part in (images, others))
        return nearest(a, b, patients)

    among, _ = apart(training, training, own=False)
    among = among[np.isfinite(among)]
    assert len(among), "training images of two patients at least"
    threshold = float(np.percentile(among, PERCENTILE))
    of_made, which = apart(made, training)
    of_validation, _ = apart(validation, training)
    audit = MetricAudit(
        threshold=threshold,
        made=proportion(int((of_made < threshold).sum()), len(of_made), "exact"),
        validation=proportion(int((of_validation < threshold).sum()), len(of_validation), "exact"),
        median_made=float(np.median(of_made)),
        median_validation=float(np.median(of_validation)) if len(of_validation) else float("nan"),
    )
    return audit, of_made, which


def _windows(images_NSS: Small, top: int, left: int) -> Tensor:
    """A window of each image -> [N, 28 * 28] without mean, of length 1 (0 for a window of one grey)."""
    side = SIDE - 2 * REACH
    window = torch.from_numpy(images_NSS[:, top : top + side, left : left + side])
    flat = functional.avg_pool2d(window, 2).flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    unit: Tensor = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return unit


_BATCH = 8
_SHOWN = 256
_STRIP = 36
_FLAG, _WORDS = (255, 120, 90), (200, 200, 200)


def see(evaluators: Evaluators, images: Iterable[tuple[GreyImage, str]]) -> MeasuredSet:
    """Images of one size with whose they are, read once in a stream. Images uint8 [H, W]."""
    small, features, patients = [], [], []
    stream = iter(images)
    while batch := list(islice(stream, _BATCH)):
        with torch.inference_mode():
            found = evaluators.classifier.features(evaluators.batch([image for image, _ in batch]))
        features.append(found.float().cpu().numpy())
        small += [reduced(image) for image, _ in batch]
        patients += [patient for _, patient in batch]
    width = features[0].shape[1] if features else 0
    return MeasuredSet(
        np.stack(small) if small else np.empty((0, 1, 1), np.float32),
        np.concatenate(features) if features else np.empty((0, width), np.float32),
        np.asarray(patients, dtype=str),
    )


def real_images(
    reader: CaseReader, rows: Sequence[ImageRow], used: list[ImageRow], what: str, report: Report
) -> Iterator[tuple[GreyImage, str]]:
    """The images of a manifest's rows that can be read; `used` gets their rows. Images uint8 [S, S]."""
    for row in rows:
        report(f"looking at {what} images", 1, len(rows))
        try:
            image = reader.image(row)
        except BadImage:
            continue
        used.append(row)
        yield image, row.patient


def check_patients(training: Sequence[ImageRow], validation: Sequence[ImageRow]) -> None:
    """Raises TrainingError without training images of two patients, or where a patient is in both."""
    patients, others = ({row.patient for row in rows} for rows in (training, validation))
    if len(patients) < 2:
        raise TrainingError(
            found=f"usable training images of {len(patients)} patients",
            wanted="images of at least two: the threshold comes from images of different patients",
            hint="see the manifest, or name another --train-split",
        )
    check_apart(
        patients, others, "training and in validation images",
        "validation images of other patients: their rate is what chance reaches",
    )  # fmt: skip


def draw_pairs(
    audit: Audit,
    pairs: Sequence[CopyPair],
    made: dict[str, GreyImage],
    training: Sequence[GreyImage],
    names: Sequence[str],
    out: Path,
    *,
    columns: int = 6,
) -> None:
    """Blocks of two rows: generated images above their nearest training images, distances over thresholds below."""
    cells = [
        _cell(audit, pair, made[pair.key], image, name)
        for pair, image, name in zip(pairs, training, names, strict=True)
    ]
    blank = np.zeros_like(cells[0])
    cells += [blank] * (-len(cells) % columns)
    rows = [np.concatenate(cells[at : at + columns], axis=1) for at in range(0, len(cells), columns)]
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(out)


def _cell(
    audit: Audit, pair: CopyPair, made: GreyImage, training: GreyImage, name: str
) -> npt.NDArray[np.uint8]:
    picture = Image.new("RGB", (_SHOWN + 6, 2 * _SHOWN + 2 * _STRIP + 12))
    draw, face = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for top, image in ((_STRIP // 2, made), (_STRIP + _SHOWN, training)):
        picture.paste(Image.fromarray(image).resize((_SHOWN, _SHOWN), Image.Resampling.LANCZOS), (0, top))
    words = " ".join(
        f"{metric} {getattr(pair, metric):.2f}/{audit.metrics[metric].threshold:.2f}"
        for metric in audit.metrics
    )
    colour = _FLAG if pair.by else _WORDS
    draw.text((2, 0), f"made {pair.key}" + (" COPY?" if pair.by else ""), fill=colour, font=face)
    draw.text((2, _STRIP // 2 + _SHOWN), f"training {name}"[:40], fill=_WORDS, font=face)
    draw.text((2, _STRIP + 2 * _SHOWN + 2), words, fill=colour, font=face)
    return np.asarray(picture)
