"""Parts trained elsewhere, for a copy of a bundle: a ControlNet (its own layout, or diffusers') as `controlnet/`,
and Cheff's super-resolution checkpoints (cheff_sr_base.pt, cheff_sr_fine.pt) as `upscaler/`.

A ControlNet's architecture is the encoder of the bundle's denoiser. What its hint shows for each organ code is no
part of a checkpoint and has to be said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from torch import Tensor

from xreal_synth.errors import ConversionError
from xreal_synth.models.bundle_file import bounded_config
from xreal_synth.models.convert.assemble import StoredDtype, save_network
from xreal_synth.models.convert.checkpoints import (
    DIFFUSERS_STEMS,
    Checkpoint,
    build_empty,
    load_whole,
    read_checkpoint,
    read_config,
    read_weights,
    untouched,
    without_place,
)
from xreal_synth.models.convert.ldm import EMA_PREFIX, SCHEDULE, UNET_PREFIX, VAE_PREFIX
from xreal_synth.models.describe import UPSCALER, BundleInfo
from xreal_synth.models.networks.controls import HINT, HINT_KEY, hint_table, misfit, shared_config
from xreal_synth.models.networks.sr3_unet import Sr3UNet, cosine_betas

PREFIX: Final = "control_model."
BESIDE: Final = (UNET_PREFIX, VAE_PREFIX, "cond_stage_model.", EMA_PREFIX)
"""What a training checkpoint holds beside the ControlNet: the bundle has these parts of its own."""

_LAST_OF_HINT: Final = 14
"""Where diffusers' converter looks for the hint's last convolution."""

Table = Sequence[Sequence[float]]


def read_hint(text: str) -> str | list[list[float]]:
    """`organs`; `grey` or `grey1` (code / 4 in three channels or one); or five colours for codes 0 to 4.

    Raises ConversionError for anything else.
    """
    if text == "organs":
        return HINT
    if text in ("grey", "grey1"):
        return [[code / 4] * (1 if text == "grey1" else 3) for code in range(5)]
    colours = text.split(",")
    if len(colours) != 5 or not all(re.fullmatch(r"#[0-9a-fA-F]{6}", colour) for colour in colours):
        raise ConversionError(
            where="--hint",
            found=repr(text),
            wanted="organs (one channel per organ), grey (code / 4 in three channels), grey1 (in one), or five "
            "colours for background, left lung, right lung, heart, aorta: '#000000,#ff0000,...'",
            hint="say what the ControlNet was shown in training",
        )
    return [[value / 255 for value in bytes.fromhex(colour[1:])] for colour in colours]


def read_controlnet(
    source: Path, info: BundleInfo, hint: str | Table | None, ignore: tuple[str, ...] = ()
) -> ControlNetModel:
    """The ControlNet of a file or of a diffusers folder, for this bundle's denoiser, float32.

    `hint` is what read_hint gives; None if the folder's configuration says it. Raises ConversionError.
    """
    unet = _denoiser_config(info)
    source = source.expanduser()
    if source.is_dir():
        config = read_config(source / "config.json")
        if config.get("_class_name") != ControlNetModel.__name__:
            raise _other(source, f"_class_name {config.get('_class_name')!r}", ControlNetModel.__name__)
        checkpoint = read_weights(source, DIFFUSERS_STEMS)
        network = build_empty(lambda: ControlNetModel.from_config(config))
        load_whole(str(checkpoint.path), network, _floats(checkpoint.tensors))
    else:
        network = _from_file(read_checkpoint(source, ignore=ignore), unet)
    if hint is not None:
        network.register_to_config(**{HINT_KEY: hint})
    if hint_table(network.config) is None:
        found = (
            "nothing of its hint" if hint is None else f"a hint of {network.config['conditioning_channels']} channels"
        )
        raise _other(source, found, "what it was shown for each organ code, in as many channels: give --hint")
    wrong = misfit(network.config, unet)
    if wrong is not None:
        raise _other(source, *wrong)
    ready: ControlNetModel = network
    return ready


def convert_control_layout(state: Mapping[str, Tensor], layers: int, where: str) -> dict[str, Tensor]:
    """ControlNet's own keys, without prefix -> diffusers', every one accounted for. Raises ConversionError."""
    source = {_hint_key(key, state): value for key, value in _floats(state).items()}
    converted = convert_controlnet_checkpoint(dict(source), {"layers_per_block": layers})
    unused = untouched(source, converted)
    if unused:
        raise without_place(where, unused)
    return {key: value for key, value in converted.items() if value is not None}


def _from_file(checkpoint: Checkpoint, unet: Mapping[str, Any]) -> Any:
    state = checkpoint.tensors
    if any(key.startswith(PREFIX) for key in state):
        beyond = [key for key in state if not key.startswith((PREFIX, *BESIDE)) and key not in SCHEDULE]
        if beyond:
            raise without_place(checkpoint.name, beyond)
        state = checkpoint.without_prefix(PREFIX)
    if "time_embed.0.weight" in state:
        state = convert_control_layout(state, unet["layers_per_block"], checkpoint.name)
    weights = _floats(state)
    config = {**shared_config(unet), **_hint_sizes(weights, checkpoint)}
    network = build_empty(lambda: ControlNetModel(**config))
    return load_whole(checkpoint.name, network, weights)


def _hint_sizes(weights: Mapping[str, Tensor], checkpoint: Checkpoint) -> dict[str, Any]:
    """The hint's channels and the widths of its embedding, which the weights show."""
    head, blocks = "controlnet_cond_embedding.conv_in.weight", "controlnet_cond_embedding.blocks"
    if head not in weights:
        raise _other(checkpoint.path, "no hint embedding", "a ControlNet: its own layout, or diffusers'")
    widths = [len(weights[head])]
    while f"{blocks}.{2 * len(widths) - 1}.weight" in weights:
        widths.append(len(weights[f"{blocks}.{2 * len(widths) - 1}.weight"]))
    return {"conditioning_channels": weights[head].shape[1], "conditioning_embedding_out_channels": tuple(widths)}


