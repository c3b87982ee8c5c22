"""Bootstrap and jackknife against closed forms; a patient's images stay together."""

from __future__ import annotations

import numpy as np
import pytest

from xreal_synth.evaluation.intervals import Bootstrap, Estimate, figure, spread


def test_a_figure_leaves_out_nan_and_brackets_the_mean() -> None:
    found = figure([0.0, 1.0, float("nan"), 0.5])
    assert found.n == 3
    assert found.value == pytest.approx(0.5)
    assert 0 <= found.ci_low <= found.value <= found.ci_high <= 1
    assert not figure([float("nan")]).known
    assert not figure([]).known


def test_the_intervals_width_is_that_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(0, 1, 400)
    found = Bootstrap([str(at) for at in range(400)], draws=4000).mean(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.ci_high - found.value == pytest.approx(half, rel=0.06)
    assert found.value - found.ci_low == pytest.approx(half, rel=0.06)


def test_a_patients_images_come_and_go_together() -> None:
    weights = Bootstrap(["a", "b", "a", "c", "b"], draws=50).weights
    assert np.array_equal(weights[:, 0], weights[:, 2])
    assert np.array_equal(weights[:, 1], weights[:, 4])
    assert {float(total) for total in weights[:, [0, 1, 3]].sum(axis=1)} == {3.0}


def test_many_images_of_few_patients_make_a_wide_interval() -> None:
    values = np.repeat(np.random.default_rng(2).normal(0, 1, 20), 10)
    patients = [str(at // 10) for at in range(200)]
    wide = Bootstrap(patients).mean(values)
    narrow = Bootstrap([str(at) for at in range(200)]).mean(values)
    assert wide.ci_high - wide.ci_low == pytest.approx(np.sqrt(10) * (narrow.ci_high - narrow.ci_low), rel=0.2)


def test_a_ratio_is_of_means() -> None:
    found = Bootstrap(["a", "b", "c"]).ratio(np.array([1.0, 2, 3]), np.array([2.0, 4, 6]))
    assert (found.value, found.ci_low, found.ci_high) == (0.5, 0.5, 0.5)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(3).normal(5, 2, 40)
    found = Bootstrap([str(at) for at in range(40)]).jackknife(lambda kept: float(values[kept].mean()))
    assert found.value == pytest.approx(values.mean())
    assert found.ci_high - found.value == pytest.approx(1.96 * values.std(ddof=1) / np.sqrt(40))


def test_the_jackknife_takes_groups_where_patients_are_many() -> None:
    values = np.random.default_rng(4).normal(0, 1, 600)
    found = Bootstrap([str(at) for at in range(600)]).jackknife(lambda kept: float(values[kept].mean()))
    assert found.ci_high - found.value == pytest.approx(1.96 * values.std() / np.sqrt(600), rel=0.3)


def test_a_spread_is_the_middle_of_repeated_measurements() -> None:
    assert spread([1.0, 2.0, 3.0], 7) == Estimate(2.0, 1.05, 2.95, 7)
