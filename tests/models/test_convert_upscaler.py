"""Cheff's super-resolution checkpoint: its exact layout, and what the network computes from it."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from xreal_synth.cli.main import main
from xreal_synth.errors import ConversionError
from xreal_synth.models.convert.added_parts import check_size, convert_upscaler, read_upscaler, save_upscaler
from xreal_synth.models.convert.assemble import extend_bundle
from xreal_synth.models.describe import UPSCALER, BundleInfo, describe, verify_files
from xreal_synth.models.load import load_network
from xreal_synth.models.networks.sr3_unet import Sr3UNet, cosine_betas

Shapes = dict[str, tuple[int, ...]]
TINY = {"width": 8, "multipliers": (1, 2, 4), "inlet_width": 6, "attention_levels": 1, "groups": 4}


def conv(name: str, ins: int, outs: int, side: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (outs, ins, side, side)} | ({f"{name}.bias": (outs,)} if bias else {})


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def block(name: str, ins: int, outs: int, time: int) -> Shapes:
    shapes = {f"{name}.mlp.1.weight": (outs, time), f"{name}.mlp.1.bias": (outs,)}
    for part, width in (("block1", ins), ("block2", outs)):
        shapes |= conv(f"{name}.{part}.proj", width, outs, 3) | norm(f"{name}.{part}.norm", outs)
    return shapes | ({} if ins == outs else conv(f"{name}.res_conv", ins, outs, 1))


def attention(name: str, width: int, linear: bool) -> Shapes:
    shapes = norm(f"{name}.fn.norm", width) | conv(f"{name}.fn.fn.to_qkv", width, 384, 1, bias=False)
    if not linear:
        return shapes | conv(f"{name}.fn.fn.to_out", 128, width, 1)
    return shapes | conv(f"{name}.fn.fn.to_out.0", 128, width, 1) | norm(f"{name}.fn.fn.to_out.1", width)


def layout(width: int, multipliers: tuple[int, ...], inlet: int, seen: int) -> Shapes:
    """cheff.sr.model.Unet's modules; attention from level `seen` on, on both ways."""
    widths, time = [inlet, *(width * multiplier for multiplier in multipliers)], 4 * width
    shapes = conv("init_conv", 2, inlet, 7) | conv("final_conv.1", width, 1, 1)
    for part, ins in (("1", width), ("3", time)):
        shapes |= {f"time_mlp.{part}.weight": (time, ins), f"time_mlp.{part}.bias": (time,)}
    for at, (ins, outs) in enumerate(pairwise(widths)):
        shapes |= block(f"downs.{at}.0", ins, outs, time) | block(f"downs.{at}.1", outs, outs, time)
        shapes |= attention(f"downs.{at}.2", outs, True) if at >= seen else {}
        shapes |= conv(f"downs.{at}.3", outs, outs, 4) if at + 1 < len(multipliers) else {}
    deep = widths[-1]
    shapes |= block("mid_block1", deep, deep, time) | block("mid_block2", deep, deep, time)
    shapes |= attention("mid_attn", deep, False)
    for at, (outs, ins) in enumerate(reversed(list(pairwise(widths[1:])))):
        shapes |= block(f"ups.{at}.0", 2 * ins, outs, time) | block(f"ups.{at}.1", outs, outs, time)
        shapes |= attention(f"ups.{at}.2", outs, True) if at >= seen else {}
        shapes |= conv(f"ups.{at}.3", outs, outs, 4)
    for part in (0, 1):
        name = f"final_conv.0.fn.{part}"
        shapes |= conv(f"{name}.proj", width, width, 3) | norm(f"{name}.norm", width)
    return shapes


