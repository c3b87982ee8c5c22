"""Configs of the paper's own first stage and Anatomy Controller: diffusers' AutoencoderKL."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from xreal_synth.training.settings.common import (
    STRICT,
    Count,
    DataSettings,
    LoopSettings,
    NotNegative,
    Positive,
    Share,
)

Levels = Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)]


@dataclass(frozen=True, slots=True, config=STRICT)
class KlSettings:
    """AutoencoderKL and its losses; the defaults are the paper's sizes (55 M weights, f = 4).

    `channels` are the widths of the levels, each but the last halves the side; `blocks` residual blocks a level
    (one more in the decoder); `groups` of the group norms. Images are repeated to `image_channels`. `kl_weight` is
    the usual one, of losses summed over an image's values. `scale_factor` is written into the network's config:
    the denoiser sees latents times this number, which should give them unit deviation (the metric `latent_std`
    is the deviation without it). `perceptual` is the folder of a trained segmenter. The critic learns from the
    start and counts from step `adversarial_after` on. `init` is the folder of an AutoencoderKL of the same sizes
    to go on from.
    """

    kind: Literal["kl"] = "kl"
    init: str = ""
    image_channels: Literal[1, 3] = 3
    latent_channels: Count = 3
    channels: Levels = (128, 256, 512)
    blocks: Count = 2
    groups: Count = 32
    scale_factor: Positive = 0.18215
    kl_weight: NotNegative = 1e-6
    gradient_weight: NotNegative = 1.0
    perceptual: str = ""
    perceptual_weight: NotNegative = 0.1
    adversarial_weight: NotNegative = 0.0
    adversarial_after: Annotated[int, Field(ge=0)] = 0
    critic_width: Count = 64


@dataclass(frozen=True, slots=True, config=STRICT)
class KlControllerSettings(KlSettings):
    """The same network as Anatomy Controller: organ mask -> image with probability `mask_share`, else image -> image.

    The paper trains on masks alone (1.0), the authors' released code on half of each (0.5); an image as input keeps
    the decoder able to draw what masks do not say.
    """

    mask_share: Share = 0.5


@dataclass(frozen=True, slots=True, config=STRICT)
class KlAutoencoderConfig:
    """Every setting of a run: the paper's first stage."""

    network: Literal["autoencoder"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = DataSettings()
    model: KlSettings = KlSettings()


@dataclass(frozen=True, slots=True, config=STRICT)
class KlControllerConfig:
    """Every setting of a run: the paper's Anatomy Controller."""

    network: Literal["anatomy-controller"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = DataSettings()
    model: KlControllerSettings = KlControllerSettings()
