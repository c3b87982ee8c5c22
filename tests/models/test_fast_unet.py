"""The denoiser as laid out for sampling against diffusers' own, from the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from xreal_synth.models.describe import describe
from xreal_synth.models.fast_unet import FastUNet, suits
from xreal_synth.models.layers import Conv, Linear, PackedConv, PackedLinear, grouped, packing_works
from xreal_synth.models.load import load_bundle

pytestmark = pytest.mark.numeric

SIDES = (16, 16)
BASE: dict[str, Any] = {
    "sample_size": 16, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "cross_attention_dim": 24,
    "block_out_channels": (32, 64), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 4, "norm_num_groups": 8,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "xreal-mini's": {"addition_embed_type": "text", "addition_embed_type_num_heads": 4},
    "XReal's": {"layers_per_block": 2},
    "linear projections, two transformer layers": {"use_linear_projection": True, "transformer_layers_per_block": 2},
    "attention at every level": {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    },
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def network(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**{**BASE, **changes})
    return nn.Module.to(unet, dtype).eval().requires_grad_(False)


def inputs(rows: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 3, *SIDES, generator=generator)
    tokens = torch.randn(rows, 5, 24, generator=generator)
    return z.to(dtype), torch.tensor([990, 500, 3])[:rows], tokens.to(dtype)


def apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max())


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_it_computes_what_diffusers_does(kind: str) -> None:
    unet = network(**KINDS[kind])
    z, t, tokens = inputs()
    wanted = unet(z, t, tokens, return_dict=False, added_cond_kwargs={})[0]
    assert suits(unet, SIDES)
    (found,) = FastUNet(unet)(z, t, tokens)
    assert found.shape == wanted.shape
    assert apart(found, wanted) < 1e-5


@torch.inference_mode()
def test_a_controlnet_steers_it_alike() -> None:
    unet = network()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        control: Any = ControlNetModel.from_unet(unet, conditioning_channels=1).eval()
        for layer in (*control.controlnet_down_blocks, control.controlnet_mid_block):
            nn.init.normal_(layer.weight, std=0.1)
    z, t, tokens = inputs()
    hint = torch.rand(3, 1, 128, 128, generator=torch.Generator().manual_seed(2))
    down, middle = control(z, t, tokens, hint, return_dict=False)
    steer = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    wanted = unet(z, t, tokens, return_dict=False, **steer)[0]
    assert apart(FastUNet(unet)(z, t, tokens, **steer)[0], wanted) < 1e-5
    assert apart(FastUNet(unet)(z, t, tokens)[0], wanted) > 1e-3


@torch.inference_mode()
def test_bfloat16_is_as_near_to_float32_as_diffusers_own() -> None:
    exact = network()(*inputs(), return_dict=False)[0]
    given = inputs(dtype=torch.bfloat16)
    unet = network(torch.bfloat16)
    theirs = unet(*given, return_dict=False)[0]
    (ours,) = FastUNet(unet)(*given)
    errors = [float((each.float() - exact).square().mean()) for each in (ours, theirs)]
    assert errors[0] < 1.2 * errors[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_row_does_not_depend_on_its_neighbours(dtype: torch.dtype) -> None:
    fast = FastUNet(network(dtype, addition_embed_type="text", addition_embed_type_num_heads=4))
    z, t, tokens = inputs(dtype=dtype)
    (straight,) = fast(z, t, tokens)
    (turned,) = fast(z.flip(0), t.flip(0), tokens.flip(0))
    other_z, other_tokens = torch.cat([z[:1], z[:1], z[:1] + 1]), tokens[:1].expand(3, -1, -1)
    (beside,) = fast(other_z, t[:1].expand(3), other_tokens)
    assert torch.equal(straight, turned.flip(0))
    assert torch.equal(straight[0], beside[0])


@torch.inference_mode()
def test_the_prompts_part_is_computed_anew_for_other_tokens_only() -> None:
    unet = network()
    fast = FastUNet(unet)
    z, t, tokens = inputs()
    _, _, others = inputs(seed=7)
    first = fast(z, t, tokens)[0]
    kept = fast._prompt
    assert torch.equal(fast(z, t, tokens)[0], first)
    assert fast._prompt is kept
    assert apart(fast(z, t, others)[0], unet(z, t, others, return_dict=False)[0]) < 1e-5
    assert torch.equal(fast(z, t, tokens.clone())[0], first)


def test_what_it_does_not_compute_is_left_to_diffusers() -> None:
    assert not suits(network(), (15, 16))
    assert not suits(network(resnet_time_scale_shift="scale_shift"), SIDES)
    assert not suits(network(class_embed_type="timestep"), SIDES)
    assert not suits(network(mid_block_type="UNetMidBlock2D"), SIDES)
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    plain = UNet2DModel(in_channels=3, out_channels=3, block_out_channels=(32, 64), layers_per_block=1, **blocks)
    assert not suits(plain, SIDES)


def test_bundles_are_laid_out_unless_reported_otherwise() -> None:
    info = describe("xreal-tiny")
    tuned, plain = load_bundle(info), load_bundle(info, tuned=False)
    assert isinstance(tuned._unet, FastUNet)
    assert isinstance(plain._unet, UNet2DConditionModel)
    z = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    t, tokens = torch.tensor([700, 20]), tuned.embed(["Edema", ""])
    found = tuned.denoise(z, t, tokens)
    assert found.is_contiguous()
    assert apart(found, plain.denoise(z, t, tokens)) < 1e-5


@pytest.mark.skipif(not packing_works(), reason="this torch has no oneDNN")
@torch.inference_mode()
def test_packed_layers_compute_what_plain_ones_do() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 24, 9, 7, generator=generator).bfloat16().contiguous(memory_format=torch.channels_last)
    conv = nn.Conv2d(24, 40, 3, stride=2, padding=1).bfloat16()
    packed = PackedConv(conv)(x)
    assert packed.is_contiguous(memory_format=torch.channels_last)
    assert apart(packed, Conv(conv)(x)) < 0.01
    assert apart(PackedConv(conv)(x, packed), 2 * packed) < 0.01
    rows, layer = x.permute(0, 2, 3, 1).flatten(1, 2), nn.Linear(24, 33).bfloat16()
    for gelu in (False, True):
        ours = PackedLinear(layer.weight, layer.bias, gelu=gelu)(rows)
        assert apart(ours, Linear(layer.weight, layer.bias, gelu=gelu)(rows)) < 0.01
    residual = torch.randn(2, 63, 33, generator=generator).bfloat16()
    ours = PackedLinear(layer.weight, layer.bias)(rows, residual)
    assert apart(ours, Linear(layer.weight, layer.bias)(rows, residual)) < 0.01


@pytest.mark.parametrize("side", [8, 32])
def test_group_norm_in_bfloat16_is_the_exact_one_rounded(side: int) -> None:
    norm = nn.GroupNorm(8, 40).bfloat16().requires_grad_(False)
    norm.weight.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 40, side, side, generator=torch.Generator().manual_seed(1)).bfloat16() + 1
    exact = nn.functional.group_norm(x.double(), 8, norm.weight.double(), norm.bias.double(), norm.eps)
    assert apart(grouped(norm, x.contiguous(memory_format=torch.channels_last)), exact) < 0.01


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_compiled_blocks_compute_the_same(dtype: torch.dtype) -> None:
    """On one level: a compiler's run for each of its few shapes."""
    one_level = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    unet = network(dtype, **one_level, block_out_channels=(32,))
    given = inputs(dtype=dtype)
    wanted = FastUNet(unet)(*given)[0]
    fast = FastUNet(unet)
    fast.compile_for("inductor")
    assert apart(fast(*given)[0], wanted) < (1e-5 if dtype == torch.float32 else 0.05)
