"""Building blocks that the small networks share. Shapes: B batch, C channels, H height, W width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """[B, C, H, W] -> the same shape: two 3x3 convolutions with group norm, added to the input.

    The last convolution starts at zero, so that a fresh block is the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            zeroed(nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        out: Tensor = x_BCHW + self.body(x_BCHW)
        return out


def residual_blocks(channels: int, count: int) -> nn.Sequential:
    """As many blocks, one after another."""
    return nn.Sequential(*[ResidualBlock(channels) for _ in range(count)])


def zeroed(module: nn.Conv2d) -> nn.Conv2d:
    """The convolution with weights and bias set to zero."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def coordinates(like: Tensor) -> Tensor:
    """[B, *, H, W] -> [B, 2, H, W]: rows and columns as numbers from -1 to 1."""
    batch, _, height, width = like.shape
    rows = torch.linspace(-1, 1, height, device=like.device, dtype=like.dtype)
    columns = torch.linspace(-1, 1, width, device=like.device, dtype=like.dtype)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return grid.expand(batch, 2, height, width)


def standardised(image_B1HW: Tensor, size: int) -> Tensor:
    """Images [B, 1, H, W] in [0, 1] -> [B, 1, size, size], each of mean 0 and deviation 1."""
    inner = functional.interpolate(image_B1HW, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    mean, std = inner.mean(dim=(1, 2, 3), keepdim=True), inner.std(dim=(1, 2, 3), keepdim=True)
    return (inner - mean) / (std + 1e-3)
