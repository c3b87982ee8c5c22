"""Denoiser of a super-resolution diffusion in pixel space (SR3, Saharia et al. 2021), in Cheff's sizes.

It sees the noisy large image beside the small image resized to the same side, and predicts the noise. Cheff
(Weber et al. 2023, section 3): 256 -> 1024 pixels, grey, images in [-1, 1], 2000 training steps of a cosine
schedule, sampled with 100 DDIM steps without noise.

Shapes: B batch, C channels, H and W sides of the large image, E width of the time embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional


class Convolved(nn.Module):
    """[B, C, H, W] -> [B, C', H, W]: 3x3 convolution, group norm, SiLU."""

    def __init__(self, ins: int, outs: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(ins, outs, 3, padding=1)
        self.norm = nn.GroupNorm(groups, outs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]."""
        out: Tensor = functional.silu(self.norm(self.conv(x_BCHW)))
        return out


class TimedBlock(nn.Module):
    """Two convolutions with the time between them, added to the input (through 1x1 where widths differ)."""

    def __init__(self, ins: int, outs: int, time: int, groups: int) -> None:
        super().__init__()
        self.time = nn.Linear(time, outs)
        self.first = Convolved(ins, outs, groups)
        self.second = Convolved(outs, outs, groups)
        self.skip = nn.Identity() if ins == outs else nn.Conv2d(ins, outs, 1)

    def forward(self, x_BCHW: Tensor, t_BE: Tensor) -> Tensor:
        """Maps [B, C, H, W] and the time's embedding [B, E] -> [B, C', H, W]."""
        timed = self.time(functional.silu(t_BE))[:, :, None, None]
        out: Tensor = self.second(self.first(x_BCHW) + timed) + self.skip(x_BCHW)
        return out


class PixelAttention(nn.Module):
    """Attention among all pixels behind a norm, added to the input.

    `linear` is the form whose cost grows with the number of pixels alone (Shen et al. 2018): queries are
    normalised over features, keys over pixels, and the output is normed.
    """

    def __init__(self, width: int, heads: int, head_width: int, linear: bool) -> None:
        super().__init__()
        self.heads = heads
        self.linear = linear
        self.norm = nn.GroupNorm(1, width)
        self.qkv = nn.Conv2d(width, 3 * heads * head_width, 1, bias=False)
        self.out = nn.Conv2d(heads * head_width, width, 1)
        self.out_norm = nn.GroupNorm(1, width) if linear else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        batch, _, height, width = x_BCHW.shape
        split = self.qkv(self.norm(x_BCHW)).reshape(batch, 3, self.heads, -1, height * width)
        q, k, v = split.unbind(1)
        if self.linear:
            mixed = _linear_attention(q, k, v)
        else:
            mixed = functional.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
        out: Tensor = x_BCHW + self.out_norm(self.out(mixed.reshape(batch, -1, height, width)))
        return out


class Level(nn.Module):
    """Two blocks, attention or none, and the way to the next level or none."""

    def __init__(self, first: nn.Module, second: nn.Module, attention: nn.Module, onward: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.attention = attention
        self.onward = onward

    def forward(self, x_BCHW: Tensor, t_BE: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [B, C, H, W] and the time's embedding [B, E] -> those of this level, and those for the next."""
        kept = self.attention(self.second(self.first(x_BCHW, t_BE), t_BE))
        return kept, self.onward(kept)


class Sr3UNet(ModelMixin, ConfigMixin):
    """Noisy image, small image resized to its side, timestep -> noise [B, channels, H, W].

    `multipliers` give each level's width over `width`; the sides must be multiples of
    2 ** (len(multipliers) - 1). `attention_levels` of the way down and of the way up have attention, each
    counted from its end, as Cheff's have. `sample_size` is the side of the images that it makes.
    """

    @register_to_config
    def __init__(
        self,
        width: int = 16,
        multipliers: Sequence[int] = (1, 2, 4, 8, 16, 32, 32, 32),
        inlet_width: int = 10,
        channels: int = 1,
        attention_levels: int = 4,
        heads: int = 4,
        head_width: int = 32,
        groups: int = 8,
        sample_size: int = 1024,
    ) -> None:
        super().__init__()
        self.sample_size = sample_size
        widths = [inlet_width, *(width * multiplier for multiplier in multipliers)]
        levels, time = len(multipliers), 4 * width
        self.inlet = nn.Conv2d(2 * channels, inlet_width, 7, padding=3)
        self.time_in = nn.Linear(width, time)
        self.time_out = nn.Linear(time, time)

        def level(at: int, ins: int, outs: int, onward: nn.Module) -> Level:
            seen = at >= levels - attention_levels
            attention = PixelAttention(outs, heads, head_width, linear=True) if seen else nn.Identity()
            first, second = TimedBlock(ins, outs, time, groups), TimedBlock(outs, outs, time, groups)
            return Level(first, second, attention, onward)

        self.down = nn.ModuleList(
            level(at, ins, outs, nn.Conv2d(outs, outs, 4, 2, 1) if at + 1 < levels else nn.Identity())
            for at, (ins, outs) in enumerate(pairwise(widths))
        )
        deepest = widths[-1]
        self.middle_first = TimedBlock(deepest, deepest, time, groups)
        self.middle_attention = PixelAttention(deepest, heads, head_width, linear=False)
        self.middle_second = TimedBlock(deepest, deepest, time, groups)
        self.up = nn.ModuleList(
            level(at, 2 * ins, outs, nn.ConvTranspose2d(outs, outs, 4, 2, 1))
            for at, (ins, outs) in enumerate(pairwise(reversed(widths[1:])))
        )
        self.last = nn.Sequential(Convolved(width, width, groups), Convolved(width, width, groups))
        self.outlet = nn.Conv2d(width, channels, 1)

    def forward(self, noisy_BCHW: Tensor, small_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """Noisy images [B, 1, H, W], small ones resized to H and W, steps [B] -> the noise [B, 1, H, W]."""
        at = sinusoid(t_B, self.config.width).to(noisy_BCHW.dtype)
        t_BE = self.time_out(functional.gelu(self.time_in(at)))
        x, kept = self.inlet(torch.cat([noisy_BCHW, small_BCHW], dim=1)), []
        for level in self.down:
            skip, x = level(x, t_BE)
            kept.append(skip)
        x = self.middle_second(self.middle_attention(self.middle_first(x, t_BE)), t_BE)
        for level in self.up:
            _, x = level(torch.cat([x, kept.pop()], dim=1), t_BE)
        out: Tensor = self.outlet(x + self.last(x))
        return out


def sinusoid(t_B: Tensor, width: int) -> Tensor:
    """Timesteps -> [B, width]: sines, then cosines, of wavelengths up to 10000."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=t_B.device) * -(math.log(10000) / (half - 1)))
    angles = t_B[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def cosine_betas(steps: int = 2000, offset: float = 0.008) -> Tensor:
    """The cosine schedule (Nichol and Dhariwal 2021, eq. 17) with betas kept in 0.0001..0.9999: float64 [steps]."""
    at = torch.linspace(0, steps, steps + 1, dtype=torch.float64) / steps
    abar = torch.cos((at + offset) / (1 + offset) * torch.pi / 2) ** 2
    return (1 - abar[1:] / abar[:-1]).clamp(0.0001, 0.9999)


def _linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B, heads, features, pixels], three times -> the same shape."""
    context = torch.matmul(k.softmax(dim=-1), v.mT)
    scaled = q.softmax(dim=-2) * q.shape[-2] ** -0.5
    return torch.matmul(context.mT, scaled)
