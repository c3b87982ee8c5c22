"""The paper's Anatomy Controller: the first stage's architecture, given organ masks and trained to return images.

Shapes: B batch, c image channels inside the network, H and W image sides.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from xreal_synth.training.images import ImageBatch
from xreal_synth.training.settings import KlControllerSettings
from xreal_synth.training.tasks.base import image_grid
from xreal_synth.training.tasks.controller import mask_of
from xreal_synth.training.tasks.kl_autoencoder import KlAutoencoderTask


class KlControllerTask(KlAutoencoderTask):
    """x_hat = D_v(E_v(m_a / 4)), trained on masks with probability `mask_share`, else on the images themselves."""

    def __init__(self, settings: KlControllerSettings, network: AutoencoderKL) -> None:
        super().__init__(settings, network)
        self.mask_share = settings.mask_share

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The first stage's losses; in evaluation every image is made from its mask."""
        masks = mask_of(batch.label_map)
        if self.module.training:
            masked = batch.uniform(1, 1, 1, generator=generator) < self.mask_share
            masks = torch.where(masked.to(masks.device), masks, batch.image)
        return self.losses(self._shown(masks), batch, generator)

    @torch.no_grad()
    def preview(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Three rows: masks, rough images, and the real images of these masks."""
        masks = mask_of(batch.label_map)
        return image_grid([masks, self.given_back(self._shown(masks)), batch.image])

    def save(self, folder: Path) -> None:
        """`anatomy_controller/`."""
        self.network.save_pretrained(folder / "anatomy_controller")
