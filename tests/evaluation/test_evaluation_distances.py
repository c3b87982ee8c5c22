"""Distances between sets of features against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xreal_synth.evaluation.set_distances import frechet, kernel


def with_moments(mean: np.ndarray, covariance: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Features whose sample mean and covariance are exactly these."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return x @ np.linalg.cholesky(covariance).T + mean


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_frechet_distance_between_gaussians_with_diagonal_covariances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, n = rng.normal(size=(2, 3))
    s, t = rng.uniform(0.2, 2, (2, 3))
    a, b = with_moments(m, np.diag(s**2), 20, seed), with_moments(n, np.diag(t**2), 15, seed + 1)
    wanted = ((m - n) ** 2).sum() + ((s - t) ** 2).sum()
    assert frechet(a, b) == pytest.approx(wanted, rel=1e-6)


def test_frechet_distance_of_correlated_features() -> None:
    covariance = np.array([[2.0, 0.8], [0.8, 1.0]])
    a = with_moments(np.zeros(2), covariance, 30, 0)
    b = with_moments(np.zeros(2), 4 * covariance, 30, 1)
    # (S 4S)^(1/2) = 2 S, so the distance is tr(S + 4 S - 4 S) = tr S
    assert frechet(a, b) == pytest.approx(np.trace(covariance), rel=1e-6)
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)


def by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimator as a sum over pairs."""

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    n, m = len(a), len(b)
    own_a = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    own_b = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own_a + own_b - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


def test_kernel_distance_is_the_sum_over_pairs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 4)), rng.normal(0.5, 2, (7, 4))
    assert kernel(a, b) == pytest.approx(by_hand(a, b), rel=1e-9)


def test_kernel_distance_of_equal_distributions_is_zero_on_average() -> None:
    rng = np.random.default_rng(1)
    draws = [kernel(rng.normal(size=(12, 3)), rng.normal(size=(12, 3))) for _ in range(300)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(len(draws))
    assert min(draws) < 0
    assert kernel(rng.normal(size=(12, 3)), rng.normal(2, 1, (12, 3))) > max(draws)
