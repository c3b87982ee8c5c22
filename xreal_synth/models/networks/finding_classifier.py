"""Which findings an image shows: torchvision's classifiers at a small size, for grey images.

Shapes: B batch, L findings, F features, H and W image sides, S the side the network works at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torchvision.models import DenseNet
from torchvision.models.resnet import BasicBlock, ResNet

from xreal_synth.models.networks.blocks import standardised
from xreal_synth.models.networks.label_tokens import FINDINGS

Kind = Literal["densenet", "resnet"]


class FindingClassifier(ModelMixin, ConfigMixin):
    """Images [B, 1, H, W] in [0, 1] -> logits [B, L] of `findings`; several may be positive.

    Images are resized to `inner_size` and standardised one by one, so that exposure does not matter.

    `densenet` has a dense block of each length in `blocks`, `growth` channels a layer and `width` channels
    after the first convolution; `resnet` has the first len(blocks) stages of a ResNet of basic blocks, of
    64, 128, 256, 512 channels. `dropout` acts on the pooled features.
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
    ) -> None:
        super().__init__()
        self.inner_size = inner_size
        self.findings = tuple(findings)
        if kind == "densenet":
            self.trunk, self.feature_width = _dense_trunk(blocks, width, growth)
        else:
            self.trunk, self.feature_width = _residual_trunk(blocks)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.feature_width, len(self.findings)))

    def features(self, image_B1HW: Tensor) -> Tensor:
        """Images [B, 1, H, W] in [0, 1] -> the averaged last feature maps [B, F]."""
        maps = self.trunk(standardised(image_B1HW, self.inner_size))
        pooled: Tensor = maps.mean(dim=(2, 3))
        return pooled

    def logits_of(self, features_BF: Tensor) -> Tensor:
        """Features [B, F] -> logits [B, L]."""
        logits: Tensor = self.head(features_BF)
        return logits

    def forward(self, image_B1HW: Tensor) -> Tensor:
        """Images [B, 1, H, W] in [0, 1] -> logits [B, L], a finding each."""
        return self.logits_of(self.features(image_B1HW))


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
