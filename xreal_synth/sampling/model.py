"""What the sampler needs of a model; anything with these members will do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor


class SamplerModel(Protocol):
    """Shapes: B batch, C latent channels, h, w latent sides, H, W film sides, L tokens, D their width."""

    @property
    def device(self) -> torch.device: ...

    @property
    def latent_shape(self) -> tuple[int, int, int]: ...

    @property
    def channels(self) -> int:
        """The films' channels inside the networks; all hold the same grey."""
        ...

    @property
    def value_range(self) -> tuple[float, float]:
        """The films' range inside the networks."""
        ...

    @property
    def scale_factor(self) -> float:
        """z = scale_factor * sample(E_G(x))."""
        ...

    @property
    def prediction_type(self) -> Literal["epsilon", "v_prediction"]: ...

    @property
    def alphas_cumprod(self) -> Tensor:
        """[T] of the training schedule."""
        ...

    @property
    def null_prompt(self) -> str:
        """Guidance's unconditional prompt."""
        ...

    @property
    def region_maps(self) -> tuple[str, ...]:
        """The findings whose regions the denoiser takes as maps [h, w]; one more map comes after them, for a
        finding of unknown place. Nothing for a denoiser that knows no regions."""
        ...

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
        ...

    def hint(self, codes_BHW: Tensor) -> Tensor:
        """Organ codes uint8 -> what `denoise` takes as hint; computed once for all steps."""
        ...

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Films in value_range -> mean and deviation of the unscaled latents."""
        ...

    @property
    def grain_shape(self) -> tuple[int, ...] | None:
        """The shape of a film's noise if the decoder takes any: the raw material of texture."""
        ...

    def decode(self, z_BChw: Tensor, grain: Tensor | None = None) -> Tensor:
        """Unscaled latents and noise [B, *grain_shape] -> films, not clamped."""
        ...

    def control(self, codes_BHW: Tensor) -> Tensor:
        """Organ codes uint8 -> rough films x_hat, clamped to value_range."""
        ...

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> [B, L, D]."""
        ...
