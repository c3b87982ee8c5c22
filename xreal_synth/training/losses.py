"""Losses that several networks share. Shapes: B batch, H and W image sides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def gradient_loss(found_B1HW: Tensor, wanted_B1HW: Tensor, scales: int = 3) -> Tensor:
    """Mean absolute difference of horizontal and vertical gradients at `scales` halvings of the images."""
    total = found_B1HW.new_zeros(())
    for _ in range(scales):
        difference = found_B1HW - wanted_B1HW
        total = total + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        found_B1HW, wanted_B1HW = functional.avg_pool2d(found_B1HW, 2), functional.avg_pool2d(wanted_B1HW, 2)
    return total / scales


def soft_dice_loss(logits_BKHW: Tensor, label_map_BHW: Tensor) -> Tensor:
    """1 - soft Dice, averaged over all codes but the background."""
    kinds = logits_BKHW.shape[1]
    found = logits_BKHW.softmax(dim=1)[:, 1:]
    wanted = functional.one_hot(label_map_BHW, kinds).movedim(-1, 1)[:, 1:].to(found.dtype)
    overlap = (found * wanted).sum(dim=(0, 2, 3))
    size = found.sum(dim=(0, 2, 3)) + wanted.sum(dim=(0, 2, 3))
    return 1 - torch.mean((2 * overlap + 1) / (size + 1))


def texture_loss(found_B1HW: Tensor, wanted_B1HW: Tensor, windows: Sequence[int] = (8, 16, 32)) -> Tensor:
    """Mean absolute difference of local log power spectra, in overlapping Hann windows of several sides.

    An absolute error alone is least for a blurred image; this one asks for as much fine structure as the real
    image has at each place, wherever its exact position lies below the first stage's resolution. Wide windows
    alone can be satisfied by single bright pixels, which have a flat spectrum; narrow ones cannot.
    """
    losses = [
        functional.l1_loss(_log_power(found_B1HW, side), _log_power(wanted_B1HW, side)) for side in windows
    ]
    return torch.stack(losses).mean()


def band_loss(found_B1HW: Tensor, wanted_B1HW: Tensor, bands: int = 8, side: int = 32) -> Tensor:
    """Mean absolute difference of the log power in rings of frequency, in overlapping Hann windows.

    A ring's power is the mean over its many frequencies: it asks for the amount of texture only, so that random
    grain can satisfy it. `texture_loss` compares single frequencies, and is least for texture without chance.
    """
    rings = _rings(bands, side).to(found_B1HW.device)
    found, wanted = (_power(image, side).flatten(-2) @ rings for image in (found_B1HW, wanted_B1HW))
    floor = _floor(side)
    return functional.l1_loss(torch.log(found + floor), torch.log(wanted + floor))


def _rings(bands: int, side: int) -> Tensor:
    """[side * (side // 2 + 1), bands] weights that average a half spectrum over rings up to Nyquist's."""
    radius = torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None])
    ring = (radius / 0.5 * bands).floor().flatten()
    members = torch.stack([ring == n for n in range(bands)], dim=1).float()
    members[0] = 0
    return members / members.sum(dim=0)


def _log_power(image_B1HW: Tensor, side: int) -> Tensor:
    """[B, 1, H, W] -> log power of every Hann window of `side` pixels; half a grey level is the floor."""
    return torch.log(_power(image_B1HW, side) + _floor(side))


def _power(image_B1HW: Tensor, side: int) -> Tensor:
    """[B, 1, H, W] -> power spectra [B, 1, n, m, side, side // 2 + 1] of Hann windows in steps of half."""
    patches = image_B1HW.unfold(2, side, side // 2).unfold(3, side, side // 2)
    patches = patches - patches.mean(dim=(-2, -1), keepdim=True)
    spectrum = torch.fft.rfft2(patches * _taper(side).to(image_B1HW.device))
    power: Tensor = spectrum.real.pow(2) + spectrum.imag.pow(2)
    return power


def _taper(side: int) -> Tensor:
    taper = torch.hann_window(side, periodic=True)
    return taper[:, None] * taper[None, :]


def _floor(side: int) -> float:
    """The power of white noise of half a grey level in one frequency (a Hann window's squares sum to 3/8 side)."""
    return float((0.5 / 255 * side * 3 / 8) ** 2)
