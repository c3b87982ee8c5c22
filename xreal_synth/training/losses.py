"""Losses that several networks share. Shapes: B batch, H and W film sides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def gradient_loss(found_B1HW: Tensor, wanted_B1HW: Tensor, scales: int = 3) -> Tensor:
    """Mean absolute difference of horizontal and vertical gradients at `scales` halvings of the films."""
    total = found_B1HW.new_zeros(())
    for _ in range(scales):
        difference = found_B1HW - wanted_B1HW
        total = total + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        found_B1HW, wanted_B1HW = functional.avg_pool2d(found_B1HW, 2), functional.avg_pool2d(wanted_B1HW, 2)
    return total / scales


def soft_dice_loss(logits_BKHW: Tensor, codes_BHW: Tensor) -> Tensor:
    """1 - soft Dice, averaged over all codes but the background."""
    kinds = logits_BKHW.shape[1]
    found = logits_BKHW.softmax(dim=1)[:, 1:]
    wanted = functional.one_hot(codes_BHW, kinds).movedim(-1, 1)[:, 1:].to(found.dtype)
    overlap = (found * wanted).sum(dim=(0, 2, 3))
    size = found.sum(dim=(0, 2, 3)) + wanted.sum(dim=(0, 2, 3))
    return 1 - torch.mean((2 * overlap + 1) / (size + 1))


def texture_loss(found_B1HW: Tensor, wanted_B1HW: Tensor, windows: Sequence[int] = (8, 16, 32)) -> Tensor:
    """Mean absolute difference of local log power spectra, in overlapping Hann windows of several sides.

    An absolute error alone is least for a blurred film; this one asks for as much fine structure as the real
    film has at each place, wherever its exact position lies below the first stage's resolution. Wide windows
    alone can be satisfied by single bright pixels, which have a flat spectrum; narrow ones cannot.
    """
    losses = [
        functional.l1_loss(_log_power(found_B1HW, side), _log_power(wanted_B1HW, side)) for side in windows
    ]
    return torch.stack(losses).mean()


def band_loss(found_B1HW: Tensor, wanted_B1HW: Tensor, bands: int = 3, window: int = 16) -> Tensor:
    """Mean absolute difference of the local log power in octave bands, the finest first.

    A band is what a 2x2 mean takes away; its power is averaged over windows of `window` of its pixels, in steps
    of half. As a mean over many pixels it asks for the amount of texture only, so that random grain can satisfy
    it; `texture_loss`, which compares single frequencies, is least for texture without chance.
    """
    losses = []
    for _ in range(bands):
        losses.append(functional.l1_loss(_band_power(found_B1HW, window), _band_power(wanted_B1HW, window)))
        found_B1HW, wanted_B1HW = functional.avg_pool2d(found_B1HW, 2), functional.avg_pool2d(wanted_B1HW, 2)
    return torch.stack(losses).mean()


def _band_power(film_B1HW: Tensor, window: int) -> Tensor:
    """[B, 1, H, W] -> local log power of what a 2x2 mean takes away; a third of a grey level is the floor."""
    coarse = functional.avg_pool2d(film_B1HW, 2)
    smooth = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    side = min(window, *film_B1HW.shape[-2:])
    power = functional.avg_pool2d((film_B1HW - smooth).pow(2), side, stride=max(1, side // 2))
    return torch.log(power + (0.3 / 255) ** 2)


def _log_power(film_B1HW: Tensor, side: int) -> Tensor:
    """[B, 1, H, W] -> log power of every Hann window of `side` pixels; half a grey level is the floor."""
    taper = torch.hann_window(side, periodic=True, device=film_B1HW.device)
    taper = taper[:, None] * taper[None, :]
    floor = (0.5 / 255) ** 2 * taper.pow(2).sum()
    patches = film_B1HW.unfold(2, side, side // 2).unfold(3, side, side // 2)
    patches = patches - patches.mean(dim=(-2, -1), keepdim=True)
    spectrum = torch.fft.rfft2(patches * taper)
    return torch.log(spectrum.real.pow(2) + spectrum.imag.pow(2) + floor)
