"""Kappa and alpha against values worked by hand, published, and torchmetrics' own."""

from __future__ import annotations

import numpy as np
import pytest
from torch import from_numpy
from torchmetrics.functional.classification import multiclass_cohen_kappa

from xreal_synth.evaluation.readers_figures import ordinal_alpha, weighted_kappa

NONE = float("nan")
ONE = np.ones((1, 12))


def test_weighted_kappa_by_hand() -> None:
    """Ranks 1 2 3 against 1 3 3: sum w O is 1; each rank of a first by each of the second by chance is 1/3 or 2/3,
    so sum w E = (0 + 4 * 2 + 1 + 1 * 2 + 4 + 0) / 3 = 5; kappa is 1 - 1 / 5."""
    kappa = weighted_kappa(np.array([1, 2, 3]), np.array([1, 3, 3]))
    assert kappa(np.ones((1, 3))) == pytest.approx([0.8])


def test_weighted_kappa_is_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(1, 6, 50)
    second = np.clip(first + rng.integers(-1, 2, 50), 1, 5)
    own = float(weighted_kappa(first, second)(np.ones((1, 50)))[0])
    a, b = from_numpy(first - 1), from_numpy(second - 1)
    assert own == pytest.approx(float(multiclass_cohen_kappa(a, b, 5, weights="quadratic")), abs=1e-5)
    assert float(weighted_kappa(first, first)(np.ones((1, 50)))[0]) == 1


def test_a_image_that_counts_twice_is_two_images() -> None:
    first, second = np.array([1, 2, 3, 5]), np.array([1, 3, 3, 4])
    twice = weighted_kappa(np.append(first, 2), np.append(second, 3))(np.ones((1, 5)))
    assert weighted_kappa(first, second)(np.array([[1.0, 2, 1, 1]])) == pytest.approx(twice)
    both = np.stack([first, second]).astype(float)
    more = np.concatenate([both, both[:, 1:2]], axis=1)
    assert ordinal_alpha(both)(np.array([[1.0, 2, 1, 1]])) == pytest.approx(ordinal_alpha(more)(np.ones((1, 5))))


def test_one_rank_throughout_has_no_kappa_and_no_alpha() -> None:
    same = np.full(12, 3)
    assert np.isnan(weighted_kappa(same, same)(ONE)[0])
    assert np.isnan(ordinal_alpha(np.stack([same, same]).astype(float))(ONE)[0])


def test_alpha_of_the_published_example() -> None:
    """Four observers, twelve units, missing values: ordinal alpha is .815 (Krippendorff 2011, section D)."""
    ranks = np.array([
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
        [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
    ])  # fmt: skip
    assert ordinal_alpha(ranks)(ONE) == pytest.approx([0.815], abs=5e-4)


def test_alpha_by_hand() -> None:
    """Two readers, three images: 1 1, 2 2, 1 2. Coincidences 1-1: 2, 2-2: 2, 1-2: 1 each way; n = 3 and 3, all 6.
    d(1, 2) = (3 / 2 + 3 / 2)^2 = 9. alpha = 1 - 5 * (2 * 9) / (2 * 3 * 3 * 9) = 1 - 90 / 162."""
    ranks = np.array([[1.0, 2, 1], [1, 2, 2]])
    assert ordinal_alpha(ranks)(np.ones((1, 3))) == pytest.approx([1 - 90 / 162])
