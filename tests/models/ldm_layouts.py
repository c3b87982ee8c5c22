"""Key layouts of latent-diffusion's modules, written out apart from the converter's own tables."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from xreal_synth.models.text.ldm_bert import TextShape

Shapes = dict[str, tuple[int, ...]]


def conv(name: str, ins: int, outs: int, side: int) -> Shapes:
    return {f"{name}.weight": (outs, ins, side, side), f"{name}.bias": (outs,)}


def linear(name: str, ins: int, outs: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (outs, ins)} | ({f"{name}.bias": (outs,)} if bias else {})


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def unet_layout(params: Mapping[str, Any]) -> Shapes:
    """openaimodel.UNetModel's modules."""
    base, mults, blocks = params["model_channels"], params["channel_mult"], params["num_res_blocks"]
    shapes = linear("time_embed.0", base, 4 * base) | linear("time_embed.2", 4 * base, 4 * base)
    shapes |= conv("input_blocks.0.0", params["in_channels"], base, 3)
    width, at, skips = base, 0, [base]
    for level, mult in enumerate(mults):
        for _ in range(blocks):
            at += 1
            shapes |= res_block(f"input_blocks.{at}.0", width, base * mult, base)
            width = base * mult
            if 2**level in params["attention_resolutions"]:
                shapes |= attention(f"input_blocks.{at}.1", width, params)
            skips.append(width)
        if level + 1 < len(mults):
            at += 1
            shapes |= conv(f"input_blocks.{at}.0.op", width, width, 3)
            skips.append(width)
    for part, add in enumerate((res_block, None, res_block)):
        name = f"middle_block.{part}"
        shapes |= attention(name, width, params) if add is None else add(name, width, width, base)
    at = -1
    for level, mult in reversed(list(enumerate(mults))):
        for block in range(blocks + 1):
            at += 1
            shapes |= res_block(f"output_blocks.{at}.0", width + skips.pop(), base * mult, base)
            width, place = base * mult, 1
            if 2**level in params["attention_resolutions"]:
                shapes |= attention(f"output_blocks.{at}.1", width, params)
                place = 2
            if level and block == blocks:
                shapes |= conv(f"output_blocks.{at}.{place}.conv", width, width, 3)
    return shapes | norm("out.0", width) | conv("out.2", base, params["out_channels"], 3)


def res_block(name: str, ins: int, outs: int, base: int) -> Shapes:
    shapes = norm(f"{name}.in_layers.0", ins) | conv(f"{name}.in_layers.2", ins, outs, 3)
    shapes |= linear(f"{name}.emb_layers.1", 4 * base, outs)
    shapes |= norm(f"{name}.out_layers.0", outs) | conv(f"{name}.out_layers.3", outs, outs, 3)
    return shapes | ({} if ins == outs else conv(f"{name}.skip_connection", ins, outs, 1))


def attention(name: str, width: int, params: Mapping[str, Any]) -> Shapes:
    if not params.get("use_spatial_transformer"):
        shapes = norm(f"{name}.norm", width)
        shapes |= {f"{name}.qkv.weight": (3 * width, width, 1), f"{name}.qkv.bias": (3 * width,)}
        return shapes | {f"{name}.proj_out.weight": (width, width, 1), f"{name}.proj_out.bias": (width,)}
    block = f"{name}.transformer_blocks.0"
    shapes = norm(f"{name}.norm", width) | conv(f"{name}.proj_in", width, width, 1)
    for part, seen in (("attn1", width), ("attn2", params["context_dim"])):
        shapes |= linear(f"{block}.{part}.to_q", width, width, bias=False)
        shapes |= linear(f"{block}.{part}.to_k", seen, width, bias=False)
        shapes |= linear(f"{block}.{part}.to_v", seen, width, bias=False)
        shapes |= linear(f"{block}.{part}.to_out.0", width, width)
    shapes |= linear(f"{block}.ff.net.0.proj", width, 8 * width) | linear(f"{block}.ff.net.2", 4 * width, width)
    for part in (1, 2, 3):
        shapes |= norm(f"{block}.norm{part}", width)
    return shapes | conv(f"{name}.proj_out", width, width, 1)


