"""Bundles into memory: hashes checked, networks chosen by name from a fixed table, weights loaded strictly.

Shapes: B batch, C channels, H and W image sides, h and w latent sides, L prompt tokens, D token width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel, UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from xreal_synth.errors import BundleError
from xreal_synth.models.bundle_file import EMBEDDINGS, NULL_KEY, bounded_config
from xreal_synth.models.describe import CONTROLLER, CONTROLNET, DETAIL, UPSCALER, BundleInfo, require_control
from xreal_synth.models.devices import open_device
from xreal_synth.models.layers import DTYPES, Precision
from xreal_synth.models.loaded import LoadedBundle, Upscaler
from xreal_synth.models.networks.conditioning import MAPS_KEY
from xreal_synth.models.networks.controls import MaskController, misfit
from xreal_synth.models.networks.finding_classifier import FindingClassifier
from xreal_synth.models.networks.patch_autoencoder import PatchAutoencoder
from xreal_synth.models.networks.segmenters import OrganSegmenter, PyramidSegmenter
from xreal_synth.models.networks.sr3_unet import Sr3UNet
from xreal_synth.types import Control

NETWORKS: Final[dict[str, dict[str, Any]]] = {
    "vae": {"AutoencoderKL": AutoencoderKL, "PatchAutoencoder": PatchAutoencoder},
    "anatomy_controller": {"AutoencoderKL": AutoencoderKL, "MaskController": MaskController},
    "unet": {"UNet2DConditionModel": UNet2DConditionModel, "UNet2DModel": UNet2DModel},
    CONTROLNET: {"ControlNetModel": ControlNetModel},
    "segmenter": {"OrganSegmenter": OrganSegmenter, "PyramidSegmenter": PyramidSegmenter},
    "classifier": {"FindingClassifier": FindingClassifier},
    UPSCALER: {"Sr3UNet": Sr3UNet},
}
WEIGHTS: Final = "diffusion_pytorch_model.safetensors"


class WithoutPrompts(nn.Module):
    """A denoiser that takes no prompt, where one that takes prompts is called."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, z_BChw: Tensor, t_B: Tensor, encoder_hidden_states: Tensor, return_dict: bool) -> tuple[Tensor]:
        """The network's answer [B, C, h, w], in a tuple; the prompt's states are not looked at."""
        out: tuple[Tensor] = self.unet(z_BChw, t_B, return_dict=return_dict)
        return out


def load_bundle(
    info: BundleInfo,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    control: Control = "xreal",
    *,
    tuned: bool = True,
) -> LoadedBundle:
    """The networks of a described bundle, each file's hash checked as it is read; raises BundleError.

    The ControlNet is loaded where `control`, the sampling settings' own, asks for it.
    """
    open_device(torch.device(device).type)
    unet = load_network(info, "unet", DTYPES[precision])
    scheduler = read_json(info, "scheduler/scheduler_config.json")
    if scheduler.get("prediction_type") not in ("epsilon", "v_prediction"):
        raise BundleError(
            where=str(info.root / "scheduler"),
            found=f"prediction_type {scheduler.get('prediction_type')!r}",
            wanted="epsilon or v_prediction",
            hint="choose another bundle",
        )
    embeddings = read_embeddings(info)
    _check_shapes(info, unet, embeddings)
    return LoadedBundle(
        info,
        vae=load_network(info, "vae"),
        controller=load_network(info, CONTROLLER) if CONTROLLER in info.parts else None,
        unet=unet if isinstance(unet, UNet2DConditionModel) else WithoutPrompts(unet),
        controlnet=_controlnet(info, unet) if control == "controlnet" else None,
        detail=_detail(info),
        embeddings=embeddings,
        alphas_cumprod=alphas_from(scheduler),
        prediction_type=scheduler["prediction_type"],
        device=device,
        precision=precision,
        tuned=tuned,
    )


def load_upscaler(info: BundleInfo, device: torch.device | str = "cpu", precision: Precision = "fp32") -> Upscaler:
    """The bundle's upscaler, whose hashes `load_bundle` has checked; raises BundleError."""
    network = load_network(info, UPSCALER, DTYPES[precision])
    scheduler = read_json(info, f"{UPSCALER}/scheduler_config.json")
    assert info.upscaled_size is not None, "a bundle with an upscaler tells its size"
    return Upscaler(network, alphas_from(scheduler), info.upscaled_size, device, precision)


