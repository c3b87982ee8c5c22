"""Are generated images copies of training images? Distances to the nearest one, beside those of real images.

An image is called a copy when its nearest training image is nearer than the 0.1st percentile of what training
images have between them and their nearest neighbour of another patient. Real images of other patients are
counted the same way: what they reach by chance is the measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from xreal_synth.evaluation.intervals import Bootstrap, Estimate
from xreal_synth.quality.copies import PERCENTILE, Vectors

_ROWS: Final = 256


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


def nearest(
    images_NK: Vectors,
    training_MK: Vectors,
    patients: tuple[npt.NDArray[np.str_], npt.NDArray[np.str_]] | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Distance to the nearest training image [N] and which it is [N].

    With `patients` of images and training images, those of the image's own patient are left out.
    """
    training = torch.from_numpy(training_MK).double()
    found, which = np.empty(len(images_NK)), np.empty(len(images_NK), np.int64)
    for start in range(0, len(images_NK), _ROWS):
        rows = slice(start, start + _ROWS)
        apart = torch.cdist(
            torch.from_numpy(images_NK[rows]).double(), training, compute_mode="donot_use_mm_for_euclid_dist"
        )
        if patients is not None:
            apart[torch.from_numpy(patients[0][rows, None] == patients[1][None])] = torch.inf
        least = apart.min(dim=1)
        found[rows], which[rows] = least.values.numpy(), least.indices.numpy()
    return found, which


def count_copies(
    made_NK: Vectors,
    real_NK: Vectors,
    training_MK: Vectors,
    training_patients: npt.NDArray[np.str_],
    bootstrap: Bootstrap,
    names: tuple[tuple[str, ...], tuple[str, ...]],
) -> CopyFigures:
    """Shares of the made and of the real images that are copies; `names` are of the images and training images."""
    apart, _ = nearest(training_MK, training_MK, (training_patients, training_patients))
    apart = apart[np.isfinite(apart)]
    threshold = float(np.percentile(apart, PERCENTILE)) if len(apart) else float("nan")
    made, which = nearest(made_NK, training_MK)
    real, _ = nearest(real_NK, training_MK)
    flagged = np.flatnonzero(made < threshold)
    return CopyFigures(
        threshold=threshold,
        made=bootstrap.mean((made < threshold).astype(float)),
        real=bootstrap.mean((real < threshold).astype(float)),
        median_made=float(np.median(made)),
        median_real=float(np.median(real)),
        flagged=tuple((names[0][at], names[1][which[at]]) for at in flagged),
    )


def standardised(features_NF: Vectors, like_MF: Vectors) -> Vectors:
    """Features by the mean and deviation of others, so that each counts alike in a distance."""
    return np.asarray((features_NF - like_MF.mean(0)) / (like_MF.std(0) + 1e-6), np.float32)
