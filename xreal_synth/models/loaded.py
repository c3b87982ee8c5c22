"""A bundle's networks in memory, behind the protocols of the sampler (sampling/model.py, sampling/upscale.py).

Shapes: B batch, C channels, H and W image sides, h and w latent sides, L prompt tokens, D token width, S the side of
a large image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from xreal_synth.errors import BundleError
from xreal_synth.models.describe import DETAIL, BundleInfo, no_controller
from xreal_synth.models.devices import Compile
from xreal_synth.models.fast_unet import FastUNet, suits
from xreal_synth.models.layers import DTYPES, Precision
from xreal_synth.models.networks.conditioning import with_maps
from xreal_synth.models.networks.controls import CODE_SCALE, hint_side, hint_table, organ_hint

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
        self._dtype = DTYPES[precision]
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


class Upscaler:
    """The network in `precision`, float32 in and out. `side` is that of the large images."""

    def __init__(
        self,
        network: nn.Module,
        alphas_cumprod: Tensor,
        side: int,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
    ) -> None:
        self.device = torch.device(device)
        self.side = side
        self.alphas_cumprod = alphas_cumprod.to(torch.float64)
        self._dtype = DTYPES[precision]
        self._network = placed(network, self.device, self._dtype)

    @torch.inference_mode()
    def denoise(self, noisy_B1SS: Tensor, small_B1SS: Tensor, t_B: Tensor) -> Tensor:
        """Noisy large image and the small one resized to its side, in -1..1 -> eps [B, 1, S, S]."""
        out: Tensor = self._network(noisy_B1SS.to(self._dtype), small_B1SS.to(self._dtype), t_B)
        return out.float()


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
