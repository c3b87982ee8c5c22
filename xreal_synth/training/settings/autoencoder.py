"""The first stage's config."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from xreal_synth.training.settings.common import STRICT, Count, DataSettings, LoopSettings, NotNegative, Share


@dataclass(frozen=True, slots=True, config=STRICT)
class AutoencoderSettings:
    """PatchAutoencoder and its losses: absolute error + gradient_weight * edges + texture_weight * texture.

    Half of the films are decoded from latents with Gaussian noise of up to `latent_noise`. `init` is the
    folder of an autoencoder to go on from: its patch transform is kept, so its denoisers stay valid.
    """

    init: str = ""
    patch_size: Count = 8
    latent_channels: Count = 8
    refiner_width: Count = 64
    refiner_blocks: Count = 5
    whiten: Share = 0.75
    latent_noise: NotNegative = 0.1
    gradient_weight: NotNegative = 1.0
    texture_weight: NotNegative = 0.02


@dataclass(frozen=True, slots=True, config=STRICT)
class AutoencoderConfig:
    network: Literal["autoencoder"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = DataSettings()
    model: AutoencoderSettings = AutoencoderSettings()
