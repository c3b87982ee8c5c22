"""Bundles from a Stable-Diffusion folder in diffusers layout: RoentGen and its kin.

`unet/`, `vae/`, `scheduler/`, `text_encoder/`, `tokenizer/`. Images are in [-1, 1]; sizes, scale factor,
betas and prediction type are the folder's own. Weights are loaded strictly, safetensors before pickles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from xreal_synth.errors import ConversionError
from xreal_synth.models.bundle_file import BundleFields
from xreal_synth.models.convert.assemble import PLAIN, Parts, Stored, check_words, silent, write_parts
from xreal_synth.models.convert.checkpoints import (
    DIFFUSERS_STEMS,
    Report,
    build_empty,
    load_whole,
    read_config,
    read_weights,
)
from xreal_synth.models.convert.published import TRAIN_STEPS, Published
from xreal_synth.models.describe import BundleInfo
from xreal_synth.models.text.encoders import TextModel, encode_all, open_clip

VALUE_RANGE: Final = (-1.0, 1.0)

KINDS: Final[dict[str, Any]] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
_INDEX: Final = "model_index.json"
_OTHER_FAMILIES: Final = {
    "text_encoder_2": "a second text encoder (Stable Diffusion XL and later)",
    "transformer": "a transformer in the denoiser's place (Stable Diffusion 3 and later)",
    "prior": "a prior (Kandinsky, Stable Cascade)",
}
_UNET_UNKNOWN: Final = ("addition_embed_type", "class_embed_type", "time_cond_proj_dim", "encoder_hid_dim")
_VAE_UNKNOWN: Final = ("shift_factor", "latents_mean", "latents_std")
_BETAS: Final = ("linear", "scaled_linear", "squaredcos_cap_v2")
_SCHEDULE_KEYS: Final = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
_OLD_ATTENTION: Final = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names in autoencoders saved before diffusers 0.17."""


def convert_folder(
    source: Path,
    out: Path,
    published: Published,
    *,
    image_size: int | None = None,
    variant: str | None = None,
    stored: Stored = PLAIN,
    report: Report = silent,
) -> BundleInfo:
    """Writes the bundle `out`; `image_size` replaces the size that the denoiser was configured for.

    Raises ConversionError: another family of models, a part that is missing, broken or of another layout, a
    prompt that does not fit, or `out` already there.
    """
    said = check_words(out, published, stored)
    source = source.expanduser()
    _check_family(source)
    scheduler = read_scheduler(source)
    report("reading the text encoder", 0, 3)
    text = open_clip(source, variant)
    report("reading the autoencoder", 1, 3)
    vae = read_network(source, "vae", variant)
    report("reading the denoiser", 2, 3)
    unet = read_network(source, "unet", variant)
    _check_together(source, unet.config, vae.config, text)
    factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    side = _latent_side(source, unet.config, image_size, factor)
    fields = BundleFields(
        **said,
        image_size=side * factor,
        channels=vae.config["in_channels"],
        value_range=VALUE_RANGE,
        latent_shape=(unet.config["in_channels"], side, side),
        scale_factor=vae.config["scaling_factor"],
    )
    embeddings = encode_all(text, published.prompts.texts(), report)
    extras = (text.save,) if stored.keep_text_encoder else ()
    parts = Parts({"vae": vae, "unet": unet}, scheduler, embeddings, extras)
    return write_parts(out, parts, fields, stored, report)


def read_network(source: Path, part: str, variant: str | None = None) -> Any:
    """`unet` or `vae` of a folder, float32; raises ConversionError."""
    config = read_config(source / part / "config.json")
    kind = KINDS[part]
    where = str(source / part)
    if config.get("_class_name") != kind.__name__:
        raise _other(where, f"_class_name {config.get('_class_name')!r}", kind.__name__)
    unknown = _UNET_UNKNOWN if part == "unet" else _VAE_UNKNOWN
    beyond = [key for key in unknown if config.get(key) is not None]
    if beyond:
        raise _other(where, ", ".join(f"{key} {config[key]!r}" for key in beyond), "none of them")
    weights = read_weights(source / part, DIFFUSERS_STEMS, variant)
    try:
        network: nn.Module = build_empty(lambda: kind.from_config(config))
    except (TypeError, ValueError, KeyError) as error:
        raise _other(where, f"a configuration that cannot be built: {error}", f"a {kind.__name__}") from error
    return load_whole(str(weights.path), network, _current_names(weights.tensors))


