"""Strictness of the converter; that it converts rightly is what the golden vectors show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from xreal_synth.errors import ConversionError
from xreal_synth.models.convert.ldm import TOKEN_ROWS, convert_text, convert_unet, convert_vae, split_ldm
from xreal_synth.models.text.ldm_bert import TextShape

GOLDEN = Path(__file__).parent.parent / "golden" / "xreal-tiny"
CONFIG: dict[str, Any] = json.loads((GOLDEN / "config.json").read_text())


@pytest.fixture(scope="module")
def backbone() -> dict[str, Tensor]:
    return load_file(GOLDEN / "backbone.safetensors")


@pytest.fixture(scope="module")
def parts(backbone: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    return split_ldm(backbone)


def convert(part: str, state: dict[str, Tensor], rows: Tensor | None = None) -> object:
    if part == "unet":
        return convert_unet(state, CONFIG["unet"])
    if part == "vae":
        return convert_vae(state, CONFIG["vae"])
    return convert_text(state, TextShape(**CONFIG["text"]), rows)


@pytest.mark.parametrize("part", ["unet", "vae", "text"])
def test_every_weight_is_used_and_none_is_invented(
    part: str, parts: dict[str, dict[str, Tensor]], backbone: dict[str, Tensor]
) -> None:
    network: Any = convert(part, parts[part], backbone[TOKEN_ROWS])
    ours = sum(value.numel() for value in network.state_dict().values())
    theirs = sum(value.numel() for value in parts[part].values())
    if part == "text":
        theirs += (CONFIG["text"]["num_tokens"] - len(backbone[TOKEN_ROWS])) * CONFIG["text"]["dim"]
    assert ours == theirs


@pytest.mark.parametrize("part", ["unet", "vae", "text"])
def test_an_unknown_key_is_an_error(
    part: str, parts: dict[str, dict[str, Tensor]], backbone: dict[str, Tensor]
) -> None:
    with pytest.raises(ConversionError, match=r"surprise\.weight"):
        convert(part, {**parts[part], "surprise.weight": torch.zeros(1)}, backbone[TOKEN_ROWS])


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("unet", "input_blocks.1.0.in_layers.0.weight"),
        ("unet", "time_embed.0.bias"),
        ("unet", "middle_block.1.proj_in.weight"),
        ("vae", "encoder.mid.attn_1.q.weight"),
        ("vae", "quant_conv.bias"),
        ("text", "attn_layers.layers.3.1.net.2.bias"),
        ("text", "token_emb.weight"),
    ],
)
def test_a_missing_key_is_an_error(
    part: str, key: str, parts: dict[str, dict[str, Tensor]], backbone: dict[str, Tensor]
) -> None:
    state = {name: value for name, value in parts[part].items() if name != key}
    assert len(state) == len(parts[part]) - 1
    with pytest.raises(ConversionError):
        convert(part, state, backbone[TOKEN_ROWS])


def test_what_sampling_does_not_need_is_left_out(backbone: dict[str, Tensor]) -> None:
    more = {"betas": torch.zeros(1), "model_ema.decay": torch.zeros(1), "model_ema.diffusion_model_x": torch.ones(1)}
    assert split_ldm({**backbone, **more}).keys() == {"unet", "vae", "text"}
    with pytest.raises(ConversionError, match="stray"):
        split_ldm({**backbone, "stray": torch.zeros(1)})


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("unet", {"channel_mult": [1, 2, 2, 2]}),
        ("unet", {"num_res_blocks": 2}),
        ("unet", {"attention_resolutions": [4, 2]}),
        ("unet", {"use_scale_shift_norm": True}),
        ("vae", {"ch_mult": [1, 2]}),
        ("vae", {"attn_resolutions": [32]}),
    ],
)
def test_a_configuration_of_other_weights_is_an_error(
    part: str, changes: dict[str, object], parts: dict[str, dict[str, Tensor]]
) -> None:
    convert_part = convert_unet if part == "unet" else convert_vae
    with pytest.raises(ConversionError):
        convert_part(parts[part], {**CONFIG[part], **changes})
