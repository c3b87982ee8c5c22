"""Two sets of images in a network's features: their distances, and how each covers the other.

Frechet and kernel distance are equal to torchmetrics' (a test holds them to it), but cheap enough to be computed
without each group of images, and for sets of different sizes. Precision, recall, density and coverage are Naeem et
al.'s (ICML 2020): an image's ball reaches to its k-th nearest image of its own set, where images of one patient, or of
one group of generated images, would make it small without saying anything, so they are left out; where every image is
a group of its own this is the published definition. Shapes: N and M images, F features, G groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from xreal_synth.evaluation.intervals import Array, Bootstrap, Estimate, unknown

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
    all_M1, count_G = np.ones((len(b), 1)), member_NG.sum(axis=0)
    across_G = _sums(a, b, member_NG, all_M1)[:, 0]
    within = (_sums(b, b, all_M1, all_M1)[0, 0] - _kernel_of_each(b).sum()) / (len(b) * (len(b) - 1))

    def distance(kept: npt.NDArray[np.bool_]) -> float:
        n = count_G[kept].sum()
        inside = (pairs_GG[np.ix_(kept, kept)].sum() - own_G[kept].sum()) / (n * (n - 1))
        return float(inside + within - 2 * across_G[kept].sum() / (n * len(b)))

    return groups.jackknife(lambda images: distance(np.asarray(member_NG[images].any(axis=0))))


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


NEIGHBOURS: Final = 5


def manifold(
    made_NF: Features, real_MF: Features, made_groups: Sequence[str], real_groups: Sequence[str], k: int = NEIGHBOURS
) -> dict[str, Array] | None:
    """Each image's part in the four figures, which are the means; None where a set has k groups or fewer.

    `precision` [N]: 1 where a generated image lies in a real image's ball. `density` [N]: in how many it lies, over k.
    `recall` [M]: 1 where a real image lies in a generated image's ball. `coverage` [M]: 1 where a generated image lies
    in the real image's ball.
    """
    if min(len(set(made_groups)), len(set(real_groups))) <= k:
        return None
    reach_made, reach_real = _reach(made_NF, made_groups, k), _reach(real_MF, real_groups, k)
    inside = torch.zeros(len(made_NF), dtype=torch.float64)
    covered, recalled = torch.zeros(2, len(real_MF), dtype=torch.bool)
    for rows, apart in distances(made_NF, real_MF):
        within_real = apart < reach_real
        inside[rows] = within_real.sum(dim=1).double()
        covered |= within_real.any(dim=0)
        recalled |= (apart < reach_made[rows, None]).any(dim=0)
    return {
        "precision": (inside > 0).double().numpy(),
        "density": (inside / k).numpy(),
        "recall": recalled.double().numpy(),
        "coverage": covered.double().numpy(),
    }


def _reach(images_NF: Features, groups: Sequence[str], k: int) -> torch.Tensor:
    """Distance of each image to its k-th nearest image of another group."""
    number = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    apart = distances(images_NF, images_NF, (number, number))
    return torch.cat([some.kthvalue(k, dim=1).values for _, some in apart])


def distances(
    a_NF: Features, b_MF: Features, groups: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Some of a's images at a time, and their distances to all of b's [n, M].

    With the `groups` of a's [N] and b's images [M] they are infinite between images of one group.
    """
    a, b = (torch.from_numpy(np.ascontiguousarray(x, np.float64)) for x in (a_NF, b_MF))
    for start in range(0, len(a), _ROWS):
        rows = slice(start, start + _ROWS)
        apart = torch.cdist(a[rows], b, compute_mode="donot_use_mm_for_euclid_dist")
        if groups is not None:
            apart[torch.from_numpy(groups[0][rows, None] == groups[1][None])] = torch.inf
        yield rows, apart
