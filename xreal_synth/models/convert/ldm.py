"""Networks in the layout of CompVis' latent-diffusion (XReal, Cheff) into this project's, strict both ways.

Every key of a checkpoint must be used or be known to be of no use in sampling; every weight of a network must
be given. The key tables are diffusers' own; those of the text encoder and of the unconditional denoiser's
attention are here. `params` are the parameters by the layout's own names, as its training YAML has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn

from xreal_synth.errors import ConversionError
from xreal_synth.models.convert.checkpoints import build_empty, load_whole, mismatch, untouched, without_place
from xreal_synth.models.text.ldm_bert import TextEncoder, TextShape

UNET_PREFIX: Final = "model.diffusion_model."
VAE_PREFIX: Final = "first_stage_model."
TEXT_PREFIX: Final = "cond_stage_model.transformer."
EMA_PREFIX: Final = "model_ema."
TOKEN_ROWS: Final = "token_rows"  # noqa: S105

UNUSED: Final = ("loss.", "cond_stage_model.transformer.to_logits.", "cond_stage_model.tknz_fn.")
"""Prefixes of what only training needs: the autoencoder's losses, the text encoder's word prediction."""

SCHEDULE: Final = frozenset(
    {
        "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped",
        "posterior_mean_coef1", "posterior_mean_coef2", "lvlb_weights", "logvar", "scale_factor",
    }
)  # fmt: skip
"""Buffers that follow from the schedule, which the configuration states."""

_HEAD_WIDTH: Final = 64
_EMA_COUNTERS: Final = ("decay", "num_updates")
_TEXT_LAYER: Final = {
    "attention_norm": "{attention}.0",
    "attention.to_q": "{attention}.1.to_q",
    "attention.to_k": "{attention}.1.to_k",
    "attention.to_v": "{attention}.1.to_v",
    "attention.to_out": "{attention}.1.to_out",
    "feed_norm": "{feed}.0",
    "feed_in": "{feed}.1.net.0.0",
    "feed_out": "{feed}.1.net.2",
}
_UNET_KNOWN: Final = frozenset(
    {
        "in_channels", "out_channels", "model_channels", "channel_mult", "num_res_blocks", "num_heads",
        "attention_resolutions", "num_head_channels", "use_spatial_transformer", "transformer_depth",
        "context_dim", "use_linear_in_transformer",
        "image_size", "dropout", "use_checkpoint", "use_fp16", "legacy",
    }
)  # fmt: skip
"""Parameters that are read, and (last line) those that change nothing in sampling."""


def split_ldm(
    state: Mapping[str, Tensor], *, ema: bool = False, where: str = "checkpoint"
) -> dict[str, dict[str, Tensor]]:
    """A latent-diffusion state_dict -> those of "unet", "vae" and "text", without prefixes.

    `ema` takes the denoiser's averaged weights; the reference samples with the plain ones. A part that the
    file lacks is empty. Raises ConversionError for keys without a place, or averages that do not match.
    """
    prefixes = {"unet": UNET_PREFIX, "vae": VAE_PREFIX, "text": TEXT_PREFIX}
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in prefixes}
    averages: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        if key.startswith(EMA_PREFIX):
            averages[key.removeprefix(EMA_PREFIX)] = value
            continue
        if key.startswith((*UNUSED, f"{VAE_PREFIX}loss.")) or key in SCHEDULE or key == TOKEN_ROWS:
            continue
        name = next((name for name, prefix in prefixes.items() if key.startswith(prefix)), None)
        if name is None:
            unknown.append(key)
        else:
            parts[name][key.removeprefix(prefixes[name])] = value
    if unknown:
        raise without_place(where, unknown)
    if ema:
        parts["unet"] = _averaged(parts["unet"], averages, where)
    return parts


def _averaged(unet: Mapping[str, Tensor], averages: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The denoiser's weights from their averages, which carry the same names without dots."""
    flat = {key: f"diffusion_model.{key}".replace(".", "") for key in unet}
    missing = [key for key, name in flat.items() if name not in averages]
    surplus = averages.keys() - set(flat.values()) - set(_EMA_COUNTERS)
    if not averages:
        raise mismatch(where, f"no averaged weights ({EMA_PREFIX}*); leave --ema out to take the plain ones")
    if missing or surplus:
        named = ", ".join([*missing, *sorted(surplus)][:5])
        raise mismatch(where, f"{len(missing)} weights without an average and {len(surplus)} of nothing else: {named}")
    return {key: averages[name] for key, name in flat.items()}


