"""Bundles into memory: hashes checked, networks chosen by name from a fixed table, weights loaded strictly.

Shapes: B batch, C channels, H and W image sides, h and w latent sides, L prompt tokens, D token width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel, UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from xreal_synth.errors import BundleError
from xreal_synth.models.bundle_file import EMBEDDINGS, NULL_KEY, bounded_config
from xreal_synth.models.describe import CONTROLLER, CONTROLNET, UPSCALER, BundleInfo, no_controller, require_control
from xreal_synth.models.devices import Compile, open_device
from xreal_synth.models.fast_unet import FastUNet, suits
from xreal_synth.models.layers import Precision
from xreal_synth.models.networks.conditioning import MAPS_KEY, with_maps
from xreal_synth.models.networks.controls import CODE_SCALE, MaskController, hint_side, hint_table, misfit, organ_hint
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
DETAIL: Final = f"{CONTROLLER}/detail.safetensors"

AT_ONCE_BYTES: Final = 2**31
LIVE: Final = 4
"""Tensors as large as the largest that a first stage holds at a time, about."""

PredictionType = Literal["epsilon", "v_prediction"]


class LoadedBundle:
    """A bundle's networks behind the sampler's protocol (sampling/model.py); float32 in and out.

    Only the denoiser and its ControlNet run in `precision`: bfloat16's 8 bits are too coarse for the grey
    levels of an image, so the first stage and the controller stay float32. `tuned` lays the denoiser out for
    sampling where it can be (fast_unet.py), which changes no more than roundings.
    """

    def __init__(
        self,
        info: BundleInfo,
        *,
        vae: nn.Module,
        controller: nn.Module | None,
        unet: nn.Module,
        embeddings: Mapping[str, Tensor],
        alphas_cumprod: Tensor,
        prediction_type: PredictionType,
        controlnet: Any = None,
        detail: Mapping[str, Tensor] | None = None,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        tuned: bool = True,
    ) -> None:
        self.device = torch.device(device)
        self.image_size = info.image_size
        self.latent_shape = info.latent_shape
        self.channels = info.channels
        self.value_range = info.value_range
        self.scale_factor = info.scale_factor
        self.null_prompt = info.null_prompt
        self.region_maps = info.region_maps
        self.prediction_type: PredictionType = prediction_type
        self.alphas_cumprod = alphas_cumprod.to(torch.float64)
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        takes_decoder_noise = bool(getattr(vae.config, "grain", False))
        self.decoder_noise_shape = (1, info.image_size, info.image_size) if takes_decoder_noise else None
        self._vae = first_stage(vae, self.device)
        self._controller = None if controller is None else first_stage(controller, self.device)
        config: Any = vae.config
        self._at_once = rows_at_once(config, info.image_size)
        self._unet = placed(unet, self.device, self._dtype)
        if tuned and suits(self._unet, info.latent_shape[1:]):
            self._unet = FastUNet(self._unet)
        self._detail = None if detail is None else {key: part.to(self.device) for key, part in detail.items()}
        self._controlnet: Any = None
        self._hint_embedding: Any = None
        if controlnet is not None:
            self._controlnet = placed(controlnet, self.device, self._dtype)
            self._hint_embedding = self._controlnet.controlnet_cond_embedding
            self._controlnet.controlnet_cond_embedding = nn.Identity()
        self._embeddings = {prompt: e_LD.to(self.device, self._dtype) for prompt, e_LD in embeddings.items()}

    @torch.inference_mode()
    def denoise(
        self,
        z_BChw: Tensor,
        t_B: Tensor,
        cond_BLD: Tensor,
        hint_BChw: Tensor | None = None,
        maps_BRhw: Tensor | None = None,
    ) -> Tensor:
        """Noisy latents, timesteps in 0..999, prompt tokens -> the raw prediction [B, C, h, w].

        With `hint` of these rows' organ masks the ControlNet steers the prediction. `maps` [B, R + 1, h, w] in 0..1
        are for a denoiser that knows R findings' regions; left out, they are zero.
        """
        if self.region_maps and maps_BRhw is None:
            maps_BRhw = z_BChw.new_zeros(len(z_BChw), len(self.region_maps) + 1, *z_BChw.shape[2:])
        z, cond = with_maps(z_BChw, maps_BRhw).to(self._dtype), cond_BLD.to(self._dtype)
        residuals: dict[str, Any] = {}
        if hint_BChw is not None:
            assert self._controlnet is not None, "a hint comes from this model's ControlNet"
            down, middle = self._controlnet(z, t_B, cond, hint_BChw, return_dict=False)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        out: Tensor = self._unet(z, t_B, encoder_hidden_states=cond, return_dict=False, **residuals)[0]
        return out.to(torch.float32, memory_format=torch.contiguous_format)

    @property
    def suited(self) -> bool:
        """Whether the denoiser is one that can be compiled."""
        return isinstance(self._unet, FastUNet)

    def compile(self, how: Compile) -> None:
        """Compiles the denoiser's repeated blocks, or has all of it recorded as CUDA graphs."""
        assert how == "none" or self.suited, "only the fast denoiser is compiled"
        if self.suited:
            self._unet.compile_for(how)

    def release(self) -> None:
        """Forgets recordings of the denoiser, whose memory is free then."""
        if self.suited:
            self._unet.release()

    @torch.inference_mode()
    def hint(self, label_map_BHW: Tensor) -> Tensor:
        """Organ codes uint8 [B, H, W] -> their embedding by the ControlNet [B, c, h, w], for all steps."""
        assert self._hint_embedding is not None, "load_bundle(..., control='controlnet') loads a ControlNet"
        side = hint_side(self._controlnet.config, self.latent_shape[-1])
        table = hint_table(self._controlnet.config)
        assert table is not None, "load_bundle refuses a ControlNet whose hint is unknown"
        hint = organ_hint(label_map_BHW.to(self.device), side, table)
        embedded: Tensor = self._hint_embedding(hint.to(self._dtype))
        return embedded

    @torch.inference_mode()
    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Images in value_range -> mean and standard deviation of the latents [B, C, h, w], unscaled."""
        parts = [moments(self._vae.encode(part)) for (part,) in in_parts(self._at_once, x_BCHW)]
        return joined([mean for mean, _ in parts]), joined([std for _, std in parts])

    @torch.inference_mode()
    def decode(self, z_BChw: Tensor, decoder_noise: Tensor | None = None) -> Tensor:
        """Unscaled latents and noise [B, *decoder_noise_shape] -> images [B, channels, H, W], not clamped."""
        given = (z_BChw,) if decoder_noise is None else (z_BChw, decoder_noise)
        return joined([image_of(self._vae.decode(*part)) for part in in_parts(self._at_once, *given)])

    @torch.inference_mode()
    def control(self, label_map_BHW: Tensor) -> Tensor:
        """Organ codes uint8 [B, H, W] -> rough images x_hat [B, channels, H, W], clamped to value_range.

        Raises BundleError if the bundle has no Anatomy Controller.
        """
        if self._controller is None:
            raise no_controller("this bundle")
        mask = label_map_BHW.to(self.device, torch.float32) / CODE_SCALE
        masks = mask[:, None].expand(-1, self.channels, -1, -1).contiguous()
        rough = [
            image_of(self._controller.decode(moments(self._controller.encode(part))[0]))
            for (part,) in in_parts(self._at_once, masks)
        ]
        return joined(rough).clamp(*self.value_range)

    def detail(self, noise_BChw: Tensor) -> Tensor:
        """Standard normal noise -> latents' texture [B, C, h, w] that real images have over rough ones, of the spatial
        frequencies and in the places that training/fit_detail.py measured. Raises BundleError if this was not."""
        if self._detail is None:
            raise BundleError(
                found=f"sampling.detail, but no {DETAIL}",
                wanted="a bundle whose detail was measured",
                hint="set sampling.detail to 0 or leave it out, or export the bundle again with --data",
            )
        coloured: Tensor = torch.fft.ifft2(torch.fft.fft2(noise_BChw) * self._detail["amplitude"]).real
        return coloured * self._detail["where"]

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> tokens [B, L, D]; raises BundleError for a prompt without an embedding."""
        for prompt in prompts:
            if prompt not in self._embeddings:
                raise BundleError(
                    found=f"no embedding for the prompt {prompt!r}",
                    wanted=f"one of {', '.join(map(repr, self._embeddings))}",
                    hint="ask for findings that the bundle knows, or add the prompt to a bundle of your own: "
                    "xreal-synth bundle add-prompt BUNDLE TEXT",
                )
        return torch.stack([self._embeddings[prompt] for prompt in prompts])


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
    unet = load_network(info, "unet", torch.bfloat16 if precision == "bf16" else torch.float32)
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
    _check_maps(info, unet)
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


