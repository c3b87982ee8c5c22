"""The model as the sampler needs it; anything with these members will do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor


class SamplerModel(Protocol):
    """Shapes: B batch, C latent channels, h, w latent sides, H, W image sides, L tokens, D their width."""

    device: torch.device
    """Where the networks lie; latents and noise are brought there."""
    latent_shape: tuple[int, int, int]
    """(C, h, w) of one image's latents."""
    channels: int
    """The images' channels inside the networks; all hold the same grey."""
    value_range: tuple[float, float]
    """The images' range inside the networks."""
    scale_factor: float
    """z = scale_factor * sample(E_G(x))."""
    prediction_type: Literal["epsilon", "v_prediction"]
    """What the denoiser's raw output is."""
    alphas_cumprod: Tensor
    """[T] of the training schedule."""
    null_prompt: str
    """Guidance's unconditional prompt."""
    region_maps: tuple[str, ...]
    """The findings whose regions the denoiser takes as maps [h, w]; one more map comes after them, for a
    finding of unknown place. Nothing for a denoiser that knows no regions."""
    decoder_noise_shape: tuple[int, int, int] | None
    """The shape (1, H, W) of an image's noise if the decoder takes any: the raw material of texture."""

    def denoise(
        self,
        z_BChw: Tensor,
        t_B: Tensor,
        cond_BLD: Tensor,
        hint_BChw: Tensor | None = None,
        maps_BRhw: Tensor | None = None,
    ) -> Tensor:
        """The raw prediction eps or v [B, C, h, w]; with a hint, steered by the ControlNet. Without maps there is
        no finding anywhere."""

    def hint(self, label_map_BHW: Tensor) -> Tensor:
        """Organ codes uint8 -> what `denoise` takes as hint; computed once for all steps."""

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Images in value_range -> mean and deviation of the unscaled latents."""

    def decode(self, z_BChw: Tensor, decoder_noise: Tensor | None = None) -> Tensor:
        """Unscaled latents and noise [B, *decoder_noise_shape] -> images, not clamped."""

    def control(self, label_map_BHW: Tensor) -> Tensor:
        """Organ codes uint8 -> rough images x_hat, clamped to value_range."""

    def detail(self, noise_BChw: Tensor) -> Tensor:
        """Standard normal noise -> what real latents may have over those of the rough image x_hat [B, C, h, w]; raises
        BundleError if the bundle does not say."""

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> [B, L, D]."""