def random_state(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = layout(8, (1, 2, 4), 6, 2)
    return {key: torch.randn(shape, generator=generator) * 0.2 for key, shape in shapes.items()}


def test_every_key_of_the_published_layout_has_its_place() -> None:
    shapes = layout(16, (1, 2, 4, 8, 16, 32, 32, 32), 10, 4)
    network = convert_upscaler({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()})
    ours = sum(value.numel() for value in network.state_dict().values())
    assert ours == sum(torch.Size(shape).numel() for shape in shapes.values())


@pytest.mark.parametrize(("old", "new"), [("downs.1.2.x", "downs.1.2.y"), ("ups.1.2.fn.norm.bias", "stray")])
def test_a_renamed_key_is_named(old: str, new: str) -> None:
    state = random_state()
    state[new] = state.pop(old, torch.zeros(1))
    with pytest.raises(ConversionError, match=r"1 keys without a place"):
        convert_upscaler(state, **TINY)


def by_hand(s: dict[str, Tensor], noisy: Tensor, small: Tensor, t: Tensor) -> Tensor:
    """The published forward pass at TINY's sizes, written out on the checkpoint's own keys."""

    def convolved(name: str, x: Tensor) -> Tensor:
        x = functional.conv2d(x, s[f"{name}.proj.weight"], s[f"{name}.proj.bias"], padding=1)
        return functional.silu(functional.group_norm(x, 4, s[f"{name}.norm.weight"], s[f"{name}.norm.bias"]))

    def resnet(name: str, x: Tensor) -> Tensor:
        shift = functional.linear(functional.silu(e), s[f"{name}.mlp.1.weight"], s[f"{name}.mlp.1.bias"])
        out = convolved(f"{name}.block2", convolved(f"{name}.block1", x) + shift[:, :, None, None])
        if f"{name}.res_conv.weight" in s:
            x = functional.conv2d(x, s[f"{name}.res_conv.weight"], s[f"{name}.res_conv.bias"])
        return out + x

    def attend(name: str, x: Tensor, linear: bool) -> Tensor:
        b, _, h, w = x.shape
        normed = functional.group_norm(x, 1, s[f"{name}.fn.norm.weight"], s[f"{name}.fn.norm.bias"])
        q, k, v = functional.conv2d(normed, s[f"{name}.fn.fn.to_qkv.weight"]).reshape(b, 3, 4, 32, h * w).unbind(1)
        if linear:
            context = torch.einsum("bhdn,bhen->bhde", k.softmax(-1), v)
            mixed = torch.einsum("bhde,bhdn->bhen", context, q.softmax(-2) / math.sqrt(32))
        else:
            weights = torch.einsum("bhdi,bhdj->bhij", q, k) / math.sqrt(32)
            mixed = torch.einsum("bhij,bhdj->bhdi", weights.softmax(-1), v)
        last = f"{name}.fn.fn.to_out" + (".0" if linear else "")
        out = functional.conv2d(mixed.reshape(b, 128, h, w), s[f"{last}.weight"], s[f"{last}.bias"])
        if linear:
            beyond = f"{name}.fn.fn.to_out.1"
            out = functional.group_norm(out, 1, s[f"{beyond}.weight"], s[f"{beyond}.bias"])
        return x + out

    angles = t[:, None] * torch.exp(torch.arange(4) * -(math.log(10000) / 3))
    e = torch.cat([angles.sin(), angles.cos()], dim=1)
    e = functional.gelu(functional.linear(e, s["time_mlp.1.weight"], s["time_mlp.1.bias"]))
    e = functional.linear(e, s["time_mlp.3.weight"], s["time_mlp.3.bias"])
    x = torch.cat([noisy, small], dim=1)
    x, kept = functional.conv2d(x, s["init_conv.weight"], s["init_conv.bias"], padding=3), []
    for at in range(3):
        x = resnet(f"downs.{at}.1", resnet(f"downs.{at}.0", x))
        x = attend(f"downs.{at}.2", x, True) if at == 2 else x
        kept.append(x)
        if at < 2:
            x = functional.conv2d(x, s[f"downs.{at}.3.weight"], s[f"downs.{at}.3.bias"], stride=2, padding=1)
    x = resnet("mid_block2", attend("mid_attn", resnet("mid_block1", x), False))
    for at in range(2):
        x = resnet(f"ups.{at}.1", resnet(f"ups.{at}.0", torch.cat([x, kept.pop()], dim=1)))
        up = s[f"ups.{at}.3.weight"], s[f"ups.{at}.3.bias"]
        x = functional.conv_transpose2d(x, *up, stride=2, padding=1)
    x = x + convolved("final_conv.0.fn.1", convolved("final_conv.0.fn.0", x))
    return functional.conv2d(x, s["final_conv.1.weight"], s["final_conv.1.bias"])


def test_the_network_computes_what_the_layout_says() -> None:
    state = random_state()
    generator = torch.Generator().manual_seed(1)
    noisy, small = torch.randn(2, 2, 1, 16, 16, generator=generator)
    t = torch.tensor([3, 1500])
    with torch.inference_mode():
        found = convert_upscaler(state, **TINY)(noisy, small, t)
    expected = by_hand(state, noisy, small, t)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_part_is_written_and_read_again(tmp_path: Path) -> None:
    torch.save({"model": random_state(), "step": 5}, tmp_path / "sr.pt")
    with pytest.raises(ConversionError, match="other shapes"):
        read_upscaler(tmp_path / "sr.pt")
    save_upscaler(tmp_path, convert_upscaler(random_state(), **TINY), "fp32")
    folder = tmp_path / "upscaler"
    network = Sr3UNet.from_config(Sr3UNet.load_config(folder))
    network.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"), strict=True)
    scheduler = DDIMScheduler.from_pretrained(folder)
    scheduler.set_timesteps(100)
    assert scheduler.timesteps.tolist() == list(range(1980, -1, -20))
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), (1 - cosine_betas()).cumprod(0), rtol=1e-4, atol=1e-7)