def _check_maps(info: BundleInfo, unet: Any) -> None:
    """The denoiser's own list of maps, where it keeps one, is bundle.json's."""
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


def placed(network: nn.Module, device: torch.device, dtype: torch.dtype) -> Any:
    """Ready for inference; torch's own `to`, since diffusers' warns of dtypes without need."""
    return nn.Module.to(network, device, dtype).eval().requires_grad_(False)


def first_stage(network: nn.Module, device: torch.device) -> Any:
    """A first stage or controller ready for inference: float32, channels last on a GPU (FIRST_STAGE of devices.py)."""
    ready = placed(network, device, torch.float32)
    return ready.to(memory_format=torch.channels_last) if device.type == "cuda" else ready


def rows_at_once(config: Mapping[str, Any], side: int) -> int:
    """The images that a first stage of this configuration makes at once within AT_ONCE_BYTES.

    Fixed by the bundle, whatever memory is free: how many are made together changes bytes.
    """
    widths = config.get("block_out_channels") or [config.get("refiner_width", 64)]
    return max(1, int(AT_ONCE_BYTES // (LIVE * max(widths[:2]) * side * side * 4)))


def in_parts(most: int, *rows: Tensor) -> list[tuple[Tensor, ...]]:
    """The rows in equal parts of `most` at the most, equal so that a row's bytes do not depend on its place."""
    count = len(rows[0])
    size = max(one for one in range(1, min(most, count) + 1) if count % one == 0)
    return list(zip(*(torch.split(each, size) for each in rows), strict=True))


def joined(parts: list[Tensor]) -> Tensor:
    """What the parts gave, in one; of one part the tensor itself, laid out as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def moments(encoded: Any) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a posterior, or of diffusers' output that wraps one."""
    posterior = getattr(encoded, "latent_dist", encoded)
    return posterior.mean, posterior.std


def image_of(decoded: Any) -> Tensor:
    """An image, or that in diffusers' output that wraps one."""
    image: Tensor = getattr(decoded, "sample", decoded)
    return image
