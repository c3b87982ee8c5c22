"""Cheff's super-resolution checkpoints (cheff_sr_base.pt, cheff_sr_fine.pt) as a bundle's `upscaler/`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from diffusers import DDIMScheduler
from torch import Tensor

from xreal_synth.errors import ConversionError
from xreal_synth.models.convert.assemble import StoredDtype, save_network
from xreal_synth.models.convert.checkpoints import build_empty, load_whole, read_checkpoint
from xreal_synth.models.describe import UPSCALER
from xreal_synth.models.networks.sr3_unet import Sr3UNet, cosine_betas

SIZES: Final = (256, 1024)
LICENCE: Final = "MIT"

_NAMES: Final = (
    (r"init_conv\.", "inlet."),
    (r"time_mlp\.1\.", "time_in."),
    (r"time_mlp\.3\.", "time_out."),
    (r"(down|up)s\.(\d+)\.0\.", r"\1.\2.first."),
    (r"(down|up)s\.(\d+)\.1\.", r"\1.\2.second."),
    (r"(down|up)s\.(\d+)\.2\.", r"\1.\2.attention."),
    (r"(down|up)s\.(\d+)\.3\.", r"\1.\2.onward."),
    (r"mid_block1\.", "middle_first."),
    (r"mid_attn\.", "middle_attention."),
    (r"mid_block2\.", "middle_second."),
    (r"final_conv\.0\.fn\.(\d)\.", r"last.\1."),
    (r"final_conv\.1\.", "outlet."),
)
"""Places in the checkpoint, and here."""

_INSIDE: Final = (
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
"""Names within a block."""


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
    if image_size != SIZES[0]:
        raise ConversionError(
            where=f"bundle {bundle}",
            found=f"images of {image_size} px",
            wanted=f"{SIZES[0]} px, which the upscaler makes {SIZES[1]}",
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
        found, count = re.subn(f"^{pattern}", ours, key)
        if count:
            for inner, name in _INSIDE:
                found = re.sub(inner, name, found)
            return found
    return key
