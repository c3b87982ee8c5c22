"""ControlNet (Zhang et al., 2023) on a label-conditioned denoiser, with the organ mask as its hint.

The network is diffusers' ControlNetModel; this file says how it is made from a denoiser and what it is shown.

Shapes: B batch, H and W image sides, h and w latent sides.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional

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
        return (
            f"a hint of {hint}",
            f"{HINT!r} in {HINT_CHANNELS} channels, or a table ({HINT_KEY} in config.json)",
        )
    other = [name for name in SHARED_SHAPE if config[name] != unet_config.get(name)]
    if other:
        reported = ", ".join(
            f"{name} {config[name]}, the denoiser has {unet_config.get(name)}" for name in other
        )
        return reported, "a ControlNet of this bundle's denoiser"
    return None