def _hint_key(key: str, state: Mapping[str, Tensor]) -> str:
    """The hint's last convolution under the number at which diffusers' converter looks."""
    found = re.fullmatch(r"input_hint_block\.(\d+)\.(weight|bias)", key)
    if found is None:
        return key
    numbers = (re.match(r"input_hint_block\.(\d+)\.", other) for other in state)
    last = max(int(number[1]) for number in numbers if number)
    return f"input_hint_block.{_LAST_OF_HINT}.{found[2]}" if int(found[1]) == last else key


def _denoiser_config(info: BundleInfo) -> Any:
    config = bounded_config(info.read("unet/config.json"), f"{info.root}/unet")
    if config.get("_class_name") != UNet2DConditionModel.__name__:
        found = f"a denoiser of class {config.get('_class_name')}"
        raise _other(info.root, found, f"{UNet2DConditionModel.__name__}, which a ControlNet can steer")
    return build_empty(lambda: UNet2DConditionModel.from_config(config)).config


def _floats(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.float() for key, value in state.items()}


def _other(source: Path, found: str, wanted: str) -> ConversionError:
    return ConversionError(
        where=str(source), found=found, wanted=wanted, hint="give a ControlNet trained on this bundle's denoiser"
    )


UPSCALER_SIZES: Final = (256, 1024)
UPSCALER_LICENCE: Final = "MIT"

_NAMES: Final = (
    (r"^init_conv\.", "inlet."),
    (r"^time_mlp\.1\.", "time_in."),
    (r"^time_mlp\.3\.", "time_out."),
    (r"^(down|up)s\.(\d+)\.0\.", r"\1.\2.first."),
    (r"^(down|up)s\.(\d+)\.1\.", r"\1.\2.second."),
    (r"^(down|up)s\.(\d+)\.2\.", r"\1.\2.attention."),
    (r"^(down|up)s\.(\d+)\.3\.", r"\1.\2.onward."),
    (r"^mid_block1\.", "middle_first."),
    (r"^mid_attn\.", "middle_attention."),
    (r"^mid_block2\.", "middle_second."),
    (r"^final_conv\.0\.fn\.(\d)\.", r"last.\1."),
    (r"^final_conv\.1\.", "outlet."),
    (r"\.mlp\.1\.", ".time."),
    (r"\.block1\.", ".first."),
    (r"\.block2\.", ".second."),
    (r"\.res_conv\.", ".skip."),
    (r"\.fn\.norm\.", ".norm."),
    (r"\.fn\.fn\.to_qkv\.", ".qkv."),
    (r"\.fn\.fn\.to_out\.0\.", ".out."),
    (r"\.fn\.fn\.to_out\.1\.", ".out_norm."),
    (r"\.fn\.fn\.to_out\.", ".out."),
    (r"\.proj\.", ".conv."),
)
"""Places in the checkpoint, and here; then names within a block."""


def convert_upscaler(state: Mapping[str, Tensor], where: str = "upscaler", **sizes: Any) -> Sr3UNet:
    """Cheff's keys -> Sr3UNet, float32; `sizes` replace the released network's. Raises ConversionError."""
    named = {_renamed(key): value.float() for key, value in state.items()}
    network: Sr3UNet = build_empty(lambda: Sr3UNet(**sizes))
    load_whole(where, network, named)
    return network


def read_upscaler(path: Path, ignore: tuple[str, ...] = ()) -> Sr3UNet:
    """The network of a checkpoint file; raises ConversionError."""
    checkpoint = read_checkpoint(path, ignore=ignore)
    return convert_upscaler(checkpoint.tensors, checkpoint.name)


def check_size(bundle: str, image_size: int) -> None:
    """Raises ConversionError if images are not of the size that the upscaler was trained on."""
    if image_size != UPSCALER_SIZES[0]:
        raise ConversionError(
            where=f"bundle {bundle}",
            found=f"images of {image_size} px",
            wanted=f"{UPSCALER_SIZES[0]} px, which the upscaler makes {UPSCALER_SIZES[1]}",
            hint="choose another bundle",
        )


def save_upscaler(bundle: Path, network: Sr3UNet, dtype: StoredDtype) -> None:
    """Writes `upscaler/` into a bundle's folder: network, and the schedule with which it was trained."""
    save_network(bundle / UPSCALER, network, dtype)
    betas = cosine_betas().tolist()
    DDIMScheduler(
        len(betas), trained_betas=betas, clip_sample=False, set_alpha_to_one=False, steps_offset=0,
        timestep_spacing="leading",
    ).save_config(bundle / UPSCALER)  # fmt: skip


def _renamed(key: str) -> str:
    for pattern, ours in _NAMES:
        key = re.sub(pattern, ours, key)
    return key
