"""The published checkpoints' exact key layouts at full size, without memory: every key finds its place.

Each tensor is one zero, shown at its full shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from ldm_layouts import Shapes, text_layout, unet_layout, vae_layout
from torch import Tensor
from torch.nn import functional

from xreal_synth.errors import ConversionError
from xreal_synth.models.convert.ldm import convert_text, convert_unet, convert_vae, split_ldm
from xreal_synth.models.convert.published import CHEFF_UNCONDITIONAL_SIZES, XREAL_SIZES, LdmArchitecture


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


@pytest.mark.parametrize("architecture", [XREAL_SIZES, CHEFF_UNCONDITIONAL_SIZES])
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
    assert millions(unet_layout(XREAL_SIZES.unet)) == 518
    assert millions(vae_layout(XREAL_SIZES.vae)) == 55
    assert XREAL_SIZES.text is not None
    assert millions(text_layout(XREAL_SIZES.text)) == 582


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
        (lambda state: state.update({"cond_stage_model.model.x": torch.zeros(3)}), r"cond_stage_model\.model"),
    ],
)
def test_one_key_astray_is_named(change: Callable[[dict[str, Tensor]], None], named: str) -> None:
    state = checkpoint(XREAL_SIZES)
    change(state)
    with pytest.raises(ConversionError, match=named) as caught:
        convert_unet(split_ldm(state, where="backbone.pth")["unet"], XREAL_SIZES.unet, "backbone.pth: denoiser")
    assert caught.value.where.startswith("backbone.pth")
    assert caught.value.wanted
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: [state.pop(key) for key in list(state) if key.startswith("model_ema")], "no averaged"),
        (lambda state: state.pop("model_ema.diffusion_modelout2weight"), r"1 weights without.*out\.2\.weight"),
        (lambda state: state.update({"model_ema.stray": torch.zeros(1)}), "stray"),
    ],
)
def test_averages_are_all_there_or_refused(change: Callable[[dict[str, Tensor]], None], named: str) -> None:
    state = checkpoint(CHEFF_UNCONDITIONAL_SIZES)
    change(state)
    split_ldm(state)
    with pytest.raises(ConversionError, match=named):
        split_ldm(state, ema=True)


def test_averages_are_other_values() -> None:
    state = checkpoint(CHEFF_UNCONDITIONAL_SIZES)
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

    w = {key.removeprefix("middle_block.1."): value for key, value in state.items() if "middle_block.1" in key}
    flat = functional.group_norm(x, 32, w["norm.weight"], w["norm.bias"], eps=1e-5).flatten(2)
    qkv = functional.conv1d(flat, w["qkv.weight"], w["qkv.bias"])
    heads = []
    for head in qkv.split(48, dim=1):
        q, k, v = head.split(16, dim=1)
        heads.append(v @ (q.transpose(1, 2) @ k / 4.0).softmax(dim=-1).transpose(1, 2))
    out = functional.conv1d(torch.cat(heads, dim=1), w["proj_out.weight"], w["proj_out.bias"])
    torch.testing.assert_close(ours(x), x + out.view_as(x), rtol=1e-5, atol=1e-5)
