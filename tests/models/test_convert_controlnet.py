"""`xreal-synth convert controlnet`: ControlNet's own layout and diffusers', for a bundle's denoiser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from ldm_layouts import control_layout
from safetensors.torch import load_file
from torch import Tensor

from xreal_synth.errors import ConversionError
from xreal_synth.models.convert.added_parts import convert_control_layout, read_hint
from xreal_synth.models.convert.published import XREAL_SIZES
from xreal_synth.models.describe import describe, verify_files
from xreal_synth.models.load import load_bundle, load_network
from xreal_synth.models.networks.controls import HINT, build_controlnet, organ_hint
from xreal_synth.models.save import read_fields, write_bundle

Run = Callable[..., tuple[int, str]]
TINY: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "model_channels": 8, "channel_mult": [1, 2], "num_res_blocks": 1,
    "attention_resolutions": [2], "use_spatial_transformer": True, "context_dim": 16,
}  # fmt: skip
WIDTHS = (4, 6, 8)
COLOURS = "#000000,#ff0000,#00ff00,#0000ff,#ffff00"


CONVERT = ("convert", "controlnet")
TO_BUNDLE = ("out", "--bundle", "bundle", "--licence", "mine")


@pytest.fixture
def convert(bundle: Path, run: Run) -> Run:
    """`convert controlnet` beside a tiny bundle without a ControlNet -> exit code and what it said."""
    shutil.rmtree(bundle / "controlnet")
    write_bundle(bundle, read_fields(bundle / "bundle.json"))
    return lambda source, *options: run(*CONVERT, source, *TO_BUNDLE, *options)


def random_control(hint: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = control_layout(TINY, hint, WIDTHS)
    return {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in shapes.items()}


def save(state: dict[str, Tensor], folder: Path, prefix: str = "control_model.", **more: Tensor) -> None:
    torch.save({"state_dict": {prefix + k: v for k, v in state.items()} | more}, folder / "control.ckpt")


def test_the_papers_size_in_controlnets_layout() -> None:
    """Every key of ControlNet's layout on XReal's denoiser; the paper says 217 M weights."""
    shapes = control_layout(XREAL_SIZES.unet, 3, (16, 32, 96, 256))
    state = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    converted = convert_control_layout(state, XREAL_SIZES.unet["num_res_blocks"], "control.ckpt")
    assert len(converted) == len(state)
    assert round(sum(value.numel() for value in converted.values()) / 1e6) == 217
    state["zero_conv.0.0.weight"] = state.pop("zero_convs.0.0.weight")
    with pytest.raises(ConversionError, match=r"zero_conv\.0\.0\.weight"):
        convert_control_layout(state, XREAL_SIZES.unet["num_res_blocks"], "control.ckpt")


@pytest.mark.parametrize("prefix", ["control_model.", ""])
def test_controlnets_own_layout(prefix: str, bundle: Path, convert: Run) -> None:
    state = random_control()
    beside = {"model.diffusion_model.out.2.bias": torch.zeros(3), "betas": torch.zeros(3)} if prefix else {}
    save(state, bundle.parent, prefix, **beside)
    code, said = convert("control.ckpt", "--hint", COLOURS)
    assert code == 0, said
    info = describe("out")
    verify_files(info)
    assert info.licence.endswith("; controlnet: mine")
    weights = load_file(bundle.parent / "out" / "controlnet" / "diffusion_pytorch_model.safetensors")
    assert len(weights) == len(state)
    for ours, theirs in (
        ("controlnet_down_blocks.2.weight", "zero_convs.2.0.weight"),
        ("controlnet_cond_embedding.conv_out.bias", "input_hint_block.10.bias"),
        ("controlnet_cond_embedding.blocks.3.weight", "input_hint_block.8.weight"),
        ("controlnet_mid_block.weight", "middle_block_out.0.weight"),
        ("down_blocks.1.attentions.0.norm.weight", "input_blocks.3.1.norm.weight"),
    ):
        torch.testing.assert_close(weights[ours], state[theirs])
    model = load_bundle(info, control="controlnet")
    label_map = torch.randint(0, 5, (1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    z, t, tokens = torch.ones(1, 3, 16, 16), torch.tensor([500]), model.embed(["Edema"])
    steered = model.denoise(z, t, tokens, model.hint(label_map))
    assert (steered - model.denoise(z, t, tokens)).abs().max() > 1e-4


@pytest.mark.parametrize("layout", ["folder", "file"])
def test_diffusers_layout(layout: str, bundle: Path, convert: Run) -> None:
    unet = load_network(describe("xreal-tiny"), "unet")
    assert isinstance(unet, UNet2DConditionModel)
    network = build_controlnet(unet, WIDTHS)
    network.save_pretrained(bundle.parent / "folder")
    file = bundle.parent / "folder" / "diffusion_pytorch_model.safetensors"
    shutil.copyfile(file, bundle.parent / "control.safetensors")
    code, said = convert(*(["folder"] if layout == "folder" else ["control.safetensors", "--hint", "organs"]))
    assert code == 0, said
    made = load_network(describe("out"), "controlnet")
    assert made.config["_hint"] == HINT
    for key, value in network.state_dict().items():
        torch.testing.assert_close(made.state_dict()[key], value)


def test_a_hint_stands_for_every_organ() -> None:
    label_map = torch.arange(5, dtype=torch.uint8).repeat(2, 5, 1)
    assert torch.equal(organ_hint(label_map, 5, read_hint("grey1"))[:, 0], label_map / 4)
    assert organ_hint(label_map, 5, read_hint("grey")).shape == (2, 3, 5, 5)
    coloured = organ_hint(label_map, 5, read_hint(COLOURS))[0, :, 0]
    assert coloured.T.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]
    assert read_hint("organs") == HINT
    assert organ_hint(label_map, 10).shape == (2, 4, 10, 10)


def folder_of(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def write(place: Path) -> None:
        unet = load_network(describe("xreal-tiny"), "unet")
        build_controlnet(unet, WIDTHS).save_pretrained(place / "folder")
        path = place / "folder" / "config.json"
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config))

    return write


def file_of(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def write(place: Path) -> None:
        state = random_control()
        change(state)
        save(state, place)

    return write


WRONG: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    "no hint": (file_of(lambda s: None), ["control.ckpt"], "give --hint"),
    "odd hint": (file_of(lambda s: None), ["control.ckpt", "--hint", "edges"], "'edges'"),
    "hint of other channels": (file_of(lambda s: None), ["control.ckpt", "--hint", "organs"], "3 channels"),
    "unknown hint": (folder_of(lambda c: c.pop("_hint")), ["folder"], "give --hint"),
    "another class": (folder_of(lambda c: c.update(_class_name="Flux")), ["folder"], "_class_name 'Flux'"),
    "renamed": (
        file_of(lambda s: s.update({"zero.bias": s.pop("zero_convs.0.0.bias")})),
        ["control.ckpt", "--hint", "grey"],
        "zero.bias",
    ),
    "missing": (
        file_of(lambda s: s.pop("middle_block_out.0.bias")),
        ["control.ckpt", "--hint", "grey"],
        "controlnet_mid_block.bias",
    ),
    "no controlnet": (
        lambda place: save({"a": torch.zeros(1)}, place, ""),
        ["control.ckpt", "--hint", "grey"],
        "no hint embedding",
    ),
    "beside": (
        lambda place: save(random_control(), place, stray=torch.zeros(1)),
        ["control.ckpt", "--hint", "grey"],
        "stray",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named_and_nothing_is_written(case: str, bundle: Path, convert: Run) -> None:
    make, arguments, named = WRONG[case]
    make(bundle.parent)
    before = sorted(bundle.parent.iterdir())
    code, said = convert(*arguments)
    assert code == 2, said
    assert named in said
    assert "Traceback" not in said
    assert sorted(bundle.parent.iterdir()) == before
