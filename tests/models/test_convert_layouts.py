"""The published checkpoints' exact key layouts at full size, without memory: every key finds its place.

The layouts are written out here from latent-diffusion's modules, apart from the converter's own tables; each
tensor is one zero, shown at its full shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional

from xreal_synth.errors import ConversionError
from xreal_synth.models.convert.architectures import (
    CHEFF_UNCONDITIONAL,
    XREAL,
    LdmArchitecture,
)
from xreal_synth.models.convert.ldm import convert_text, convert_unet, convert_vae, split_ldm
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
    shapes |= linear(f"{block}.ff.net.0.proj", width, 8 * width) | linear(
        f"{block}.ff.net.2", 4 * width, width
    )
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


def checkpoint(architecture: LdmArchitecture) -> dict[str, Tensor]:
    """All keys of a training checkpoint: networks, averages, buffers."""
    unet = unet_layout(architecture.unet)
    shapes = {f"model.diffusion_model.{key}": shape for key, shape in unet.items()}
    shapes |= {f"first_stage_model.{key}": shape for key, shape in vae_layout(architecture.vae).items()}
    if architecture.text is not None:
        text = text_layout(architecture.text)
        shapes |= {f"cond_stage_model.transformer.{key}": shape for key, shape in text.items()}
    shapes |= {f"model_ema.{f'diffusion_model.{key}'.replace('.', '')}": shape for key, shape in unet.items()}
    shapes |= {"model_ema.decay": (), "model_ema.num_updates": ()}
    for name in ("betas", "alphas_cumprod", "posterior_mean_coef1", "sqrt_recipm1_alphas_cumprod"):
        shapes[name] = (1000,)
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


def millions(shapes: Shapes) -> int:
    return round(sum(torch.Size(shape).numel() for shape in shapes.values()) / 1e6)


@pytest.mark.parametrize("architecture", [XREAL, CHEFF_UNCONDITIONAL])
@pytest.mark.parametrize("ema", [False, True])
def test_every_key_of_the_published_layout_has_its_place(architecture: LdmArchitecture, ema: bool) -> None:
    parts = split_ldm(checkpoint(architecture), ema=ema)
    unet: Any = convert_unet(parts["unet"], architecture.unet)
    vae: Any = convert_vae(parts["vae"], architecture.vae)
    assert sum(value.numel() for value in unet.state_dict().values()) == sum(
        torch.Size(shape).numel() for shape in unet_layout(architecture.unet).values()
    )
    assert vae.config.latent_channels == 3
    if architecture.text is not None:
        convert_text(parts["text"], architecture.text)
    else:
        assert parts["text"] == {}


def test_the_layouts_have_the_published_sizes() -> None:
    """Millions of parameters as the reference states them; the text encoder's with its word prediction."""
    assert millions(unet_layout(XREAL.unet)) == 518
    assert millions(vae_layout(XREAL.vae)) == 55
    assert XREAL.text is not None
    assert millions(text_layout(XREAL.text)) == 582


def renamed(old: str, new: str) -> Callable[[dict[str, Tensor]], None]:
    def change(state: dict[str, Tensor]) -> None:
        state[new] = state.pop(old)

    return change


UNET = "model.diffusion_model"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (renamed(f"{UNET}.out.2.weight", f"{UNET}.out.3.weight"), r"out\.3\.weight"),
        (renamed(f"{UNET}.out.0.bias", "diffusion_model.out.0.bias"), r"diffusion_model\.out\.0\.bias"),
        (lambda state: state.pop(f"{UNET}.input_blocks.11.0.in_layers.2.weight"), r"down_blocks\.3"),
        (lambda state: state.update({f"{UNET}.time_embed.0.bias": torch.zeros(3)}), r"\[3\] where \[896\]"),
        (
            lambda state: state.update({"cond_stage_model.model.x": torch.zeros(3)}),
            r"cond_stage_model\.model",
        ),
    ],
)
def test_one_key_astray_is_named(change: Callable[[dict[str, Tensor]], None], named: str) -> None:
    state = checkpoint(XREAL)
    change(state)
    with pytest.raises(ConversionError, match=named) as caught:
        convert_unet(split_ldm(state, where="backbone.pth")["unet"], XREAL.unet, "backbone.pth: denoiser")
    assert caught.value.where.startswith("backbone.pth")
    assert caught.value.wanted
    assert caught.value.mend


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: [state.pop(key) for key in list(state) if key.startswith("model_ema")], "no averaged"),
        (
            lambda state: state.pop("model_ema.diffusion_modelout2weight"),
            r"1 weights without.*out\.2\.weight",
        ),
        (lambda state: state.update({"model_ema.stray": torch.zeros(1)}), "stray"),
    ],
)
def test_averages_are_all_there_or_refused(change: Callable[[dict[str, Tensor]], None], named: str) -> None:
    state = checkpoint(CHEFF_UNCONDITIONAL)
    change(state)
    split_ldm(state)
    with pytest.raises(ConversionError, match=named):
        split_ldm(state, ema=True)


def test_averages_are_other_values() -> None:
    state = checkpoint(CHEFF_UNCONDITIONAL)
    state["model_ema.diffusion_modelout2bias"] = torch.ones(3)
    assert split_ldm(state, ema=True)["unet"]["out.2.bias"].tolist() == [1, 1, 1]
    assert split_ldm(state)["unet"]["out.2.bias"].tolist() == [0, 0, 0]


def test_attention_without_prompts_computes_what_the_layout_says() -> None:
    """qkv's rows are ordered head by head, each head's query, key and value in turn; worked out by hand."""
    params = {
        "in_channels": 3, "out_channels": 3, "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1,
        "attention_resolutions": [2], "num_head_channels": 16,
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    state = {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in unet_layout(params).items()}
    network: Any = convert_unet(state, params)
    ours: Attention = network.mid_block.attentions[0]
    x = torch.randn(2, 64, 4, 4, generator=generator)

    w = {
        key.removeprefix("middle_block.1."): value for key, value in state.items() if "middle_block.1" in key
    }
    flat = functional.group_norm(x, 32, w["norm.weight"], w["norm.bias"], eps=1e-5).flatten(2)
    qkv = functional.conv1d(flat, w["qkv.weight"], w["qkv.bias"])
    heads = []
    for head in qkv.split(48, dim=1):
        q, k, v = head.split(16, dim=1)
        heads.append(v @ (q.transpose(1, 2) @ k / 4.0).softmax(dim=-1).transpose(1, 2))
    out = functional.conv1d(torch.cat(heads, dim=1), w["proj_out.weight"], w["proj_out.bias"])
    torch.testing.assert_close(ours(x), x + out.view_as(x), rtol=1e-5, atol=1e-5)
