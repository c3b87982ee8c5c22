"""diffusers' UNet2DConditionModel laid out for sampling: the same weights, the same numbers up to rounding.

What differs: memory is channels last from end to end, so that the way to tokens and back copies nothing;
queries, keys and values are one product; the prompt's keys and values, and what it adds to the time
embedding, are computed once for all steps; residuals are added inside the products; all blocks' shifts by
the time embedding are one product; on a CPU weights are packed once (layers.py).

Shapes: B batch, C channels, H and W latent sides, N = H W positions, L prompt tokens, D their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from xreal_synth.models.devices import Compile
from xreal_synth.models.layers import Conv, Linear, PackedConv, PackedLinear, grouped, packing_works, unpack
from xreal_synth.models.recorded import Pair, Recorded

_DOWN: Final = {"DownBlock2D", "CrossAttnDownBlock2D"}
_UP: Final = {"UpBlock2D", "CrossAttnUpBlock2D"}
_KNOWN: Final[dict[str, tuple[Any, ...]]] = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None, "text"),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_type": ("positional",),
    "upcast_attention": (False,),
}
_SHAPES: Final = 4096
"""How often the compiler may meet a block with other widths, sides or micro-batch: each is a program of its own."""


@dataclass(frozen=True, slots=True)
class _Feed:
    """What blocks take beside the state: shifts [B, C] of the residual blocks, keys and values of the prompt."""

    shifts: Sequence[Tensor]
    prompt: Sequence[Pair]


def suits(unet: nn.Module, sides: tuple[int, int]) -> bool:
    """Whether FastUNet computes this network on latents of these sides: it does XReal's, Cheff's with prompts,
    Stable Diffusion's and xreal-mini's."""
    if not isinstance(unet, UNet2DConditionModel) or any(side % 2**unet.num_upsamplers for side in sides):
        return False
    config = unet.config
    return (
        all(config.get(key, allowed[0]) in allowed for key, allowed in _KNOWN.items())
        and set(config["down_block_types"]) <= _DOWN
        and set(config["up_block_types"]) <= _UP
    )


class FastUNet(nn.Module):
    """Latents, timesteps and prompt tokens -> the prediction, as the UNet that it is made from."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        make = _LayerMaker(unet.conv_in.weight)
        self.time_proj, self.time_embedding = unet.time_proj, unet.time_embedding
        self.prompt_embedding = unet.add_embedding if unet.config.get("addition_embed_type") else None
        self.inlet = make.conv(unet.conv_in)
        self._down = [_Stage(block, make) for block in unet.down_blocks]
        self._middle = _Stage(unet.mid_block, make)
        self._up = [_Stage(block, make) for block in unet.up_blocks]
        self.stages = nn.ModuleList([*self._down, self._middle, *self._up])
        self.norm = unet.conv_norm_out
        self.outlet = make.conv(unet.conv_out)
        self.shifts = make.shifts()
        self._widths = make.widths
        self._attending = make.attending
        self._prompt: tuple[Tensor, list[Pair], Tensor | None] | None = None

    def forward(
        self,
        z_BCHW: Tensor,
        t_B: Tensor,
        encoder_hidden_states: Tensor,
        return_dict: bool = False,
        down_block_additional_residuals: Sequence[Tensor] = (),
        mid_block_additional_residual: Tensor | None = None,
    ) -> tuple[Tensor]:
        """diffusers' arguments; the last two are a ControlNet's. Sides are multiples of the deepest stride."""
        prompt, added = self._from_prompt(encoder_hidden_states)
        residuals = (down_block_additional_residuals, mid_block_additional_residual)
        return (self.compute(z_BCHW, t_B, prompt, added, *residuals),)

    def compute(
        self,
        z_BCHW: Tensor,
        t_B: Tensor,
        prompt: list[Pair],
        added_BD: Tensor | None,
        down_residuals: Sequence[Tensor],
        middle_residual: Tensor | None,
    ) -> Tensor:
        """The same with the prompt's part given: what is compiled."""
        embedded = self.time_embedding(self.time_proj(t_B).to(z_BCHW.dtype))
        if added_BD is not None:
            embedded = embedded + added_BD
        feed = _Feed(self.shifts(functional.silu(embedded)).split(self._widths, dim=1), prompt)
        x = self.inlet(z_BCHW.contiguous(memory_format=torch.channels_last))
        skips = [x]
        for stage in self._down:
            skips += stage.down(skips[-1], feed)
        x = self._middle.middle(skips[-1], feed)
        if middle_residual is not None:
            x = x + middle_residual
            skips = [a + b for a, b in zip(skips, down_residuals, strict=True)]
        for stage in self._up:
            x = stage.up(x, skips, feed)
        out: Tensor = self.outlet(_normed(self.norm, x))
        return out

    def compile_for(self, how: Compile) -> None:
        """`inductor` compiles the blocks that repeat, `graphs` records all of it as CUDA graphs."""
        if how == "none":
            return
        if how == "graphs":
            self.compute = Recorded(self.compute)  # type: ignore[method-assign,assignment]
            return
        unpack(self)
        limits = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, _SHAPES)
        limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, _SHAPES)
        for module in self.modules():
            if isinstance(module, _Residual | _Transformer):
                module.compile(fullgraph=True, dynamic=False)

    def release(self) -> None:
        """Forgets what was recorded for other numbers of rows."""
        if isinstance(self.compute, Recorded):
            self.compute.release()

    def _from_prompt(self, tokens_BLD: Tensor) -> tuple[list[Pair], Tensor | None]:
        """Computed when other tokens come than in the last call; the same tensor means the same tokens."""
        if self._prompt is None or self._prompt[0] is not tokens_BLD:
            keys = [block.keys_and_values(tokens_BLD) for block in self._attending]
            added = None if self.prompt_embedding is None else self.prompt_embedding(tokens_BLD)
            self._prompt = tokens_BLD, keys, added
        return self._prompt[1:]


