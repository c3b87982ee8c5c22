"""A second organ segmenter, of another build than OrganSegmenter: a residual encoder and a feature pyramid.

Shapes: B batch, N organ codes (background first), H and W image sides, S the side the network works at.
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


class PyramidSegmenter(ModelMixin, ConfigMixin):
    """Images [B, 1, H, W] in [0, 1] -> logits [B, N, H, W].

    The first stages of a ResNet of basic blocks (64, 128, 256, 512 channels, halved each; the first at half
    of `inner_size`), their feature pyramid of `width` channels summed at the finest level, with group norm.
    """

    @register_to_config
    def __init__(
        self, inner_size: int = 160, blocks: Sequence[int] = (1, 1, 1), width: int = 48, kinds: int = 5
    ) -> None:
        super().__init__()
        self.inner_size = inner_size
        body = ResNet(
            BasicBlock, [*blocks, 1, 1, 1, 1][:4], num_classes=1, norm_layer=partial(nn.GroupNorm, 8)
        )
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
        logits = self.outlet(finest).to(image_B1HW.dtype)
        return functional.interpolate(
            logits, size=image_B1HW.shape[-2:], mode="bilinear", align_corners=False
        )

    @torch.no_grad()
    def segment(self, image_B1HW: Tensor) -> Tensor:
        """Images [B, 1, H, W] in [0, 1] -> organ codes uint8 [B, H, W]."""
        label_map: Tensor = self(image_B1HW).argmax(dim=1).to(torch.uint8)
        return label_map
