"""Agreement of readers: weighted kappa of two, Krippendorff's alpha of several; both over resampled images.

Shapes: F images, R readers, C = 5 ranks, D draws.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from xreal_synth.evaluation.intervals import Array

Statistic = Callable[[Array], Array]


def weighted_kappa(
    first_F: npt.NDArray[np.int64], second_F: npt.NDArray[np.int64], ranks: int = 5
) -> Statistic:
    """Cohen's kappa with quadratic weights of two readers' ranks 1..C; weights [D, F] -> [D].

    1 - sum w O / sum w E with w = (i - j)^2, O how often ranks i and j met, E how often they would by chance. NaN
    where chance cannot disagree (both gave one and the same rank throughout).
    """
    met = np.zeros((len(first_F), ranks, ranks))
    met[np.arange(len(first_F)), first_F - 1, second_F - 1] = 1
    apart = (np.arange(ranks)[:, None] - np.arange(ranks)) ** 2

    def statistic(weights: Array) -> Array:
        observed = np.tensordot(weights, met, axes=1)
        rows, columns = observed.sum(axis=2), observed.sum(axis=1)
        chance = rows[:, :, None] * columns[:, None, :] / observed.sum(axis=(1, 2))[:, None, None]
        return _one_minus((observed * apart).sum(axis=(1, 2)), (chance * apart).sum(axis=(1, 2)))

    return statistic


def ordinal_alpha(ranks_RF: npt.NDArray[np.float64], ranks: int = 5) -> Statistic:
    """Krippendorff's alpha for ordinal data; NaN in `ranks_RF` [R, F] is a missing rank; weights [D, F] -> [D].

    1 - (n - 1) sum o d / sum n n d over pairs of ranks c < k: o are coincidences, each image's pairs divided by its
    ranks less one; n how often each rank stands in a pair; d(c, k) = (n_c / 2 + n_(c+1) + .. + n_k / 2)^2
    (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011). NaN where all ranks are the same.
    """
    given = np.stack([(ranks_RF == rank).sum(axis=0) for rank in range(1, ranks + 1)], axis=1).astype(float)
    count = given.sum(axis=1)
    pairs = given[:, :, None] * given[:, None, :] - given[:, :, None] * np.eye(ranks)
    paired = count > 1
    coincidences = np.where(paired[:, None, None], pairs / np.maximum(count - 1, 1)[:, None, None], 0.0)

    def statistic(weights: Array) -> Array:
        observed = np.tensordot(weights, coincidences, axes=1)
        n = observed.sum(axis=2)
        total = n.sum(axis=1)
        upto = np.cumsum(n, axis=1) - n / 2
        apart = (upto[:, :, None] - upto[:, None, :]) ** 2
        chance = n[:, :, None] * n[:, None, :] * apart
        return _one_minus((total - 1) * (observed * apart).sum(axis=(1, 2)), chance.sum(axis=(1, 2)))

    return statistic


def _one_minus(over: Array, under: Array) -> Array:
    shares = np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)
    return np.asarray(1 - shares)