class _LayerMaker:
    """Makes the layers, in the order in which they run, and remembers what is fed to them."""

    def __init__(self, like: Tensor) -> None:
        packed = like.device.type == "cpu" and like.dtype == torch.bfloat16 and packing_works()
        self._conv: type[Conv | PackedConv] = PackedConv if packed else Conv
        self._linear: type[Linear | PackedLinear] = PackedLinear if packed else Linear
        self._shifts: list[nn.Linear] = []
        self.attending: list[_Block] = []

    def conv(self, conv: nn.Conv2d) -> Conv | PackedConv:
        return self._conv(conv)

    def linear(self, *layers: Any, gelu: bool = False) -> Linear | PackedLinear:
        """Linear layers or 1x1 convolutions of one input as one product, their outputs side by side."""
        weights = torch.cat([layer.weight.detach().flatten(1) for layer in layers])
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        return self._linear(weights, torch.cat(biases) if biases else None, gelu=gelu)

    def shift(self, layer: nn.Linear) -> int:
        """Registers a residual block's own layer; its number among the shifts."""
        self._shifts.append(layer)
        return len(self._shifts) - 1

    def shifts(self) -> Linear | PackedLinear:
        return self.linear(*self._shifts)

    @property
    def widths(self) -> list[int]:
        return [layer.out_features for layer in self._shifts]