def convert_unet(state: Mapping[str, Tensor], params: Mapping[str, Any], where: str = "UNet") -> nn.Module:
    """Keys without their prefix, and `unet_config.params` -> UNet2DConditionModel, or UNet2DModel without
    prompts; float32."""
    config = unet_config(params, where)
    kind = UNet2DConditionModel if "cross_attention_dim" in config else UNet2DModel
    network = build_empty(lambda: kind(**config))
    prefixed = {UNET_PREFIX + key: value.float() for key, value in state.items()}
    try:
        converted = convert_ldm_unet_checkpoint(dict(prefixed), config)
    except (KeyError, IndexError) as error:
        raise mismatch(where, f"no {error}") from error
    unused = untouched(prefixed, converted)
    if kind is UNet2DModel:
        converted = _split_attention(converted, config["attention_head_dim"])
    return load_whole(where, network, converted, unused)


def convert_vae(state: Mapping[str, Tensor], params: Mapping[str, Any], where: str = "autoencoder") -> nn.Module:
    """Keys without a prefix, and `ddconfig` -> AutoencoderKL, float32.

    The first stage and the Anatomy Controller have this shape.
    """
    config = vae_config(params, where)
    kept = {key: value.float() for key, value in state.items() if not key.startswith((*UNUSED, EMA_PREFIX))}
    try:
        converted = convert_ldm_vae_checkpoint(dict(kept), config)
    except (KeyError, IndexError) as error:
        raise mismatch(where, f"no {error}") from error
    network = build_empty(lambda: AutoencoderKL(**config))
    return load_whole(where, network, converted, untouched(kept, converted))


def convert_text(
    state: Mapping[str, Tensor], shape: TextShape, rows: Tensor | None = None, where: str = "text encoder"
) -> TextEncoder:
    """Keys without their prefix -> TextEncoder, float32.

    `rows` names the words whose embeddings the checkpoint keeps, if not all: the others become zero.
    """
    names = {"positions.weight": "pos_emb.emb.weight", "words.weight": "token_emb.weight"}
    for part in ("weight", "bias"):
        names[f"norm.{part}"] = f"norm.{part}"
        for layer in range(shape.depth):
            for ours, theirs in _TEXT_LAYER.items():
                place = theirs.format(attention=2 * layer, feed=2 * layer + 1)
                names[f"layers.{layer}.{ours}.{part}"] = f"attn_layers.layers.{place}.{part}"
    converted = {ours: state[theirs].float() for ours, theirs in names.items() if theirs in state}
    unused = [key for key in state if key not in names.values() and not key.startswith("to_logits.")]
    if rows is not None and "words.weight" in converted:
        kept = converted["words.weight"]
        full = kept.new_zeros(shape.num_tokens, shape.dim)
        full[rows] = kept
        converted["words.weight"] = full
    encoder: TextEncoder = build_empty(lambda: TextEncoder(shape))
    load_whole(where, encoder, converted, unused)
    return encoder


