"""Losses that several networks share: of gradients, texture and organs, in a segmenter's features, by a patch critic.

Shapes: B batch, H and W image sides, h and w sides of the critic's patch map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from xreal_synth.models.networks.segmenters import OrganSegmenter
from xreal_synth.training.first_stage import reading


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
    losses = [functional.l1_loss(_log_power(found_B1HW, side), _log_power(wanted_B1HW, side)) for side in windows]
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
    taper = torch.hann_window(side, periodic=True)
    spectrum = torch.fft.rfft2(patches * (taper[:, None] * taper[None, :]).to(image_B1HW.device))
    power: Tensor = spectrum.real.pow(2) + spectrum.imag.pow(2)
    return power


def _floor(side: int) -> float:
    """The power of white noise of half a grey level in one frequency (a Hann window's squares sum to 3/8 side)."""
    return float((0.5 / 255 * side * 3 / 8) ** 2)


class PerceptualDistance(nn.Module):
    """Mean squared distance of unit-length features, averaged over the segmenter's levels (LPIPS, unweighted).

    Holds no trained parameters; the segmenter works at its own inner size.
    """

    def __init__(self, segmenter: OrganSegmenter) -> None:
        super().__init__()
        self.segmenter = segmenter.requires_grad_(False).eval()

    def forward(self, found_B1HW: Tensor, wanted_B1HW: Tensor) -> Tensor:
        """Two batches of images [B, 1, H, W] -> their mean distance in normed features, a scalar."""
        with torch.no_grad():
            wanted = self.segmenter.features(wanted_B1HW)
        found = self.segmenter.features(found_B1HW)
        apart = [
            (functional.normalize(a.float(), dim=1) - functional.normalize(b.float(), dim=1)).pow(2).sum(dim=1).mean()
            for a, b in zip(found, wanted, strict=True)
        ]
        return torch.stack(apart).mean()


def load_perceptual(folder: str) -> PerceptualDistance:
    """The distance by a trained segmenter's folder; raises TrainingError."""
    hint = "train it first and give its path: --set model.perceptual=OUT/network/segmenter, or leave it out"
    with reading(f"model.perceptual: {folder!r}", "the folder of a trained segmenter", hint):
        segmenter: OrganSegmenter = OrganSegmenter.from_pretrained(folder, low_cpu_mem_usage=False)
    return PerceptualDistance(segmenter)


DETAIL_GAIN = 20.0
RAMP_STEPS = 200


class PatchCritic(nn.Module):
    """Images [B, 1, H, W] in [0, 1] -> scores [B, 1, h, w], higher for real; each sees a patch of 46 pixels.

    A stack of strided 4x4 convolutions (pix2pix), spectrally normalised, so that it needs no other norm. Texture
    is a few grey levels of 255, and a spectrally normalised network cannot amplify it: it is given the image's
    detail (the image less its local mean) as a channel of its own, DETAIL_GAIN times as strong.
    """

    def __init__(self, width: int = 32, levels: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        layers: list[nn.Module] = []
        for ins, outs in zip([2, *widths[:-1]], widths, strict=True):
            layers += [spectral_norm(nn.Conv2d(ins, outs, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        last = widths[-1]
        layers += [spectral_norm(nn.Conv2d(last, last, 3, padding=1)), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(last, 1, 3, padding=1)]
        self.body = nn.Sequential(*layers)

    def forward(self, image_B1HW: Tensor) -> Tensor:
        """Images [B, 1, H, W] in [0, 1] -> scores [B, 1, h, w], higher where a patch looks real."""
        detail = image_B1HW - functional.avg_pool2d(image_B1HW, 5, stride=1, padding=2, count_include_pad=False)
        scores: Tensor = self.body(torch.cat([image_B1HW * 2 - 1, detail * DETAIL_GAIN], dim=1))
        return scores


def critic_loss(critic: PatchCritic, found_B1HW: Tensor, wanted_B1HW: Tensor) -> Tensor:
    """The hinge loss of the critic alone: no gradient reaches the network that made `found`."""
    real, made = critic(wanted_B1HW), critic(found_B1HW.detach())
    return (functional.relu(1 - real).mean() + functional.relu(1 + made).mean()) / 2


def fooling_loss(critic: PatchCritic, found_B1HW: Tensor) -> Tensor:
    """The decoder's side: minus the critic's score; no gradient reaches the critic's weights."""
    critic.requires_grad_(False)
    try:
        score: Tensor = -critic(found_B1HW).mean()
    finally:
        critic.requires_grad_(True)
    return score


def balance(reconstruction: Tensor, fooling: Tensor, last_layer: nn.Parameter) -> Tensor:
    """The factor that makes both losses pull equally hard on the decoder's last layer (VQGAN eq. 7).

    0 where nothing is differentiated, as in validation.
    """
    if not (torch.is_grad_enabled() and fooling.requires_grad):
        return fooling.new_zeros(())
    (by_truth,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (by_critic,) = torch.autograd.grad(fooling, last_layer, retain_graph=True)
    factor: Tensor = (by_truth.norm() / (by_critic.norm() + 1e-6)).clamp(0, 1e4).detach()
    return factor