def test_the_schedule_is_the_published_one() -> None:
    """Betas of a cosine over 2000 steps, by hand at one place, clipped at both ends."""
    betas = cosine_betas()
    first, last = (math.cos((at / 2000 + 0.008) / 1.008 * math.pi / 2) ** 2 for at in (1000, 1001))
    assert betas[1000].item() == pytest.approx(1 - last / first, rel=1e-9)
    assert betas[0].item() == pytest.approx(0.0001)
    assert betas[-1].item() == pytest.approx(0.9999)


def test_a_bundle_gets_the_part_in_a_copy(tmp_path: Path) -> None:
    network = convert_upscaler(random_state(), **TINY)
    before = describe("xreal-tiny")

    def add(folder: Path, info: BundleInfo) -> None:
        save_upscaler(folder, network, "fp16")

    info = extend_bundle("xreal-tiny", tmp_path / "out", UPSCALER, add, "MIT")
    verify_files(info)
    assert set(info.parts) == {*before.parts, "upscaler"}
    assert isinstance(load_network(info, "upscaler"), Sr3UNet)
    assert info.licence == f"{before.licence}; upscaler: MIT"
    assert describe("xreal-tiny") == before
    with pytest.raises(ConversionError, match="already there"):
        extend_bundle("xreal-tiny", tmp_path / "out", UPSCALER, lambda folder, _: add(folder), "MIT")
    with pytest.raises(ConversionError, match="has a part upscaler already"):
        extend_bundle(tmp_path / "out", tmp_path / "more", UPSCALER, lambda folder, _: add(folder), "MIT")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_only_images_of_its_size_are_upscaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"model": random_state()}, tmp_path / "sr.pt")
    command = ["convert", "cheff", "--bundle", "xreal-tiny", "--upscaler", str(tmp_path / "sr.pt")]
    monkeypatch.setattr("sys.argv", ["xreal-synth", *command, str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    with pytest.raises(ConversionError, match="64 px"):
        check_size("xreal-tiny", 64)