class _Stage(nn.Module):
    """One block of the UNet: residual blocks, each with attention or without, and a change of size."""

    def __init__(self, block: Any, make: _LayerMaker) -> None:
        super().__init__()
        attentions = getattr(block, "attentions", None) or ()
        residuals = [_Residual(each, make) for each in block.resnets]
        transformers = [_Transformer(each, make) for each in attentions]
        self.residuals, self.attentions = nn.ModuleList(residuals), nn.ModuleList(transformers)
        self._numbers = [residual.number for residual in residuals]
        self._prompts = [transformer.numbers for transformer in transformers]
        sizers = getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None)
        self.sizer = make.conv(sizers[0].conv) if sizers else None

    def down(self, x: Tensor, feed: _Feed) -> list[Tensor]:
        """Every state on the way, the last one half the size if the stage ends so."""
        states = []
        for at in range(len(self.residuals)):
            x = self._attended(at, self._shifted(at, x, feed), feed)
            states.append(x)
        return states if self.sizer is None else [*states, self.sizer(x)]

    def middle(self, x: Tensor, feed: _Feed) -> Tensor:
        x = self._shifted(0, x, feed)
        for at in range(1, len(self.residuals)):
            x = self._shifted(at, self._attended(at - 1, x, feed), feed)
        return x

    def up(self, x: Tensor, skips: list[Tensor], feed: _Feed) -> Tensor:
        """Takes as many skips off the end as there are residual blocks; twice the size at the end."""
        for at in range(len(self.residuals)):
            x = self._attended(at, self._shifted(at, torch.cat([x, skips.pop()], dim=1), feed), feed)
        if self.sizer is None:
            return x
        out: Tensor = self.sizer(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out

    def _shifted(self, at: int, x: Tensor, feed: _Feed) -> Tensor:
        out: Tensor = self.residuals[at](x, feed.shifts[self._numbers[at]])
        return out

    def _attended(self, at: int, x: Tensor, feed: _Feed) -> Tensor:
        if not self.attentions:
            return x
        out: Tensor = self.attentions[at](x, feed.prompt[self._prompts[at]])
        return out


class _Residual(nn.Module):
    """[B, C, H, W] and a shift [B, C'] -> [B, C', H, W]."""

    def __init__(self, block: Any, make: _LayerMaker) -> None:
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.conv1, self.conv2 = make.conv(block.conv1), make.conv(block.conv2)
        self.shortcut = None if block.conv_shortcut is None else make.conv(block.conv_shortcut)
        self.number = make.shift(block.time_emb_proj)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        h = self.conv1(_normed(self.norm1, x)).add_(shift[:, :, None, None])
        out: Tensor = self.conv2(_normed(self.norm2, h), x if self.shortcut is None else self.shortcut(x))
        return out


class _Transformer(nn.Module):
    """[B, C, H, W] -> the same shape: blocks of attention over its positions."""

    def __init__(self, transformer: Any, make: _LayerMaker) -> None:
        super().__init__()
        self.norm = transformer.norm
        self.inlet, self.outlet = make.linear(transformer.proj_in), make.linear(transformer.proj_out)
        first = len(make.attending)
        self.blocks = nn.ModuleList([_Block(each, make) for each in transformer.transformer_blocks])
        self.numbers = slice(first, len(make.attending))

    def forward(self, x: Tensor, prompt: Sequence[Pair]) -> Tensor:
        tokens = self.inlet(_tokens(grouped(self.norm, x)))
        for block, (key, value) in zip(self.blocks, prompt, strict=True):
            tokens = block(tokens, key, value)
        out: Tensor = self.outlet(tokens, _tokens(x))
        batch, channels, height, width = x.shape
        return out.view(batch, height, width, channels).permute(0, 3, 1, 2)


class _Block(nn.Module):
    """Tokens [B, N, C] -> the same shape: self-attention, the prompt, and a gated feed-forward."""

    def __init__(self, block: Any, make: _LayerMaker) -> None:
        super().__init__()
        own, prompt = block.attn1, block.attn2
        gated, inner = block.ff.net[0].proj, block.ff.net[2]
        value, gate = _halves(gated)
        self.norms = nn.ModuleList([block.norm1, block.norm2, block.norm3])
        self.heads = own.heads
        self.mix = make.linear(own.to_q, own.to_k, own.to_v)
        self.mixed = make.linear(own.to_out[0])
        self.ask, self.tell = make.linear(prompt.to_q), make.linear(prompt.to_k, prompt.to_v)
        self.reported = make.linear(prompt.to_out[0])
        self.value, self.gate = make.linear(value), make.linear(gate, gelu=True)
        self.inner = make.linear(inner)
        make.attending.append(self)

    def keys_and_values(self, tokens_BLD: Tensor) -> Pair:
        """Of the prompt: two of [B, heads, L, d]."""
        keys, values = self._heads(self.tell(tokens_BLD), 2)
        return keys, values

    def forward(self, x: Tensor, prompt_keys: Tensor, prompt_values: Tensor) -> Tensor:
        query, key, value = self._heads(self.mix(self.norms[0](x)), 3)
        x = self.mixed(_attend(query, key, value), x)
        (query,) = self._heads(self.ask(self.norms[1](x)), 1)
        x = self.reported(_attend(query, prompt_keys, prompt_values), x)
        normed = self.norms[2](x)
        out: Tensor = self.inner(self.value(normed).mul_(self.gate(normed)), x)
        return out

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[B, N, parts C] -> that many of [B, heads, N, d]."""
        batch, positions, _ = x.shape
        return x.view(batch, positions, parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


@dataclass(frozen=True, slots=True)
class _Half:
    weight: Tensor
    bias: Tensor | None


def _halves(layer: nn.Linear) -> tuple[_Half, _Half]:
    """GEGLU's one layer as value and gate."""
    weights = layer.weight.chunk(2)
    biases = (None, None) if layer.bias is None else layer.bias.chunk(2)
    return _Half(weights[0], biases[0]), _Half(weights[1], biases[1])


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    mixed = functional.scaled_dot_product_attention(query, key, value)
    return mixed.transpose(1, 2).flatten(2)


def _normed(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    return functional.silu(grouped(norm, x), inplace=True)


def _tokens(x_BCHW: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H W, C], a view where channels are last in memory."""
    return x_BCHW.permute(0, 2, 3, 1).flatten(1, 2)
