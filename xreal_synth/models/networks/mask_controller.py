"""Anatomy Controller of the small bundle: organ mask -> latents of the first stage -> rough image.

The paper's controller is a VAE that is given a mask and trained to return the image; here the encoder is a
small U-Net that returns the mean latents of images with this anatomy, and the decoder is the first stage's.

Shapes: B batch, K patch side, C latent channels, H and W image sides, h = H / K, w = W / K.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from xreal_synth.models.networks.blocks import ResidualBlock, coordinates
from xreal_synth.models.networks.patch_autoencoder import LatentPosterior, PatchAutoencoder

CODE_SCALE = 4


class MaskEncoder(nn.Module):
    """One-hot organ codes [B, N, H, W] -> latents [B, C, h, w], seeing the whole mask at three scales."""

    def __init__(self, kinds: int, patch_size: int, latent_channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.inlet = nn.Conv2d(kinds * patch_size**2 + 2, width, 3, padding=1)
        self.fine = _stage(width, blocks)
        self.down_middle = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.middle = _stage(width, blocks)
        self.down_coarse = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.coarse = _stage(2 * width, blocks)
        self.join_middle = nn.Conv2d(3 * width, width, 3, padding=1)
        self.join_fine = nn.Conv2d(2 * width, width, 3, padding=1)
        self.last = _stage(width, blocks)
        self.outlet = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, latent_channels, 3, padding=1)
        )

    def forward(self, kinds_BNHW: Tensor) -> Tensor:
        """Organ channels [B, N, H, W] of 0 and 1 -> latents [B, C, h, w], sides over `patch_size`."""
        folded = functional.pixel_unshuffle(kinds_BNHW, self.patch_size)
        fine = self.fine(self.inlet(torch.cat([folded, coordinates(folded)], dim=1)))
        middle = self.middle(self.down_middle(fine))
        coarse = self.coarse(self.down_coarse(middle))
        middle = self.join_middle(torch.cat([middle, _twice(coarse)], dim=1))
        out: Tensor = self.outlet(self.last(self.join_fine(torch.cat([fine, _twice(middle)], dim=1))))
        return out


class MaskController(ModelMixin, ConfigMixin):
    """Organ masks (code / 4) [B, 1 or 3, H, W] -> rough images [B, 1, H, W] in about [0, 1]."""

    @register_to_config
    def __init__(
        self,
        patch_size: int = 8,
        latent_channels: int = 8,
        refiner_width: int = 64,
        refiner_blocks: int = 5,
        width: int = 64,
        blocks: int = 2,
        kinds: int = 5,
    ) -> None:
        super().__init__()
        self.kinds = kinds
        self.encoder = MaskEncoder(kinds, patch_size, latent_channels, width, blocks)
        self.first_stage = PatchAutoencoder(patch_size, latent_channels, refiner_width, refiner_blocks)

    def encode(self, mask_BcHW: Tensor) -> LatentPosterior:
        """Organ codes divided by 4 [B, 1 or 3, H, W] -> posterior over latents [B, C, h, w] of zero width."""
        label_map = (mask_BcHW[:, 0] * CODE_SCALE).round().long().clamp(0, self.kinds - 1)
        kinds = functional.one_hot(label_map, self.kinds).movedim(-1, 1).to(mask_BcHW.dtype)
        mean = self.encoder(kinds)
        return LatentPosterior(mean=mean, std=torch.zeros_like(mean))

    def decode(self, z_BChw: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> rough image [B, 1, H, W], not clamped."""
        image: Tensor = self.first_stage.decode(z_BChw)
        return image

    def forward(self, mask_BcHW: Tensor) -> Tensor:
        """Organ codes divided by 4 [B, 1 or 3, H, W] -> rough image [B, 1, H, W], not clamped."""
        return self.decode(self.encode(mask_BcHW).mean)


def _stage(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*[ResidualBlock(width) for _ in range(blocks)])


def _twice(x_BCHW: Tensor) -> Tensor:
    return functional.interpolate(x_BCHW, scale_factor=2.0, mode="nearest")
