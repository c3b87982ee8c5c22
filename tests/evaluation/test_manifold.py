"""Precision, recall, density and coverage worked by hand on a line, and against their definition."""

from __future__ import annotations

import numpy as np
import pytest

from xreal_synth.evaluation.set_distances import manifold


def line(*places: float) -> np.ndarray:
    return np.array(places, np.float32)[:, None]


def test_by_hand() -> None:
    real, made = line(0, 1, 3, 10), line(0.5, 2.5, 30)
    found = manifold(made, real, list("abc"), list("wxyz"), k=1)
    assert found is not None
    # real balls reach 1, 1, 2, 7 and made ones 2, 2, 27.5
    assert found["precision"].tolist() == [1, 1, 0]
    # 0.5 lies in the balls of 0 and 1; 2.5 in the one of 3
    assert found["density"].tolist() == [2, 1, 0]
    assert found["coverage"].tolist() == [1, 1, 1, 0]
    # 0.5's ball has 0 and 1, 2.5's has 1 and 3, 30's has 3 (27 away) and 10
    assert found["recall"].tolist() == [1, 1, 1, 1]


def test_images_of_one_group_are_no_neighbours() -> None:
    real, made = line(0, 0.1, 4, 4.5), line(0.5, 8)
    apart = manifold(made, real, list("ab"), list("wxyz"), k=1)
    together = manifold(made, real, list("ab"), list("wwyz"), k=1)
    assert apart is not None
    assert together is not None
    assert apart["precision"].tolist() == [0, 0]  # balls reach 0.1 and 0.5
    assert together["precision"].tolist() == [1, 0]  # those of 0 and 0.1 reach 4 and 3.9


def test_too_few_groups_have_none() -> None:
    assert manifold(line(0, 1), line(0, 1, 2), list("ab"), list("xyz"), k=2) is None
    assert manifold(line(0, 1, 2), line(0, 1, 2), list("aab"), list("xyz"), k=2) is None


@pytest.mark.parametrize("seed", range(3))
def test_against_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made, real = rng.normal(0.4, 1, (23, 3)).astype(np.float32), rng.normal(size=(17, 3)).astype(np.float32)

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.norm(a[:, None].astype(float) - b[None], axis=2)

    reach_made, reach_real = (np.sort(distance(x, x), axis=1)[:, 5] for x in (made, real))
    across = distance(real, made)
    found = manifold(made, real, [str(i) for i in range(23)], [str(i) for i in range(17)])
    assert found is not None
    assert found["precision"].mean() == pytest.approx((across < reach_real[:, None]).any(axis=0).mean())
    assert found["recall"].mean() == pytest.approx((across < reach_made[None]).any(axis=1).mean())
    assert found["density"].mean() == pytest.approx((across < reach_real[:, None]).sum() / 5 / 23)
    assert found["coverage"].mean() == pytest.approx((across.min(axis=1) < reach_real).mean())