def text_shape(state: Mapping[str, Tensor], path: Path) -> TextShape:
    """The encoder's sizes, which its weights show; heads are 64 wide in all released ones. Raises ConversionError."""
    try:
        words, dim = state["token_emb.weight"].shape
        inner = len(state["attn_layers.layers.0.1.to_q.weight"])
        depth = len({key.split(".")[2] for key in state if key.startswith("attn_layers.layers.")}) // 2
        length = len(state["pos_emb.emb.weight"])
    except KeyError as error:
        raise ConversionError(
            where=str(path),
            found=f"no {TEXT_PREFIX}{error.args[0]}",
            wanted="a latent-diffusion checkpoint with its text encoder",
            hint="give the file that the bundle was converted from",
        ) from error
    return TextShape(words, length, dim, depth, inner // _HEAD_WIDTH, _HEAD_WIDTH)


def unet_config(params: Mapping[str, Any], where: str = "UNet") -> dict[str, Any]:
    """The layout's UNet parameters as diffusers names them.

    With prompts, attention_head_dim is the number of heads; without, it is the width of one.
    """
    refused = [key for key, value in params.items() if key not in _UNET_KNOWN and value]
    if refused:
        raise mismatch(where, f"parameters {', '.join(refused)}, which this project's UNets have not")
    channels = [params["model_channels"] * mult for mult in params["channel_mult"]]
    attended = [2**level in params["attention_resolutions"] for level in range(len(channels))]
    crossed = bool(params.get("use_spatial_transformer"))
    if crossed and params.get("context_dim") is None:
        raise mismatch(where, "use_spatial_transformer without a context_dim")
    block = "CrossAttn{}Block2D" if crossed else "Attn{}Block2D"
    shared = {
        "sample_size": params.get("image_size"),
        "in_channels": params["in_channels"],
        "out_channels": params["out_channels"],
        "block_out_channels": channels,
        "down_block_types": [block.format("Down") if a else "DownBlock2D" for a in attended],
        "up_block_types": [block.format("Up") if a else "UpBlock2D" for a in reversed(attended)],
        "layers_per_block": params["num_res_blocks"],
    }
    heads, width = params.get("num_heads", -1), params.get("num_head_channels", -1)
    if not crossed:
        if width == -1:
            raise mismatch(where, "attention without num_head_channels")
        return {**shared, "attention_head_dim": width}
    return {
        **shared,
        "cross_attention_dim": params["context_dim"],
        "attention_head_dim": heads if width == -1 else [channel // width for channel in channels],
        "transformer_layers_per_block": params.get("transformer_depth", 1),
        "use_linear_projection": params.get("use_linear_in_transformer", False),
    }


def vae_config(params: Mapping[str, Any], where: str = "autoencoder") -> dict[str, Any]:
    """`ddconfig` as diffusers names it."""
    if params.get("attn_resolutions"):
        raise mismatch(where, f"attention at resolutions {params['attn_resolutions']}")
    levels = len(params["ch_mult"])
    return {
        "in_channels": params["in_channels"],
        "out_channels": params["out_ch"],
        "latent_channels": params["z_channels"],
        "block_out_channels": [params["ch"] * mult for mult in params["ch_mult"]],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": params["num_res_blocks"],
        "sample_size": params["resolution"],
    }


def _split_attention(converted: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
    """Attention without prompts: one qkv, ordered by head, as diffusers' three linear layers."""
    found: dict[str, Tensor] = {}
    for key, value in converted.items():
        head, _, part = key.rpartition(".")
        place, _, name = head.rpartition(".")
        if ".attentions." not in key:
            found[key] = value
        elif name == "norm":
            found[f"{place}.group_norm.{part}"] = value
        elif name == "proj_out":
            found[f"{place}.to_out.0.{part}"] = value.squeeze(-1) if part == "weight" else value
        elif name == "qkv":
            flat = value.squeeze(-1) if part == "weight" else value
            by_head = flat.reshape(-1, 3, width, *flat.shape[1:])
            for at, ours in enumerate(("to_q", "to_k", "to_v")):
                found[f"{place}.{ours}.{part}"] = by_head[:, at].flatten(0, 1)
        else:
            found[key] = value
    return found
