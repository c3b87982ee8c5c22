"""First stage of the small bundle: a linear patch transform with a residual decoder.

The encoder is a principal component transform over square patches, so it needs no training: fitted on chest
images, 8 components of 8x8 patches keep an image at about 36 dB. The decoder is the transposed transform plus a
small network that removes the patch borders.

Shapes: B batch, K patch side, C latent channels, H and W image sides, h = H / K, w = W / K.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from xreal_synth.models.networks.blocks import residual_blocks, zeroed

FOLD = 4
"""Pixels a side that the refiner sees as channels of one place."""


@dataclass(frozen=True, slots=True)
class LatentPosterior:
    """A Gaussian over latents [B, C, h, w]; the patch transform is exact, so its `std` is zero."""

    mean: Tensor
    std: Tensor


class PatchRefiner(nn.Module):
    """The linear decoder's correction: image [B, 1, H, W], latents [B, C, h, w] -> what to add to it [B, 1, H, W].

    With `grain`, standard normal noise [B, 1, H, W] is a further input: the raw material of texture that latents
    do not hold. Without noise at hand it is taken as zero.
    """

    def __init__(self, latent_channels: int, width: int, blocks: int, grain: bool = False) -> None:
        super().__init__()
        folded = FOLD * FOLD
        self.grain_inlet = zeroed(nn.Conv2d(folded, width, 3, padding=1, bias=False)) if grain else None
        self.inlet = nn.Conv2d(folded + latent_channels, width, 3, padding=1)
        self.body = residual_blocks(width, blocks)
        self.outlet = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), zeroed(nn.Conv2d(width, folded, 3, padding=1)))

    def forward(self, image_B1HW: Tensor, z_BChw: Tensor, grain_B1HW: Tensor | None = None) -> Tensor:
        """The linear decoder's image, its latents, perhaps noise -> what to add to the image [B, 1, H, W]."""
        folded = functional.pixel_unshuffle(image_B1HW - 0.5, FOLD) * 4
        spread = functional.interpolate(z_BChw, size=folded.shape[-2:], mode="bilinear", align_corners=False)
        x = self.inlet(torch.cat([folded, spread], dim=1))
        if self.grain_inlet is not None and grain_B1HW is not None:
            x = x + self.grain_inlet(functional.pixel_unshuffle(grain_B1HW, FOLD))
        correction = self.outlet(self.body(x))
        return functional.pixel_shuffle(correction, FOLD) * 0.1


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Images [B, 1, H, W] in [0, 1] <-> latents [B, C, H/K, W/K] with about unit deviation."""

    basis: Tensor
    offset: Tensor
    gain: Tensor

    @register_to_config
    def __init__(
        self,
        patch_size: int = 8,
        latent_channels: int = 8,
        refiner_width: int = 64,
        refiner_blocks: int = 5,
        grain: bool = False,
    ) -> None:
        super().__init__()
        self.grain = grain
        self.patch_size = patch_size
        area = patch_size * patch_size
        self.register_buffer("basis", torch.eye(latent_channels, area))
        self.register_buffer("offset", torch.zeros(area))
        self.register_buffer("gain", torch.ones(latent_channels))
        self.refiner = PatchRefiner(latent_channels, refiner_width, refiner_blocks, grain=grain)

    def encode(self, image_B1HW: Tensor) -> LatentPosterior:
        """Image [B, 1, H, W] in [0, 1] -> posterior over latents [B, C, h, w]."""
        patches = functional.pixel_unshuffle(image_B1HW, self.patch_size)
        centred = patches - self.offset[None, :, None, None]
        with _full_precision(image_B1HW):
            mean = functional.conv2d(centred, (self.basis * self.gain[:, None])[:, :, None, None])
        return LatentPosterior(mean=mean, std=torch.zeros_like(mean))

    def decode_linear(self, z_BChw: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> image [B, 1, H, W] by the transposed transform alone: patch borders show."""
        weight = (self.basis / self.gain[:, None]).t()[:, :, None, None]
        with _full_precision(z_BChw):
            patches = functional.conv2d(z_BChw.to(weight.dtype), weight) + self.offset[None, :, None, None]
        return functional.pixel_shuffle(patches, self.patch_size)

    def decode(self, z_BChw: Tensor, grain_B1HW: Tensor | None = None) -> Tensor:
        """Latents [B, C, h, w], noise [B, 1, H, W] -> image [B, 1, H, W], about [0, 1], not clamped."""
        image = self.decode_linear(z_BChw)
        out: Tensor = image + self.refiner(image, z_BChw, grain_B1HW)
        return out

    def forward(self, image_B1HW: Tensor) -> Tensor:
        """Image [B, 1, H, W] in [0, 1] -> its reconstruction."""
        return self.decode(self.encode(image_B1HW).mean)

    @property
    def latent_channels(self) -> int:
        """C."""
        return len(self.gain)

    @property
    def factor(self) -> int:
        """Image pixels a latent cell."""
        return self.patch_size

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the decoder's last convolution."""
        weight = self.refiner.outlet[-1].weight
        assert isinstance(weight, nn.Parameter), "the refiner ends in a convolution"
        return weight

    @torch.no_grad()
    def copy_patches(self, other: PatchAutoencoder) -> None:
        """Take over another network's patch transform, of the same patch side and latent channels."""
        self.basis.copy_(other.basis)
        self.offset.copy_(other.offset)
        self.gain.copy_(other.gain)

    @torch.no_grad()
    def fit_patches(self, images_B1HW: Tensor, whiten: float = 0.75) -> Tensor:
        """Set the transform from images in [0, 1]; returns each latent channel's standard deviation.

        Component i is divided by std_i ** whiten, so that fine components weigh more than in the image but
        less than the coarse ones; then all are divided by the overall deviation.
        """
        patches = functional.pixel_unshuffle(images_B1HW.double(), self.patch_size).permute(0, 2, 3, 1).flatten(0, 2)
        offset = patches.mean(dim=0)
        centred = patches - offset
        values, vectors = torch.linalg.eigh(centred.t() @ centred / len(centred))
        order = values.argsort(descending=True)[: len(self.gain)]
        std = values[order].clamp_min(1e-12).sqrt()
        basis = vectors[:, order].t()
        basis = basis * torch.sign(basis.sum(dim=1, keepdim=True) + 1e-9)
        gain = std**-whiten
        gain = gain / (std * gain).pow(2).mean().sqrt()
        self.basis.copy_(basis)
        self.offset.copy_(offset)
        self.gain.copy_(gain)
        spread: Tensor = std * gain
        return spread


def _full_precision(like: Tensor) -> torch.autocast:
    """No autocast inside: bfloat16's 8 bits are too coarse for the grey levels of an image."""
    return torch.autocast(like.device.type, enabled=False)
