"""Figures of an image: is the anatomy what was asked for, is it like the real image, is it as sharp?

Sharpness is the radial power spectrum in eight rings: ring i holds the spatial frequencies from i/8 to (i+1)/8 of the
highest (half a cycle per pixel). An image is centred and faded out at its borders by a Hann window first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from xreal_synth.evaluation.intervals import Array
from xreal_synth.findings import ORGANS
from xreal_synth.types import GreyImage, Mask

MS_SSIM_SIDE: Final = 176
"""Its 11-pixel window must fit four halvings of the image."""


def dice(asked: npt.NDArray[Any], shown: npt.NDArray[Any], code: int) -> float:
    """2|A n B| / (|A| + |B|) of one organ code; NaN if neither has it. Label maps [H, W]; 0..1."""
    a, b = asked == code, shown == code
    total = int(a.sum()) + int(b.sum())
    return float("nan") if total == 0 else 2.0 * int((a & b).sum()) / total


def organ_dice(asked: Mask, shown: Mask) -> dict[str, float]:
    """Dice of each organ by name. Label maps uint8 [H, W]."""
    return {name: dice(asked, shown, code) for name, code in ORGANS.items()}


def ms_ssim(image: GreyImage, real: GreyImage) -> float:
    """MS-SSIM of two uint8 images [H, W]; NaN below 176 pixels, which lack its five scales."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure

    if min(image.shape) < MS_SSIM_SIDE:
        return float("nan")
    a, b = (torch.from_numpy(grey.astype(np.float32) / 255.0)[None, None] for grey in (image, real))
    return float(measure(a, b, data_range=1.0))


RINGS: Final = 8
UPPER: Final = slice(RINGS // 2, RINGS)
"""The rings of the upper half of the frequencies."""

_TICKS: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.3, 2.0, 3.0, 5.0)


def ring_powers(image: GreyImage) -> Array:
    """Mean power per frequency in each ring [8] of a uint8 image [H, H]."""
    size = image.shape[0]
    ring, kept = _rings(size)
    grey = image.astype(np.float64) / 255.0
    window = np.outer(np.hanning(size), np.hanning(size))
    power = np.abs(np.fft.fftshift(np.fft.fft2((grey - grey.mean()) * window))) ** 2
    return np.bincount(ring[kept], power[kept], RINGS) / ring_sizes(size)


def ring_sizes(size: int) -> Array:
    """How many frequencies each ring has [8] in an image of this side."""
    ring, kept = _rings(size)
    return np.bincount(ring[kept], minlength=RINGS).astype(np.float64)


def upper_power(rings_N8: Array, size: int) -> Array:
    """Mean power per frequency [N] over the upper half of the frequencies."""
    weights = ring_sizes(size)[UPPER]
    return np.asarray(rings_N8[:, UPPER] @ weights / weights.sum())


def draw_spectra(ratios: Mapping[str, Sequence[float]], out: Path) -> None:
    """Power over real images per ring, a line a kind of image, on a logarithmic axis -> PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    picture = Figure(figsize=(6, 3.6), dpi=120, layout="constrained")
    axes = picture.subplots()
    for name, values in ratios.items():
        axes.plot(range(1, RINGS + 1), values, marker="o", label=name)
    axes.axhspan(0.7, 1.3, color="0.9", zorder=0)
    axes.axhline(1.0, color="0.5", linewidth=0.8)
    axes.set(xlabel="eighth of the spatial frequencies, low to high", ylabel="power over real images")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(_TICKS))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(out)


def _rings(size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Each frequency's ring [H, H], and which frequencies lie in any (the corners do not)."""
    axis = np.arange(size) - size // 2
    radius = np.hypot(axis[:, None], axis[None, :])
    ring = (radius * (2 * RINGS / size)).astype(np.int64)
    return ring, ring < RINGS
