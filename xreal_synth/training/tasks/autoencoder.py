"""The first stage: the patch transform is fitted once, its residual decoder is trained.

Shapes: B batch, C latent channels, H and W film sides.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from xreal_synth.models.networks.patch_autoencoder import PatchAutoencoder
from xreal_synth.training.films import FilmBatch, FilmSet
from xreal_synth.training.losses import gradient_loss, texture_loss
from xreal_synth.training.settings.autoencoder import AutoencoderSettings
from xreal_synth.training.tasks.base import Task, film_grid


def fitted_autoencoder(settings: AutoencoderSettings, films: FilmSet) -> PatchAutoencoder:
    """A network whose patch transform is fitted on all unwarped training films."""
    network: PatchAutoencoder = PatchAutoencoder(
        settings.patch_size, settings.latent_channels, settings.refiner_width, settings.refiner_blocks
    )
    network.fit_patches(films.take(torch.arange(len(films))).film, settings.whiten)
    return network


class AutoencoderTask(Task):
    """Trains the residual decoder to undo patch borders, also on latents with a little noise."""

    def __init__(self, settings: AutoencoderSettings, network: PatchAutoencoder) -> None:
        self.settings = settings
        self.network = network
        self.module = network

    def loss(self, batch: FilmBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean absolute error plus multi-scale gradient error; half of the films get noisy latents."""
        z = self.network.encode(batch.film).mean
        level = torch.rand(len(z), 1, 1, 1, generator=generator) * 2 - 1
        noise = torch.randn(z.shape, generator=generator) * level.clamp_min(0) * self.settings.latent_noise
        found = self.network.decode(z + noise.to(z.device)).float()
        mae = (found - batch.film).abs().mean()
        edges = gradient_loss(found, batch.film)
        texture = texture_loss(found, batch.film)
        total = mae + self.settings.gradient_weight * edges + self.settings.texture_weight * texture
        return {"loss": total, "mae_grey_levels": mae.detach() * 255, "texture": texture.detach()}

    @torch.no_grad()
    def preview(self, batch: FilmBatch, generator: torch.Generator) -> Tensor:
        """Four rows: films, linear decoding, refined decoding, and ten times the refined error."""
        z = self.network.encode(batch.film).mean
        refined = self.network.decode(z)
        return film_grid(
            [batch.film, self.network.decode_linear(z), refined, (refined - batch.film) * 10 + 0.5]
        )

    def save(self, folder: Path) -> None:
        """`vae/`."""
        self.network.save_pretrained(folder / "vae")
