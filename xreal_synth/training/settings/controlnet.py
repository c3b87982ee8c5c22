"""The ControlNet's config."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from xreal_synth.training.settings.common import STRICT, Count, DataSettings, LoopSettings, Positive, Share


@dataclass(frozen=True, slots=True, config=STRICT)
class ControlNetSettings:
    """ControlNetModel on a trained denoiser, which stays as it is.

    `autoencoder` is the folder of its first stage, `denoiser` the folder of the denoiser (unet/, tokens/,
    scheduler/). `hint_channels` are the widths of the hint's embedding; the mask is shown to it at
    2 ** (their number - 1) times the latents' side. A share of `mask_dropout` of the images loses its mask, a
    share of `null_share` its labels. Noise levels are drawn as the denoiser's are.
    """

    autoencoder: str = ""
    denoiser: str = ""
    hint_channels: Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)] = (16, 32, 96, 256)
    mask_dropout: Share = 0.05
    null_share: Share = 0.1
    log_snr_mean: float = -1.0
    log_snr_std: Positive = 2.0
    uniform_share: Share = 0.3


@dataclass(frozen=True, slots=True, config=STRICT)
class ControlNetConfig:
    """Every setting of a run: the ControlNet of a trained denoiser."""

    network: Literal["controlnet"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = DataSettings()
    model: ControlNetSettings = ControlNetSettings()
