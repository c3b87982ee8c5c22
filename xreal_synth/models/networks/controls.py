"""What makes images follow organ masks: the small bundle's Anatomy Controller, and ControlNet (Zhang et al., 2023).

The Anatomy Controller: organ mask -> latents of the first stage -> rough image. The paper's is a VAE that is given a
mask and trained to return the image; here the encoder is a small U-Net that returns the mean latents of images with
this anatomy, and the decoder is the first stage's. ControlNet's network is diffusers' ControlNetModel; here is how
it is made from a label-conditioned denoiser and what it is shown.

Shapes: B batch, K patch side, C latent channels, H and W image sides, h = H / K, w = W / K.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from xreal_synth.models.networks.blocks import coordinates, residual_blocks
from xreal_synth.models.networks.patch_autoencoder import LatentPosterior, PatchAutoencoder

CODE_SCALE = 4


class MaskEncoder(nn.Module):
    """One-hot organ codes [B, N, H, W] -> latents [B, C, h, w], seeing the whole mask at three scales."""

    def __init__(self, kinds: int, patch_size: int, latent_channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.inlet = nn.Conv2d(kinds * patch_size**2 + 2, width, 3, padding=1)
        self.fine = residual_blocks(width, blocks)
        self.down_middle = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.middle = residual_blocks(width, blocks)
        self.down_coarse = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.coarse = residual_blocks(2 * width, blocks)
        self.join_middle = nn.Conv2d(3 * width, width, 3, padding=1)
        self.join_fine = nn.Conv2d(2 * width, width, 3, padding=1)
        self.last = residual_blocks(width, blocks)
        self.outlet = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, latent_channels, 3, padding=1))

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


def _twice(x_BCHW: Tensor) -> Tensor:
    return functional.interpolate(x_BCHW, scale_factor=2.0, mode="nearest")


HINT_KEY: Final = "_hint"
HINT: Final = "organ codes 1 to 4, one channel each of 0 and 1"
"""Stands in the part's config.json under HINT_KEY: what `conditioning_channels` mean. A ControlNet trained
elsewhere has a table in its place: for each code 0 to 4 the value of every channel."""
HINT_CHANNELS: Final = 4
_ONE_HOT: Final = [[float(code == organ) for organ in range(1, 5)] for code in range(5)]
SHARED_SHAPE: Final = (
    "in_channels", "block_out_channels", "down_block_types", "layers_per_block", "cross_attention_dim",
    "addition_embed_type",
)  # fmt: skip


def build_controlnet(unet: UNet2DConditionModel, hint_channels: Sequence[int]) -> ControlNetModel:
    """A ControlNet with the denoiser's encoder, whose residuals are zero until it is trained.

    `hint_channels` are the widths of the hint's embedding, which halves the hint's sides between any two of
    them. diffusers' own `from_unet` drops `addition_embed_type_num_heads`, and fails with pooled labels.
    """
    controlnet: ControlNetModel = ControlNetModel(
        **shared_config(unet.config),
        conditioning_channels=HINT_CHANNELS,
        conditioning_embedding_out_channels=tuple(hint_channels),
    )
    controlnet.register_to_config(**{HINT_KEY: HINT})
    missing, _ = controlnet.load_state_dict(unet.state_dict(), strict=False)
    own = [name for name in missing if not name.startswith("controlnet_")]
    assert not own, f"the denoiser has no weights for {own}"
    return controlnet


def shared_config(unet_config: Mapping[str, Any]) -> dict[str, Any]:
    """What a ControlNet's config has from its denoiser's."""
    names = inspect.signature(ControlNetModel.__init__).parameters.keys() & unet_config.keys()
    return {name: unet_config[name] for name in names}


def organ_hint(label_map_BHW: Tensor, side: int, table: Sequence[Sequence[float]] = _ONE_HOT) -> Tensor:
    """Organ codes [B, H, W] -> the values that stand for them [B, C, side, side], resized by nearest pixel.

    Without a `table` [5][C] one channel per organ, of 0 and 1.
    """
    values = torch.tensor(table, device=label_map_BHW.device)
    hint = values[label_map_BHW.long()].permute(0, 3, 1, 2).contiguous()
    return hint if hint.shape[-1] == side else functional.interpolate(hint, size=(side, side), mode="nearest")


def hint_table(config: Any) -> list[list[float]] | None:
    """What stands for each organ code in this ControlNet's hint, None if its config does not say."""
    said, channels = config.get(HINT_KEY), config["conditioning_channels"]
    table = _ONE_HOT if said == HINT else said
    fits = isinstance(table, list | tuple) and len(table) == len(_ONE_HOT)
    if not fits or any(len(row) != channels for row in table):
        return None
    return [[float(value) for value in row] for row in table]


def hint_side(config: Any, latent_side: int) -> int:
    """The side of the hint that a ControlNet of this config embeds to the latents' side."""
    return int(latent_side * 2 ** (len(config["conditioning_embedding_out_channels"]) - 1))


def misfit(config: Any, unet_config: Any) -> tuple[str, str] | None:
    """What keeps a ControlNet of this config from a denoiser of that: (found, wanted), or None if they fit."""
    if hint_table(config) is None:
        hint = f"{config['conditioning_channels']} channels of {config.get(HINT_KEY, 'unknown meaning')}"
        return (f"a hint of {hint}", f"{HINT!r} in {HINT_CHANNELS} channels, or a table ({HINT_KEY} in config.json)")
    other = [name for name in SHARED_SHAPE if config[name] != unet_config.get(name)]
    if other:
        reported = ", ".join(f"{name} {config[name]}, the denoiser has {unet_config.get(name)}" for name in other)
        return reported, "a ControlNet of this bundle's denoiser"
    return None
