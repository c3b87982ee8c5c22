"""Power in rings of frequencies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from xreal_synth.evaluation.measurements import RINGS, draw_spectra, ring_powers, ring_sizes, upper_power


def noise(side: int = 64, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((side, side)) * 255).astype(np.uint8)


def test_white_noise_has_the_same_power_everywhere() -> None:
    rings = np.mean([ring_powers(noise(seed=seed)) for seed in range(40)], axis=0)
    assert rings / rings.mean() == pytest.approx(np.ones(RINGS), rel=0.15)


def test_a_wave_lies_in_its_ring() -> None:
    side, cycles = 64, 18  # 18 of 32: the fifth eighth
    wave = 127 + 120 * np.sin(2 * np.pi * cycles * np.arange(side) / side)
    image = np.tile(wave, (side, 1)).astype(np.uint8)
    rings = ring_powers(image) * ring_sizes(side)
    assert rings.argmax() == 4
    assert rings[4] > 0.98 * rings.sum()


def test_rings_hold_every_frequency_below_the_highest() -> None:
    axis = np.arange(64) - 32
    assert ring_sizes(64).sum() == (np.hypot(axis[:, None], axis[None]) < 32).sum()


def test_the_upper_half_is_the_mean_over_its_frequencies() -> None:
    image = noise()
    grey = image / 255.0
    window = np.outer(np.hanning(64), np.hanning(64))
    power = np.abs(np.fft.fftshift(np.fft.fft2((grey - grey.mean()) * window))) ** 2
    axis = np.arange(64) - 32
    radius = np.hypot(axis[:, None], axis[None])
    wanted = power[(radius >= 16) & (radius < 32)].mean()
    assert upper_power(ring_powers(image)[None], 64)[0] == pytest.approx(wanted)


def test_blur_lowers_the_high_frequencies() -> None:
    image = noise()
    sharp, blurred = (ring_powers(one)[None] for one in (image, gaussian_filter(image, 2)))
    assert upper_power(blurred, 64) < 0.1 * upper_power(sharp, 64)


def test_spectra_are_drawn(tmp_path: Path) -> None:
    draw_spectra({"made": [1.0, 0.9, 0.7, 0.5, 0.3, 0.2, 0.2, 0.2]}, tmp_path / "new" / "spectra.png")
    with Image.open(tmp_path / "new" / "spectra.png") as picture:
        assert picture.width > 400
