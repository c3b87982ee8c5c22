"""Dice and MS-SSIM against values worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xreal_synth.evaluation.measurements import dice, ms_ssim, organ_dice


def test_dice_by_hand() -> None:
    asked = np.array([[1, 1, 2, 0]], np.uint8)
    shown = np.array([[1, 2, 2, 0]], np.uint8)
    assert dice(asked, shown, 1) == pytest.approx(2 * 1 / (2 + 1))
    assert dice(asked, shown, 2) == pytest.approx(2 * 1 / (1 + 2))
    assert math.isnan(dice(asked, shown, 4))
    assert organ_dice(asked, asked)["left_lung"] == 1


def test_ms_ssim_is_one_for_the_same_image_and_falls_with_noise() -> None:
    rng = np.random.default_rng(0)
    image = (rng.random((8, 8)) * 255).astype(np.uint8).repeat(32, 0).repeat(32, 1)
    noisy = np.clip(image + rng.normal(0, 60, image.shape), 0, 255).astype(np.uint8)
    same, less = ms_ssim(image, image), ms_ssim(noisy, image)
    assert same == pytest.approx(1, abs=1e-3)
    assert less < 0.95


def test_small_images_have_no_ms_ssim() -> None:
    small = np.zeros((175, 175), np.uint8)
    assert math.isnan(ms_ssim(small, small))
