"""Figures against values worked by hand, and the whole evaluation on the tiny bundle."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xreal_synth.evaluation.fidelity import dice, figure, high_frequency_ratio, ms_ssim, organ_dice


def test_dice_by_hand() -> None:
    asked = np.array([[1, 1, 2, 0]], np.uint8)
    shown = np.array([[1, 2, 2, 0]], np.uint8)
    assert dice(asked, shown, 1) == pytest.approx(2 * 1 / (2 + 1))
    assert dice(asked, shown, 2) == pytest.approx(2 * 1 / (1 + 2))
    assert math.isnan(dice(asked, shown, 4))
    assert organ_dice(asked, asked)["left_lung"] == 1


def test_figure_leaves_out_nan_and_brackets_the_mean() -> None:
    found = figure([0.0, 1.0, float("nan"), 0.5])
    assert found.n == 3
    assert found.mean == pytest.approx(0.5)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert figure([float("nan")]).n == 0


def test_ms_ssim_is_one_for_the_same_film_and_falls_with_noise() -> None:
    rng = np.random.default_rng(0)
    film = (rng.random((8, 8)) * 255).astype(np.uint8).repeat(32, 0).repeat(32, 1)
    noisy = np.clip(film + rng.normal(0, 60, film.shape), 0, 255).astype(np.uint8)
    same, less = ms_ssim([film, noisy], [film, film])
    assert same == pytest.approx(1, abs=1e-3)
    assert less < 0.95


def test_blur_lowers_the_high_frequencies() -> None:
    from scipy.ndimage import gaussian_filter

    film = (np.random.default_rng(0).random((64, 64)) * 255).astype(np.uint8)
    assert high_frequency_ratio([film], [film]) == pytest.approx(1)
    assert high_frequency_ratio([gaussian_filter(film, 2)], [film]) < 0.1
