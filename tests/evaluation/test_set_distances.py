"""Distances between sets against torchmetrics, sums over pairs, and leaving groups out one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from xreal_synth.evaluation.intervals import Bootstrap
from xreal_synth.evaluation.set_distances import frechet, frechet_figure, kernel, kernel_figure


def images(count: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(seed, 1, (count, width)) @ rng.normal(size=(width, width))
    return mixed.astype(np.float32)


class AsGiven(nn.Module):
    """Hands features through where torchmetrics expects a network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def measured(metric: FrechetInceptionDistance | KernelInceptionDistance, a: np.ndarray, b: np.ndarray) -> Tensor:
    metric.update(torch.from_numpy(a).double(), real=True)
    metric.update(torch.from_numpy(b).double(), real=False)
    found = metric.compute()
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize(("n", "m", "width"), [(30, 25, 6), (30, 4, 6), (4, 5, 12), (6, 40, 12)])
def test_frechet_is_torchmetrics_whichever_is_larger(n: int, m: int, width: int) -> None:
    a, b = images(n, width, 0), images(m, width, 1)
    metric = FrechetInceptionDistance(feature=AsGiven(width)).set_dtype(torch.float64)
    assert frechet(a, b) == pytest.approx(float(measured(metric, a, b)), rel=1e-5)


def test_frechet_by_hand() -> None:
    a, b = np.array([[-1.0], [1.0]]), np.array([[2.0], [8.0]])
    # means 0 and 5; variances 2 and 18: 25 + 2 + 18 - 2 * 6
    assert frechet(a, b) == pytest.approx(33)


@pytest.mark.filterwarnings("ignore:Metric")
def test_kernel_is_torchmetrics_for_equal_numbers() -> None:
    a, b = images(9, 5, 0), images(9, 5, 1)
    metric = KernelInceptionDistance(feature=AsGiven(5), subsets=1, subset_size=9)
    assert kernel(a, b) == pytest.approx(float(measured(metric, a, b)), rel=1e-6)


def test_kernel_by_hand_for_unequal_numbers() -> None:
    a, b = np.array([[1.0], [2.0], [0.0]]), np.array([[1.0], [3.0]])
    # (xy + 1)^3: within a 27, 1, 1 over its 3 pairs; within b 64; across 8, 64, 27, 343, 1, 1
    wanted = (27 + 1 + 1) / 3 + 64 - 2 * (8 + 64 + 27 + 343 + 1 + 1) / 6
    assert kernel(a, b) == pytest.approx(wanted)


@pytest.mark.parametrize("figure", [kernel_figure, frechet_figure])
def test_intervals_leave_each_group_out(figure) -> None:  # type: ignore[no-untyped-def]
    plain = {kernel_figure: kernel, frechet_figure: frechet}[figure]
    a, b = images(11, 3, 0), images(8, 3, 1)
    groups = np.array([0, 0, 1, 2, 2, 2, 3, 4, 4, 5, 5])
    found = figure(a, b, Bootstrap([str(group) for group in groups]))
    without = np.array([plain(a[groups != left], b) for left in range(6)])
    error = np.sqrt(5 / 6 * ((without - without.mean()) ** 2).sum())
    assert found.value == pytest.approx(plain(a, b))
    assert found.ci_low == pytest.approx(found.value - 1.96 * error)
    assert found.n == 11


@pytest.mark.parametrize("figure", [kernel_figure, frechet_figure])
def test_too_few_images_or_groups(figure) -> None:  # type: ignore[no-untyped-def]
    a, b = images(5, 3, 0), images(8, 3, 1)
    assert not figure(a[:1], b, Bootstrap(["0"])).known
    assert not figure(a, b[:1], Bootstrap(list("01234"))).known
    two = figure(a, b, Bootstrap(list("00011")))
    assert two.known
    assert np.isnan(two.ci_low)
    lonely = figure(a[:2], b, Bootstrap(list("01")))
    assert lonely.known
    assert np.isnan(lonely.ci_high)
