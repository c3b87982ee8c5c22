"""Distances between two sets of images in a network's features, with intervals by leaving groups of images out.

Equal to torchmetrics' Frechet and kernel distances (a test holds them to it), but cheap enough to be computed
without each group of images, and for sets of different sizes. Shapes: N and M images, F features, G groups.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from xreal_synth.evaluation.intervals import Array, Bootstrap, Estimate, jackknifed, unknown

_ROWS: Final = 1024

Features = npt.NDArray[np.float32]


def frechet(a_NF: npt.NDArray[np.floating], b_MF: npt.NDArray[np.floating]) -> float:
    """Between Gaussians with the sets' means and covariances: |m - n|^2 + tr(S + T - 2 (S T)^(1/2)).

    With S = A'A and T = B'B the last trace is the sum of the singular values of A B', which has at most as
    many rows and columns as there are images or features.
    """
    m, n = (np.asarray(x, np.float64).mean(axis=0) for x in (a_NF, b_MF))
    a, b = _root(a_NF), _root(b_MF)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(((m - n) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * cross)


def frechet_figure(a_NF: Features, b_MF: Features, groups: Bootstrap) -> Estimate:
    """The distance of a's images to b's, with a jackknife interval over a's groups; unknown below two images."""
    if min(len(a_NF), len(b_MF)) < 2:
        return unknown(len(a_NF))
    group = groups.left_out()
    if min(int((group != number).sum()) for number in np.unique(group)) < 2:
        return Estimate(frechet(a_NF, b_MF), float("nan"), float("nan"), len(a_NF))
    return groups.jackknife(lambda kept: frechet(a_NF[kept], b_MF))


def kernel_figure(a_NF: Features, b_MF: Features, groups: Bootstrap) -> Estimate:
    """KID's estimator (unbiased, kernel (x.y / F + 1)^3) over all images of both sets, whatever their numbers.

    The interval is a jackknife's over a's groups; unknown below two images.
    """
    if min(len(a_NF), len(b_MF)) < 2:
        return unknown(len(a_NF))
    a, b = (np.asarray(x, np.float64) for x in (a_NF, b_MF))
    group = groups.left_out()
    member_NG = np.eye(int(group.max()) + 1)[group]
    pairs_GG = _sums(a, a, member_NG, member_NG)
    own_G = member_NG.T @ _kernel_of_each(a)
    across_G = _sums(a, b, member_NG, np.ones((len(b), 1)))[:, 0]
    count_G = member_NG.sum(axis=0)
    within = (_sums(b, b, np.ones((len(b), 1)), np.ones((len(b), 1)))[0, 0] - _kernel_of_each(b).sum()) / (
        len(b) * (len(b) - 1)
    )

    def distance(kept: npt.NDArray[np.bool_]) -> float:
        n = count_G[kept].sum()
        inside = (pairs_GG[np.ix_(kept, kept)].sum() - own_G[kept].sum()) / (n * (n - 1))
        return float(inside + within - 2 * across_G[kept].sum() / (n * len(b)))

    number = np.arange(len(count_G))
    value = distance(number >= 0)
    if len(number) < 3 or (len(a) - count_G).min() < 2:
        return Estimate(value, float("nan"), float("nan"), len(a))
    return jackknifed(value, [distance(number != left) for left in number], len(a))


def kernel(a_NF: Features, b_MF: Features) -> float:
    """`kernel_figure`'s value alone."""
    return kernel_figure(a_NF, b_MF, Bootstrap([str(at) for at in range(len(a_NF))], draws=1)).value


def _root(x_NF: npt.NDArray[np.floating]) -> Array:
    """A matrix A with A'A the covariance, of at most F rows."""
    x = np.asarray(x_NF, np.float64)
    x = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return np.asarray(np.linalg.qr(x, mode="r")) if len(x) > x.shape[1] else x


def _kernel_of_each(x_NF: Array) -> Array:
    """Each image's kernel with itself [N]."""
    return np.asarray(((x_NF**2).sum(axis=1) / x_NF.shape[1] + 1) ** 3)


def _sums(x_NF: Array, y_MF: Array, x_NG: Array, y_MH: Array) -> Array:
    """Sums of the kernel over pairs by the groups of both images [G, H], some rows at a time."""
    total = np.zeros((x_NG.shape[1], y_MH.shape[1]))
    for start in range(0, len(x_NF), _ROWS):
        rows = slice(start, start + _ROWS)
        kernel_NM = (x_NF[rows] @ y_MF.T / x_NF.shape[1] + 1) ** 3
        total += x_NG[rows].T @ (kernel_NM @ y_MH)
    return total
