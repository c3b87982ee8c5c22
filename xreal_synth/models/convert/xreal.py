"""The authors' checkpoints into this project's networks (the layout of the XReal release), strict both ways.

Every key of the checkpoint must be used or be known to be of no use in sampling; every weight of the network
must be given. The key tables are diffusers' own; only the text encoder's is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn

from xreal_synth.errors import ConversionError
from xreal_synth.models.text_encoder import TextEncoder, TextShape

UNET_PREFIX: Final = "model.diffusion_model."
VAE_PREFIX: Final = "first_stage_model."
TEXT_PREFIX: Final = "cond_stage_model.transformer."
TOKEN_ROWS: Final = "token_rows"  # noqa: S105

_UNUSED: Final = (
    "model_ema.",
    "loss.",
    "cond_stage_model.transformer.to_logits.",
    "cond_stage_model.tknz_fn.",
)
_SCHEDULE: Final = frozenset(
    {
        "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped",
        "posterior_mean_coef1", "posterior_mean_coef2", "lvlb_weights", "logvar", "scale_factor",
    }
)  # fmt: skip
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


def convert_unet(state: Mapping[str, Tensor], params: Mapping[str, Any]) -> nn.Module:
    """Keys without their prefix, and the reference's `unet_config.params` -> UNet2DConditionModel."""
    config = _unet_config(params)
    network = UNet2DConditionModel(**config)
    prefixed = {UNET_PREFIX + key: value.float() for key, value in state.items()}
    try:
        converted = convert_ldm_unet_checkpoint(dict(prefixed), config)
    except (KeyError, IndexError) as error:
        raise _mismatch("UNet", f"no {error}") from error
    return _load("UNet", network, prefixed, converted)


def convert_vae(state: Mapping[str, Tensor], params: Mapping[str, Any]) -> nn.Module:
    """Keys without a prefix, and the reference's `ddconfig` -> AutoencoderKL, float32.

    The first stage and the Anatomy Controller have this shape.
    """
    if params.get("attn_resolutions"):
        raise _mismatch("autoencoder", f"attention at resolutions {params['attn_resolutions']}")
    levels = len(params["ch_mult"])
    config = {
        "in_channels": params["in_channels"],
        "out_channels": params["out_ch"],
        "latent_channels": params["z_channels"],
        "block_out_channels": [params["ch"] * mult for mult in params["ch_mult"]],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": params["num_res_blocks"],
        "sample_size": params["resolution"],
    }
    kept = {key: value.float() for key, value in state.items() if not key.startswith(_UNUSED)}
    try:
        converted = convert_ldm_vae_checkpoint(dict(kept), config)
    except (KeyError, IndexError) as error:
        raise _mismatch("autoencoder", f"no {error}") from error
    return _load("autoencoder", AutoencoderKL(**config), kept, converted)


def convert_text(state: Mapping[str, Tensor], shape: TextShape, rows: Tensor | None = None) -> TextEncoder:
    """Keys without their prefix -> TextEncoder, float32.

    `rows` names the words whose embeddings the checkpoint keeps, if not all: the others become zero.
    """
    converted: dict[str, Tensor] = {}
    names = {"positions.weight": "pos_emb.emb.weight", "words.weight": "token_emb.weight"}
    for part in ("weight", "bias"):
        names[f"norm.{part}"] = f"norm.{part}"
        for layer in range(shape.depth):
            for ours, theirs in _TEXT_LAYER.items():
                place = theirs.format(attention=2 * layer, feed=2 * layer + 1)
                names[f"layers.{layer}.{ours}.{part}"] = f"attn_layers.layers.{place}.{part}"
    floats = {key: value.float() for key, value in state.items()}
    converted = {ours: floats[theirs] for ours, theirs in names.items() if theirs in floats}
    unused = {key: value for key, value in floats.items() if key not in names.values()}
    if rows is not None and "words.weight" in converted:
        kept = converted["words.weight"]
        full = kept.new_zeros(shape.num_tokens, shape.dim)
        full[rows] = kept
        converted["words.weight"] = full
    encoder = TextEncoder(shape)
    _refuse_unused("text encoder", unused)
    _load_strictly("text encoder", encoder, converted)
    return encoder


def split_backbone(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """backbone.pth's state_dict -> those of "unet", "vae" and "text", without prefixes.

    The non-EMA weights are taken, as the reference does; keys without a place raise ConversionError.
    """
    prefixes = {"unet": UNET_PREFIX, "vae": VAE_PREFIX, "text": TEXT_PREFIX}
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in prefixes}
    unknown: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith(_UNUSED) or key in _SCHEDULE or key == TOKEN_ROWS:
            continue
        name = next((name for name, prefix in prefixes.items() if key.startswith(prefix)), None)
        if name is None:
            unknown[key] = value
        else:
            parts[name][key.removeprefix(prefixes[name])] = value
    _refuse_unused("backbone", unknown)
    return parts


def _unet_config(params: Mapping[str, Any]) -> dict[str, Any]:
    """The reference's UNet parameters as diffusers names them; attention_head_dim is the number of heads."""
    refused = [k for k in ("use_scale_shift_norm", "resblock_updown", "num_classes") if params.get(k)]
    if refused or not params.get("use_spatial_transformer", True):
        raise _mismatch(
            "UNet", f"{', '.join(refused) or 'no spatial transformer'}, which XReal's UNet has not"
        )
    channels = [params["model_channels"] * mult for mult in params["channel_mult"]]
    attended = [2**level in params["attention_resolutions"] for level in range(len(channels))]
    heads: int | list[int] = params.get("num_heads", -1)
    if params.get("num_head_channels", -1) != -1:
        heads = [width // params["num_head_channels"] for width in channels]
    return {
        "in_channels": params["in_channels"],
        "out_channels": params["out_channels"],
        "block_out_channels": channels,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attended],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attended)],
        "layers_per_block": params["num_res_blocks"],
        "cross_attention_dim": params["context_dim"],
        "attention_head_dim": heads,
        "transformer_layers_per_block": params.get("transformer_depth", 1),
        "use_linear_projection": params.get("use_linear_in_transformer", False),
    }


def _load(what: str, network: Any, source: Mapping[str, Tensor], converted: dict[str, Tensor]) -> nn.Module:
    """Loads diffusers' conversion, whose values are views of the source: what no view shows was left out."""
    used = {value.data_ptr() for value in converted.values()}
    _refuse_unused(what, {key: value for key, value in source.items() if value.data_ptr() not in used})
    _load_strictly(what, network, converted)
    ready: nn.Module = network.eval()
    return ready


def _load_strictly(what: str, network: nn.Module, state: dict[str, Tensor]) -> None:
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise _mismatch(what, str(error)) from error


def _refuse_unused(what: str, unused: Mapping[str, Tensor]) -> None:
    if unused:
        shown = ", ".join(sorted(unused)[:5])
        raise _mismatch(
            what, f"{len(unused)} keys without a place: {shown}{' ...' if len(unused) > 5 else ''}"
        )


def _mismatch(what: str, found: str) -> ConversionError:
    return ConversionError(
        where=what,
        found=found,
        wanted="the layout of XReal's checkpoints",
        mend="check that the checkpoint and the configuration belong together",
    )
