"""Distances between two sets of images in a network's features: kernel distance and Frechet distance.

Both are torchmetrics' own, fed with features. They are named by the network that gives the features: neither
is "KID" or "FID" of the literature, which take Inception's.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Features = npt.NDArray[np.float32]


class _AsGiven(nn.Module):
    """Hands features through where torchmetrics expects a network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features_NF: Tensor) -> Tensor:
        return features_NF


def kernel_distance(a_NF: Features, b_MF: Features) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / F + 1)^3, over all of the smaller set.

    Of sets of different sizes a random part of the larger is taken (torch's global generator, seeded here).
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(0)
        metric = KernelInceptionDistance(
            feature=_AsGiven(a_NF.shape[1]), subsets=1, subset_size=min(len(a_NF), len(b_MF))
        )
        metric.update(_double(a_NF), real=True)
        metric.update(_double(b_MF), real=False)
        return float(metric.compute()[0])


def frechet_distance(a_NF: Features, b_MF: Features) -> float:
    """Between Gaussians with the sets' means and covariances: |m - n|^2 + tr(S + T - 2 (S T)^(1/2))."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_AsGiven(a_NF.shape[1])).set_dtype(torch.float64)
    metric.update(_double(a_NF), real=True)
    metric.update(_double(b_MF), real=False)
    return float(metric.compute())


def _double(features: Features) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(features, dtype=np.float64))
