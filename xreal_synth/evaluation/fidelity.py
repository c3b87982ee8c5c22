"""Does an image show the anatomy that was asked for, and does it look like the real image? Figures of image pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

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


def ms_ssim(images: Sequence[GreyImage], reals: Sequence[GreyImage]) -> list[float]:
    """MS-SSIM of each pair of uint8 images [H, W]; NaN of images below 176 pixels, which lack its five scales."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure

    scores = []
    for image, real in zip(images, reals, strict=True):
        if min(image.shape) < MS_SSIM_SIDE:
            scores.append(float("nan"))
            continue
        a, b = (_unit(grey)[None, None] for grey in (image, real))
        scores.append(float(measure(a, b, data_range=1.0)))
    return scores


def _unit(grey: GreyImage) -> Tensor:
    return torch.from_numpy(grey.astype(np.float32) / 255.0)
