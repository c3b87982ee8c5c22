"""Masks on the latent grid, the blend rule of both controllers, and the paste in pixel space.

Shapes: B batch, C channels, H and W image sides, h and w latent sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from xreal_synth.sampling.schedule import q_sample
from xreal_synth.types import Paste, SoftVariance

CODE_SCALE = 4
_BANDS: Final = ((5, 9), (15, 15))
"""Of the paste: a band is what smoothing over the first width leaves; its power is taken over the second."""
_LOUDEST: Final = 1.5
_SILENCE: Final = 1e-8


def cubic_resize(x_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Cubic interpolation with a = -0.75, half-pixel centres, replicated border, no antialiasing.

    This is OpenCV's INTER_CUBIC, and also what torch calls bicubic.
    """
    return functional.interpolate(x_BCHW, size=size, mode="bicubic", align_corners=False, antialias=False)


def soft_mask(label_map_BHW: Tensor, size: tuple[int, int], soft: float) -> Tensor:
    """Organ codes -> anatomy weights [B, 1, h, w]: 1 where the resized m_a / 4 is positive, else `soft`."""
    small = cubic_resize(label_map_BHW[:, None].to(torch.float32) / CODE_SCALE, size)
    return torch.where(small > 0, 1.0, soft).to(torch.float32)


def latent_region(region_BHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Boolean region -> m_p [B, 1, h, w] of 0 and 1: a cell belongs to it if any of its pixels does."""
    return functional.adaptive_max_pool2d(region_BHW[:, None].to(torch.float32), size)


def blend(known: Tensor, z: Tensor, keep: Tensor) -> Tensor:
    """known * M + z * (1 - M): the anatomy hold with the soft mask, the pathology hold with M = 1 - m_p."""
    return known * keep + z * (1 - keep)


def kept_variance_blend(z_hat: Tensor, z: Tensor, keep: Tensor, abar: float, noise: Tensor) -> Tensor:
    """The anatomy hold with soft weights M that leaves the noise as strong as the timestep says.

    `blend` mixes two independent noises by M and 1 - M, which leaves M^2 + (1 - M)^2 of their variance; the
    denoiser takes the rest of the image for noisier than it is. Here the mean is the same, and the fresh noise
    makes up for what is lost: variance (1 - abar) (1 - (1 - M)^2). M = 1 and M = 0 are as in `blend`.
    """
    fresh = torch.sqrt((1 - abar) * keep * (2 - keep)) * noise
    return math.sqrt(abar) * keep * z_hat + fresh + (1 - keep) * z


def _mixed(z_hat: Tensor, z: Tensor, keep: Tensor, abar: float, noise: Tensor) -> Tensor:
    return blend(q_sample(z_hat, abar, noise), z, keep)


HOLDS: Final[dict[SoftVariance, Callable[[Tensor, Tensor, Tensor, float, Tensor], Tensor]]] = {
    "mixed": _mixed,
    "kept": kept_variance_blend,
}
"""Rules of the anatomy hold: (z_hat, z, M, abar, fresh noise) -> the state that the denoiser sees."""


def feathered_paste(image_CHW: Tensor, edit_CHW: Tensor, alpha_HW: Tensor) -> Tensor:
    """The edit faded into the image by alpha in 0..1; where alpha is 0 the image stays bit for bit."""
    return torch.where(alpha_HW > 0, image_CHW + alpha_HW * (edit_CHW - image_CHW), image_CHW)


def kept_variance_paste(image_CHW: Tensor, edit_CHW: Tensor, alpha_HW: Tensor) -> Tensor:
    """`feathered_paste` whose detail stays as strong as alpha's mean of the image's and the edit's.

    Averaging two textures that are not the same weakens them, which draws a soft frame around every edit. Each of
    _BANDS of the mixture is made stronger by the root of wanted over present local power, at most _LOUDEST.
    """
    mixed = out = feathered_paste(image_CHW, edit_CHW, alpha_HW)
    rest = [image_CHW, edit_CHW, mixed]
    for width, around in _BANDS:
        smooth = [_smooth(x, width) for x in rest]
        bands = [x - low for x, low in zip(rest, smooth, strict=True)]
        image, edit, mixture = (_smooth(band**2, around) for band in bands)
        wanted = (1 - alpha_HW) * image + alpha_HW * edit
        gain = torch.sqrt(wanted / mixture.clamp_min(_SILENCE)).clamp(1.0, _LOUDEST)
        out, rest = out + (gain - 1) * bands[2], smooth
    return torch.where((alpha_HW > 0) & (alpha_HW < 1), out, mixed)


def _smooth(x_CHW: Tensor, width: int) -> Tensor:
    """The mean over width x width pixels, fewer at the image's edge."""
    return functional.avg_pool2d(x_CHW, width, stride=1, padding=width // 2, count_include_pad=False)


PASTES: Final[dict[Paste, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "feather": feathered_paste,
    "kept": kept_variance_paste,
}
"""Rules of joining an edit to its image: (image [C, H, W], edit [C, H, W], alpha [H, W]) -> image; where alpha is 0 the
image stays bit for bit. A batch of all three, alpha [B, 1, H, W], gives what its rows do."""


def from_grey(image_BHW: Tensor, value_range: tuple[float, float], channels: int) -> Tensor:
    """Images uint8 [B, H, W] -> [B, channels, H, W] float32 in value_range; `to_grey` gives the bytes back."""
    return in_range(image_BHW[:, None].to(torch.float32) / 255, value_range, channels)


def in_range(image_B1HW: Tensor, value_range: tuple[float, float], channels: int) -> Tensor:
    """Images [B, 1, H, W] in 0..1 -> [B, channels, H, W] in value_range."""
    low, high = value_range
    return (low + (high - low) * image_B1HW).expand(-1, channels, -1, -1).contiguous()


def to_grey(image_CHW: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Image in value_range -> uint8 [H, W], the channels averaged; a batch of them -> [B, H, W]."""
    low, high = value_range
    grey = (image_CHW.mean(dim=-3) - low) / (high - low)
    return (grey * 255).round().clamp(0, 255).to(torch.uint8)
