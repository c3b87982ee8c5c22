"""The first stage's config."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from xreal_synth.training.settings.common import STRICT, Count, DataSettings, LoopSettings, NotNegative, Share


@dataclass(frozen=True, slots=True, config=STRICT)
class AutoencoderSettings:
    """PatchAutoencoder and its losses: absolute error + gradient_weight * edges + texture_weight * texture
    + band_weight * power in rings of frequency + perceptual_weight * features' distance
    + adversarial_weight * patch critic.

    Half of the images are decoded from latents with Gaussian noise of up to `latent_noise`. `init` is the
    folder of an autoencoder to go on from: its patch transform is kept, so its denoisers stay valid; its
    decoder is kept where the sizes agree. With `grain` the decoder
    is given noise as a further input. `perceptual` is the folder of a trained segmenter. The critic learns
    from the start and counts, more and more, from step `adversarial_after` on. With the folder of a trained
    `denoiser`, a share of `denoised_share` of the latents is noised to a step below `denoised_below` and
    denoised again, so that the decoder learns to give detail back to latents as a sampler leaves them.
    """

    kind: Literal["patch"] = "patch"
    init: str = ""
    patch_size: Count = 8
    latent_channels: Count = 8
    refiner_width: Count = 64
    refiner_blocks: Count = 5
    whiten: Share = 0.75
    latent_noise: NotNegative = 0.1
    gradient_weight: NotNegative = 1.0
    texture_weight: NotNegative = 0.02
    band_weight: NotNegative = 0.0
    grain: bool = False
    perceptual: str = ""
    perceptual_weight: NotNegative = 0.1
    adversarial_weight: NotNegative = 0.0
    adversarial_after: Annotated[int, Field(ge=0)] = 0
    critic_width: Count = 32
    denoiser: str = ""
    denoised_share: Share = 0.5
    denoised_below: Annotated[int, Field(ge=4, le=1000)] = 200


@dataclass(frozen=True, slots=True, config=STRICT)
class AutoencoderConfig:
    """Every setting of a run: the patch autoencoder, or its decoder alone."""

    network: Literal["autoencoder"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = DataSettings()
    model: AutoencoderSettings = AutoencoderSettings()
