"""Organ segmentation of images, by networks of two builds: they tell whether an image shows the anatomy asked for.

Shapes: B batch, N organ codes (background first), H and W image sides, h and w those of inner maps.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import FeaturePyramidNetwork

from xreal_synth.models.networks.blocks import coordinates, standardised


class SegmentingNetwork(ModelMixin, ConfigMixin):
    """Images [B, 1, H, W] in [0, 1] -> logits [B, N, H, W], at `inner_size` pixels inside.

    Images are standardised one by one, so that exposure does not matter.
    """

    @torch.no_grad()
    def segment(self, image_B1HW: Tensor) -> Tensor:
        """Images [B, 1, H, W] in [0, 1] -> organ codes uint8 [B, H, W]."""
        label_map: Tensor = self(image_B1HW).argmax(dim=1).to(torch.uint8)
        return label_map

    @staticmethod
    def full_size(logits_BNhw: Tensor, image_B1HW: Tensor) -> Tensor:
        """Logits at the images' size and in their number format [B, N, H, W]."""
        logits = logits_BNhw.to(image_B1HW.dtype)
        return functional.interpolate(logits, size=image_B1HW.shape[-2:], mode="bilinear", align_corners=False)


class OrganSegmenter(SegmentingNetwork):
    """A U-Net of `channels`."""

    @register_to_config
    def __init__(self, inner_size: int = 128, channels: Sequence[int] = (24, 48, 96, 128), kinds: int = 5) -> None:
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
        return self.full_size(self.outlet(x), image_B1HW)

    def features(self, image_B1HW: Tensor) -> list[Tensor]:
        """Images [B, 1, H, W] in [0, 1] -> what each level of the way down gives, finest first."""
        x = standardised(image_B1HW, self.inner_size)
        x = torch.cat([x, coordinates(x)], dim=1)
        kept: list[Tensor] = []
        for stage in self.down:
            x = stage(functional.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        return kept


def _pair(ins: int, outs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(ins, outs, 3, padding=1, bias=False),
        nn.GroupNorm(8, outs),
        nn.SiLU(),
        nn.Conv2d(outs, outs, 3, padding=1, bias=False),
        nn.GroupNorm(8, outs),
        nn.SiLU(),
    )


class PyramidSegmenter(SegmentingNetwork):
    """Of another build: a residual encoder and a feature pyramid.

    The first stages of a ResNet of basic blocks (64, 128, 256, 512 channels, halved each; the first at half
    of `inner_size`), their feature pyramid of `width` channels summed at the finest level, with group norm.
    """

    @register_to_config
    def __init__(
        self, inner_size: int = 160, blocks: Sequence[int] = (1, 1, 1), width: int = 48, kinds: int = 5
    ) -> None:
        super().__init__()
        self.inner_size = inner_size
        body = ResNet(BasicBlock, [*blocks, 1, 1, 1, 1][:4], num_classes=1, norm_layer=partial(nn.GroupNorm, 8))
        stem = nn.Conv2d(3, 64, 5, stride=2, padding=2, bias=False)
        self.stem = nn.Sequential(stem, nn.GroupNorm(8, 64), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList([body.layer1, body.layer2, body.layer3, body.layer4][: len(blocks)])
        ins = [64 * 2**level for level in range(len(blocks))]
        self.pyramid = FeaturePyramidNetwork(ins, width)
        self.outlet = nn.Sequential(
            nn.GroupNorm(8, width), nn.ReLU(inplace=True), nn.Conv2d(width, kinds, 3, padding=1)
        )

    def forward(self, image_B1HW: Tensor) -> Tensor:
        """Images [B, 1, H, W] in [0, 1] -> logits [B, 5, H, W], an organ code each."""
        x = standardised(image_B1HW, self.inner_size)
        x = self.stem(torch.cat([x, coordinates(x)], dim=1))
        levels: OrderedDict[str, Tensor] = OrderedDict()
        for number, stage in enumerate(self.stages):
            x = stage(x)
            levels[str(number)] = x
        finest, *coarser = self.pyramid(levels).values()
        for level in coarser:
            finest = finest + functional.interpolate(
                level, size=finest.shape[-2:], mode="bilinear", align_corners=False
            )
        return self.full_size(self.outlet(finest), image_B1HW)
