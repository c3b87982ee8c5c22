"""Do films follow the masks they were made from? The paper's paired figures on real films' masks.

For each real film of a split (its organ mask and labels): the healthy twin and, if the film has a finding
the bundle knows, a variant with that finding placed by the prior. Then, per film: Dice per organ between
the requested mask and a segmenter's mask of the film, MS-SSIM against the real film, and seconds per stage.

Dice over the films of one organ; intervals are 95% bootstrap percentiles over films (seeded).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xreal_synth.types import Film, Mask
from xreal_synth.vocab import ORGANS

BOOTSTRAP_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean with its 95% interval over n films."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.n}"


def figure(values: Sequence[float], seed: int = 0) -> Figure:
    """Mean and bootstrap interval of the values that are not NaN."""
    kept = np.asarray([value for value in values if not np.isnan(value)], dtype=np.float64)
    if not len(kept):
        return Figure(float("nan"), float("nan"), float("nan"), 0)
    draws = np.random.default_rng(seed).integers(0, len(kept), (BOOTSTRAP_DRAWS, len(kept)))
    low, high = np.percentile(kept[draws].mean(axis=1), [2.5, 97.5])
    return Figure(float(kept.mean()), float(low), float(high), len(kept))


def dice(asked: npt.NDArray[Any], shown: npt.NDArray[Any], code: int) -> float:
    """2|A n B| / (|A| + |B|) of one organ code; NaN if neither has it."""
    a, b = asked == code, shown == code
    total = int(a.sum()) + int(b.sum())
    return float("nan") if total == 0 else 2.0 * int((a & b).sum()) / total


def organ_dice(asked: Mask, shown: Mask) -> dict[str, float]:
    """Dice of each organ by name."""
    return {name: dice(asked, shown, code) for name, code in ORGANS.items()}


def ms_ssim(films: Sequence[Film], reals: Sequence[Film]) -> list[float]:
    """MS-SSIM of each pair of uint8 films [H, W], H >= 176 (five scales, 11-pixel window)."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure

    scores = []
    for film, real in zip(films, reals, strict=True):
        a, b = (_unit(image)[None, None] for image in (film, real))
        scores.append(float(measure(a, b, data_range=1.0)))
    return scores


def high_frequency_ratio(films: Sequence[Film], reals: Sequence[Film]) -> float:
    """Mean radial power of the films over that of the real ones, upper half of the frequencies."""
    powers = [np.mean([_upper_power(image) for image in images]) for images in (films, reals)]
    return float(powers[0] / powers[1])


def _upper_power(image: Film) -> float:
    size = image.shape[0]
    centred = image.astype(np.float64) / 255.0
    window = np.outer(np.hanning(size), np.hanning(size))
    power = np.abs(np.fft.fftshift(np.fft.fft2((centred - centred.mean()) * window))) ** 2
    axis = np.arange(size) - size // 2
    radius = np.hypot(axis[:, None], axis[None, :])
    return float(power[(radius >= size / 4) & (radius < size / 2)].mean())


def _unit(image: Film) -> Tensor:
    return torch.from_numpy(image.astype(np.float32) / 255.0)
