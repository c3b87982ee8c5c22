"""Precision, recall, density and coverage of generated images among real ones (Naeem et al., ICML 2020).

An image's ball reaches to its k-th nearest image of its own set. Images of one patient, or of one group of generated
images (a twin and its variants), would make balls small without saying anything, so a ball's neighbours are images of
other groups; where every image is a group of its own this is the published definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from xreal_synth.evaluation.intervals import Array

NEIGHBOURS: Final = 5
_ROWS: Final = 512

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Manifold:
    """Contributions of each image; the figures are the means.

    `precision` [N]: 1 where a generated image lies in a real image's ball. `density` [N]: in how many it lies, over k.
    `recall` [M]: 1 where a real image lies in a generated image's ball. `coverage` [M]: 1 where a generated image lies
    in the real image's ball.
    """

    precision: Array
    density: Array
    recall: Array
    coverage: Array


def manifold(
    made_NF: Features,
    real_MF: Features,
    made_groups: Sequence[str],
    real_groups: Sequence[str],
    k: int = NEIGHBOURS,
) -> Manifold | None:
    """Each image's part in the four figures; None where a set has k groups or fewer."""
    if min(len(set(made_groups)), len(set(real_groups))) <= k:
        return None
    made, real = (torch.from_numpy(np.ascontiguousarray(x, np.float64)) for x in (made_NF, real_MF))
    reach_made, reach_real = _reach(made, made_groups, k), _reach(real, real_groups, k)
    inside = torch.zeros(len(made), dtype=torch.float64)
    covered = torch.zeros(len(real), dtype=torch.bool)
    recalled = torch.zeros(len(real), dtype=torch.bool)
    for start in range(0, len(made), _ROWS):
        rows = slice(start, start + _ROWS)
        apart = _apart(made[rows], real)
        within_real = apart < reach_real
        inside[rows] = within_real.sum(dim=1).double()
        covered |= within_real.any(dim=0)
        recalled |= (apart < reach_made[rows, None]).any(dim=0)
    return Manifold(
        precision=(inside > 0).double().numpy(),
        density=(inside / k).numpy(),
        recall=recalled.double().numpy(),
        coverage=covered.double().numpy(),
    )


def _reach(images: torch.Tensor, groups: Sequence[str], k: int) -> torch.Tensor:
    """Distance of each image to its k-th nearest image of another group."""
    number = torch.from_numpy(np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1])
    found = torch.empty(len(images), dtype=torch.float64)
    for start in range(0, len(images), _ROWS):
        rows = slice(start, start + _ROWS)
        apart = _apart(images[rows], images)
        apart[number[rows, None] == number] = torch.inf
        found[rows] = apart.kthvalue(k, dim=1).values
    return found


def _apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
