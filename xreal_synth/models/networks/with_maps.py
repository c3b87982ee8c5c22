"""Region maps beside the latents: the input of a denoiser that knows where a finding is."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

MAPS_KEY: Final = "_region_maps"
"""Stands in the denoiser's config.json: the findings of its maps, in order; one for an unknown place comes after."""


def with_maps(z_BChw: Tensor, maps_BRhw: Tensor | None) -> Tensor:
    """Latents [B, C, h, w] and maps [B, R, h, w] in 0..1 -> [B, C + R, h, w]; without maps the latents alone."""
    return z_BChw if maps_BRhw is None else torch.cat([z_BChw, maps_BRhw.to(z_BChw.dtype)], dim=1)


def map_channels(unet: Any) -> int:
    """How many maps a denoiser takes beside the latents: its inputs less its outputs."""
    return int(unet.config.in_channels) - int(unet.config.out_channels)


def no_maps(z_BChw: Tensor, unet: Any) -> Tensor:
    """Latents as a denoiser takes them where no finding is asked for: every map zero."""
    count = map_channels(unet)
    return with_maps(z_BChw, z_BChw.new_zeros(len(z_BChw), count, *z_BChw.shape[2:]) if count else None)