def alphas_from(scheduler: Mapping[str, Any]) -> Tensor:
    """The training schedule's cumulative alphas [T] of a diffusers scheduler configuration; raises BundleError."""
    known = {k: v for k, v in scheduler.items() if not k.startswith("_")}
    try:
        alphas: Tensor = DDIMScheduler(**known).alphas_cumprod
    except (RuntimeError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise BundleError(
            found=f"a scheduler that cannot be built: {error}", wanted="a DDIM schedule", hint="choose another bundle"
        ) from error
    return alphas


def load_network(info: BundleInfo, part: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """One network of the bundle on the CPU; raises BundleError."""
    folder = info.part(part)
    config = info.read(f"{part}/config.json")
    with info.held(f"{part}/{WEIGHTS}") as weights:
        return network_from(part, folder, config, weights, dtype)


def network_from(
    part: str, folder: Path, text: bytes, weights_file: Path, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """A network that may be such a part, of a configuration's text and its weights, on the CPU, loaded strictly.

    It is built without values, so that no more than the file and one copy in `dtype` are in memory. Raises
    BundleError, that names `folder`.
    """
    config = bounded_config(text, str(folder / "config.json"))
    kinds = NETWORKS[part]
    kind = kinds.get(str(config.get("_class_name")))
    if kind is None:
        raise BundleError(
            where=str(folder / "config.json"),
            found=f"_class_name {config.get('_class_name')!r}",
            wanted=f"one of {', '.join(kinds)}",
            hint="choose another bundle, or upgrade xreal-synth",
        )
    try:
        with torch.device("meta"):
            network: nn.Module = kind.from_config(config)
        weights = _tensors(weights_file)
        network.load_state_dict({k: _in_memory(v, dtype) for k, v in weights.items()}, assign=True)
    except (RuntimeError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise BundleError(
            where=str(folder),
            found=f"weights and configuration do not belong together: {error}",
            wanted=f"a {kind.__name__}",
            hint="fetch the bundle again",
        ) from error
    assert not any(buffer.is_meta for buffer in network.buffers()), "a buffer that is not in the file"
    return network


def _controlnet(info: BundleInfo, unet: Any) -> nn.Module:
    require_control(info, CONTROLNET)
    network = load_network(info, CONTROLNET)
    wrong = misfit(network.config, unet.config)
    if wrong is not None:
        raise BundleError(
            where=str(info.root / CONTROLNET),
            found=wrong[0],
            wanted=wrong[1],
            hint="train one on this denoiser (xreal-synth train controlnet) and export it",
        )
    return network


def _detail(info: BundleInfo) -> dict[str, Tensor] | None:
    if all(stamp.path != DETAIL for stamp in info.files):
        return None
    with info.held(DETAIL) as file:
        found = {key: value.float() for key, value in _tensors(file).items()}
    shapes = {key: tuple(value.shape) for key, value in found.items()}
    wanted = dict.fromkeys(("amplitude", "where"), info.latent_shape)
    if shapes != wanted:
        raise BundleError(where=str(info.root / DETAIL), found=str(shapes), wanted=str(wanted), hint="fetch it again")
    return found


def read_embeddings(info: BundleInfo) -> dict[str, Tensor]:
    """Prompts -> tokens [L, D], float32; raises BundleError."""
    with info.held(EMBEDDINGS) as file:
        return {"" if k == NULL_KEY else k: v.float() for k, v in _tensors(file).items()}


def _check_shapes(info: BundleInfo, unet: Any, embeddings: Mapping[str, Tensor]) -> None:
    """Table, latents and maps are as the denoiser takes them; its own list of maps, if it has one, is bundle.json's."""
    shapes = {tuple(value.shape) for value in embeddings.values()}
    width = unet.config.get("cross_attention_dim", 1)
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or next(iter(shapes))[1] != width:
        raise BundleError(
            where=str(info.root / EMBEDDINGS),
            found=f"embeddings of shapes {sorted(shapes)}",
            wanted=f"all of one shape [L, {width}]",
            hint="write the embeddings again",
        )
    latents, maps = info.latent_shape[0], len(info.region_maps) + bool(info.region_maps)
    if unet.config.in_channels != latents + maps or unet.config.out_channels != latents:
        shown = f", and {maps} maps in (its region_maps and one for an unknown place)" if maps else ""
        raise BundleError(
            where=str(info.root / "unet"),
            found=f"{unet.config.in_channels} channels in, {unet.config.out_channels} out",
            wanted=f"{latents}, the latent_shape in bundle.json{shown}",
            hint="correct bundle.json or the network",
        )
    own = unet.config.get(MAPS_KEY)
    if own is not None and tuple(own) != info.region_maps:
        raise BundleError(
            where=str(info.root / "unet"),
            found=f"maps of {', '.join(own)}",
            wanted=f"region_maps as in bundle.json: {', '.join(info.region_maps) or 'none'}",
            hint="write bundle.json again with the denoiser's own order",
        )


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BundleError(
            where=str(path), found=f"cannot be read: {error}", wanted="a safetensors file", hint="fetch it again"
        ) from error


def read_json(info: BundleInfo, name: str) -> dict[str, Any]:
    """A configuration of the bundle, its hash and its numbers checked; raises BundleError."""
    return bounded_config(info.read(name), str(info.root / name))


def _in_memory(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of what the file holds, numbers in `dtype`, counters as they are."""
    return value.to(dtype if value.is_floating_point() else value.dtype, copy=True)
