"""The finding classifier, and where it sees findings: torchvision's classifiers at a small size, for grey images.

Shapes: B batch, L findings, F features, H and W image sides, S the side the network works at, m a map's side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import DenseNet
from torchvision.models.resnet import BasicBlock, ResNet

from xreal_synth.models.networks.blocks import standardised
from xreal_synth.models.networks.conditioning import FINDINGS

Kind = Literal["densenet", "resnet"]
SHARPNESS: Final = 4.0
"""Of the pooling of a map: a single cell of 16 x 16 that is 1.4 above all others makes half of the mean."""


class FindingClassifier(ModelMixin, ConfigMixin):
    """Images [B, 1, H, W] in [0, 1] -> logits [B, L] of `findings`; several may be positive.

    Images are resized to `inner_size` and standardised one by one, so that exposure does not matter.

    `densenet` has a dense block of each length in `blocks`, `growth` channels a layer and `width` channels
    after the first convolution; `resnet` has the first len(blocks) stages of a ResNet of basic blocks, of
    64, 128, 256, 512 channels. `dropout` acts on the pooled features.

    With `places` the head looks at every cell of the last feature maps: `maps` says where, and an image's logit is
    a soft maximum of its map. Such a network has no `logits_of`.
    """

    @register_to_config
    def __init__(
        self,
        kind: Kind = "resnet",
        inner_size: int = 128,
        blocks: Sequence[int] = (1, 1, 1),
        width: int = 64,
        growth: int = 12,
        dropout: float = 0.0,
        findings: Sequence[str] = FINDINGS,
        places: bool = False,
    ) -> None:
        super().__init__()
        self.inner_size = inner_size
        self.places = places
        self.findings = tuple(findings)
        if kind == "densenet":
            self.trunk, self.feature_width = _dense_trunk(blocks, width, growth)
        else:
            self.trunk, self.feature_width = _residual_trunk(blocks)
        sizes = self.feature_width, len(self.findings)
        self.head = nn.Sequential(
            nn.Dropout2d(dropout) if places else nn.Dropout(dropout),
            nn.Conv2d(*sizes, 1) if places else nn.Linear(*sizes),
        )

    def features(self, image_B1HW: Tensor) -> Tensor:
        """Images [B, 1, H, W] in [0, 1] -> the averaged last feature maps [B, F]."""
        maps = self.trunk(standardised(image_B1HW, self.inner_size))
        pooled: Tensor = maps.mean(dim=(2, 3))
        return pooled

    def logits_of(self, features_BF: Tensor) -> Tensor:
        """Features [B, F] -> logits [B, L]."""
        logits: Tensor = self.head(features_BF)
        return logits

    def maps(self, image_B1HW: Tensor) -> Tensor:
        """Images [B, 1, H, W] in [0, 1] -> logits of every cell [B, L, m, m]; of a network with `places` only."""
        maps: Tensor = self.head(self.trunk(standardised(image_B1HW, self.inner_size)))
        return maps

    def forward(self, image_B1HW: Tensor) -> Tensor:
        """Images [B, 1, H, W] in [0, 1] -> logits [B, L], a finding each."""
        if self.places:
            return pooled_logits(self.maps(image_B1HW))
        return self.logits_of(self.features(image_B1HW))


def pooled_logits(maps_BLmm: Tensor) -> Tensor:
    """Maps of logits -> logits [B, L]: the logarithm of the mean exponential, between the mean and the maximum."""
    cells = SHARPNESS * maps_BLmm.float().flatten(2)
    return (cells.logsumexp(dim=2) - math.log(cells.shape[2])) / SHARPNESS


def peaks(maps_BLmm: Tensor, side: int) -> Tensor:
    """Where each map is highest: int64 [B, L], one of side x side cells, numbered row by row.

    The map is brought to that side by bicubic interpolation, so that a peak lies between its own cells.
    """
    fine = functional.interpolate(maps_BLmm.float(), size=(side, side), mode="bicubic", align_corners=False)
    return fine.flatten(2).argmax(dim=2)


def _dense_trunk(blocks: Sequence[int], width: int, growth: int) -> tuple[nn.Module, int]:
    """DenseNet's feature part for one input channel, and the number of its features."""
    network = DenseNet(growth_rate=growth, block_config=tuple(blocks), num_init_features=width, num_classes=1)
    network.features.conv0 = nn.Conv2d(1, width, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(network.features.conv0.weight)
    trunk = nn.Sequential(network.features, nn.ReLU(inplace=True))
    return trunk, int(network.classifier.in_features)


def _residual_trunk(blocks: Sequence[int]) -> tuple[nn.Module, int]:
    """The first stages of a ResNet for one input channel, and the number of its features."""
    network = ResNet(BasicBlock, [*blocks, 1, 1, 1, 1][:4], num_classes=1)
    network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    stages = [network.layer1, network.layer2, network.layer3, network.layer4][: len(blocks)]
    trunk = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool, *stages)
    return trunk, 64 * 2 ** (len(stages) - 1)