def vae_layout(params: Mapping[str, Any]) -> Shapes:
    """autoencoder.AutoencoderKL's modules."""
    base, mults, z = params["ch"], params["ch_mult"], params["z_channels"]
    shapes = conv("encoder.conv_in", params["in_channels"], base, 3)
    width = base
    for level, mult in enumerate(mults):
        for block in range(params["num_res_blocks"]):
            shapes |= vae_block(f"encoder.down.{level}.block.{block}", width, base * mult)
            width = base * mult
        if level + 1 < len(mults):
            shapes |= conv(f"encoder.down.{level}.downsample.conv", width, width, 3)
    shapes |= vae_middle("encoder", width)
    shapes |= norm("encoder.norm_out", width) | conv("encoder.conv_out", width, 2 * z, 3)
    shapes |= conv("decoder.conv_in", z, width, 3) | vae_middle("decoder", width)
    for level, mult in reversed(list(enumerate(mults))):
        for block in range(params["num_res_blocks"] + 1):
            shapes |= vae_block(f"decoder.up.{level}.block.{block}", width, base * mult)
            width = base * mult
        if level:
            shapes |= conv(f"decoder.up.{level}.upsample.conv", width, width, 3)
    shapes |= norm("decoder.norm_out", width) | conv("decoder.conv_out", width, params["out_ch"], 3)
    return shapes | conv("quant_conv", 2 * z, 2 * z, 1) | conv("post_quant_conv", z, z, 1)


def vae_block(name: str, ins: int, outs: int) -> Shapes:
    shapes = norm(f"{name}.norm1", ins) | conv(f"{name}.conv1", ins, outs, 3)
    shapes |= norm(f"{name}.norm2", outs) | conv(f"{name}.conv2", outs, outs, 3)
    return shapes | ({} if ins == outs else conv(f"{name}.nin_shortcut", ins, outs, 1))


def vae_middle(side: str, width: int) -> Shapes:
    shapes = vae_block(f"{side}.mid.block_1", width, width) | vae_block(f"{side}.mid.block_2", width, width)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= conv(f"{side}.mid.attn_1.{part}", width, width, 1)
    return shapes | norm(f"{side}.mid.attn_1.norm", width)


def text_layout(shape: TextShape) -> Shapes:
    """x_transformer.TransformerWrapper's modules, its word prediction among them."""
    inner = shape.heads * shape.head_dim
    shapes: Shapes = {
        "token_emb.weight": (shape.num_tokens, shape.dim),
        "pos_emb.emb.weight": (shape.max_seq_len, shape.dim),
    }
    for layer in range(shape.depth):
        seen, fed = f"attn_layers.layers.{2 * layer}", f"attn_layers.layers.{2 * layer + 1}"
        shapes |= norm(f"{seen}.0", shape.dim) | norm(f"{fed}.0", shape.dim)
        for part in ("to_q", "to_k", "to_v"):
            shapes |= linear(f"{seen}.1.{part}", shape.dim, inner, bias=False)
        shapes |= linear(f"{seen}.1.to_out", inner, shape.dim)
        shapes |= linear(f"{fed}.1.net.0.0", shape.dim, 4 * shape.dim)
        shapes |= linear(f"{fed}.1.net.2", 4 * shape.dim, shape.dim)
    return shapes | norm("norm", shape.dim) | linear("to_logits", shape.dim, shape.num_tokens)


def control_layout(params: Mapping[str, Any], hint: int, widths: tuple[int, ...]) -> Shapes:
    """cldm.ControlNet's modules: the UNet's encoder, the hint's embedding, and a 1x1 way out of every block."""
    shapes = {key: shape for key, shape in unet_layout(params).items() if not key.startswith(("out", "output"))}
    base, mults, blocks = params["model_channels"], params["channel_mult"], params["num_res_blocks"]
    at, seen = 0, conv("zero_convs.0.0", base, base, 1)
    for level, mult in enumerate(mults):
        for _ in range(blocks + (level + 1 < len(mults))):
            at += 1
            seen |= conv(f"zero_convs.{at}.0", base * mult, base * mult, 1)
    shapes |= seen | conv("middle_block_out.0", base * mults[-1], base * mults[-1], 1)
    shapes |= conv("input_hint_block.0", hint, widths[0], 3)
    at = 0
    for ins, outs in pairwise(widths):
        shapes |= conv(f"input_hint_block.{at + 2}", ins, ins, 3)
        shapes |= conv(f"input_hint_block.{at + 4}", ins, outs, 3)
        at += 4
    return shapes | conv(f"input_hint_block.{at + 2}", widths[-1], base, 3)
