"""Organ segmentation of images: the evaluator of whether an image shows the anatomy that was asked for.

Shapes: B batch, N organ codes (background first), H and W image sides, S the side the network works at.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from xreal_synth.models.networks.blocks import coordinates, standardised


class OrganSegmenter(ModelMixin, ConfigMixin):
    """Images [B, 1, H, W] in [0, 1] -> logits [B, N, H, W]; a U-Net at `inner_size` pixels.

    Images are standardised one by one, so that exposure does not matter.
    """

    @register_to_config
    def __init__(
        self, inner_size: int = 128, channels: Sequence[int] = (24, 48, 96, 128), kinds: int = 5
    ) -> None:
        super().__init__()
        self.inner_size = inner_size
        ins = [3, *channels[:-1]]
        self.down = nn.ModuleList([_pair(a, b) for a, b in zip(ins, channels, strict=True)])
        self.middle = _pair(channels[-1], channels[-1])
        ups = list(reversed(channels))
        self.up = nn.ModuleList([_pair(a + b, b) for a, b in zip([ups[0], *ups[:-1]], ups, strict=True)])
        self.outlet = nn.Conv2d(channels[0], kinds, 1)

    def forward(self, image_B1HW: Tensor) -> Tensor:
        """Images [B, 1, H, W] in [0, 1] -> logits [B, 5, H, W], an organ code each."""
        kept = self.features(image_B1HW)
        x = self.middle(functional.max_pool2d(kept[-1], 2))
        for stage, skip in zip(self.up, reversed(kept), strict=True):
            x = stage(torch.cat([functional.interpolate(x, scale_factor=2.0, mode="nearest"), skip], dim=1))
        logits = self.outlet(x).to(image_B1HW.dtype)
        return functional.interpolate(
            logits, size=image_B1HW.shape[-2:], mode="bilinear", align_corners=False
        )

    def features(self, image_B1HW: Tensor) -> list[Tensor]:
        """Images [B, 1, H, W] in [0, 1] -> what each level of the way down gives, finest first."""
        x = standardised(image_B1HW, self.inner_size)
        x = torch.cat([x, coordinates(x)], dim=1)
        kept: list[Tensor] = []
        for stage in self.down:
            x = stage(functional.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        return kept

    @torch.no_grad()
    def segment(self, image_B1HW: Tensor) -> Tensor:
        """Images [B, 1, H, W] in [0, 1] -> organ codes uint8 [B, H, W]."""
        label_map: Tensor = self(image_B1HW).argmax(dim=1).to(torch.uint8)
        return label_map


def _pair(ins: int, outs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(ins, outs, 3, padding=1, bias=False),
        nn.GroupNorm(8, outs),
        nn.SiLU(),
        nn.Conv2d(outs, outs, 3, padding=1, bias=False),
        nn.GroupNorm(8, outs),
        nn.SiLU(),
    )