def read_scheduler(source: Path) -> dict[str, Any]:
    """The folder's betas and prediction type, for DDIM steps spaced as this project spaces them.

    Any scheduler that states them will do: they belong to the weights, the way of stepping does not.
    """
    path = source / "scheduler" / "scheduler_config.json"
    config = read_config(path)
    kind = config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise _other(str(path), f"prediction_type {kind!r}", "epsilon or v_prediction")
    if config.get("num_train_timesteps", TRAIN_STEPS) != TRAIN_STEPS:
        raise _other(str(path), f"num_train_timesteps {config['num_train_timesteps']}", str(TRAIN_STEPS))
    if config.get("trained_betas") is None and config.get("beta_schedule") not in _BETAS:
        raise _other(str(path), f"beta_schedule {config.get('beta_schedule')!r}", f"one of {', '.join(_BETAS)}")
    given = {key: config[key] for key in _SCHEDULE_KEYS if config.get(key) is not None}
    defaults = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
    scheduler = {
        **defaults, **given, "num_train_timesteps": TRAIN_STEPS, "prediction_type": kind, "clip_sample": False,
        "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading",
    }  # fmt: skip
    alphas = DDIMScheduler(**scheduler).alphas_cumprod
    last = float(alphas[-1])
    if len(alphas) != TRAIN_STEPS:
        raise _other(str(path), f"{len(alphas)} trained_betas", str(TRAIN_STEPS))
    if kind == "epsilon" and last <= 0:
        raise _other(str(path), "betas that end in pure noise, with prediction_type epsilon", "v_prediction")
    return scheduler


def _check_family(source: Path) -> None:
    if not source.is_dir():
        raise _other(str(source), "no such folder", "a folder in diffusers layout")
    for name, what in _OTHER_FAMILIES.items():
        if (source / name).is_dir():
            raise _other(str(source), what, "Stable Diffusion 1 or 2: one text encoder, a UNet")
    missing = [part for part in (*KINDS, "scheduler", "text_encoder", "tokenizer") if not (source / part).is_dir()]
    if missing:
        found = ", ".join(sorted(path.name for path in source.iterdir())) or "nothing"
        raise _other(str(source), f"no {', '.join(missing)} among {found}", f"a folder with {_INDEX}, whole")


def _check_together(source: Path, unet: Mapping[str, Any], vae: Mapping[str, Any], text: TextModel) -> None:
    if unet["in_channels"] != vae["latent_channels"] or unet["out_channels"] != vae["latent_channels"]:
        found = f"a denoiser of {unet['in_channels']} channels in and {unet['out_channels']} out"
        wanted = f"the autoencoder's {vae['latent_channels']}, in and out (inpainting and depth models have more)"
        raise _other(str(source), found, wanted)
    if unet["cross_attention_dim"] != text.width:
        found = f"a denoiser that takes tokens of width {unet['cross_attention_dim']}"
        raise _other(str(source), found, f"the text encoder's {text.width}")
    if vae["in_channels"] not in (1, 3) or vae["out_channels"] != vae["in_channels"]:
        raise _other(str(source), f"an autoencoder of {vae['in_channels']} channels", "1 or 3")


def _latent_side(source: Path, unet: Mapping[str, Any], image_size: int | None, factor: int) -> int:
    step = 2 ** (len(unet["block_out_channels"]) - 1)
    side = unet["sample_size"] if image_size is None else image_size / factor
    if not isinstance(side, int | float) or side != int(side) or int(side) % step or side < 1:
        wanted = f"a square image whose side is a multiple of {factor * step}"
        raise _other(str(source), f"a side of {image_size or side}", f"{wanted}; set it with --image-size")
    return int(side)


def _current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float32, and attention in autoencoders by today's names."""
    pattern = re.compile(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)(\.(?:weight|bias))$")
    return {
        pattern.sub(lambda m: m[1] + _OLD_ATTENTION[m[2]] + m[3], key): value.float() for key, value in state.items()
    }


def _other(where: str, found: str, wanted: str) -> ConversionError:
    return ConversionError(
        where=where,
        found=found,
        wanted=wanted,
        hint="give a Stable-Diffusion folder in diffusers layout, as StableDiffusionPipeline.save_pretrained writes it",
    )
