"""From a network's raw output to predicted z0 and eps, with classifier-free guidance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(z [B, C, h, w], t [B], tokens [B, L, D]) -> raw output [B, C, h, w]."""


def guided(denoise: Denoise, z: Tensor, t: int, tokens: Tensor, guidance: float) -> Tensor:
    """o_u + g (o_c - o_u), both in one forward of 2B rows; `tokens` [2B, L, D] are the null prompt's, then
    the prompts'.

    v is linear in eps at a given z and t, so one formula guides both kinds of prediction.
    """
    times = torch.full((2 * len(z),), t, device=z.device)
    without, with_ = denoise(torch.cat([z, z]), times, tokens).chunk(2)
    return without + guidance * (with_ - without)


def split_prediction(
    kind: Literal["epsilon", "v_prediction"], out: Tensor, z: Tensor, abar: float
) -> tuple[Tensor, Tensor]:
    """Raw output at state z -> predicted (z0, eps). All [B, C, h, w]; `abar` is the alpha-bar of z's timestep."""
    signal, noise = math.sqrt(abar), math.sqrt(1 - abar)
    if kind == "epsilon":
        return (z - noise * out) / signal, out
    return signal * z - noise * out, signal * out + noise * z
