"""The Anatomy Controller: organ mask -> rough image, in the latents of a trained first stage.

Shapes: B batch, C latent channels, h and w latent sides, H and W image sides.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from xreal_synth.models.networks.mask_controller import CODE_SCALE, MaskController
from xreal_synth.models.networks.patch_autoencoder import PatchAutoencoder
from xreal_synth.training.images import ImageBatch
from xreal_synth.training.settings import ControllerSettings
from xreal_synth.training.tasks.base import TrainingTask, image_grid


def build_controller(settings: ControllerSettings, autoencoder: PatchAutoencoder) -> MaskController:
    """A fresh controller whose decoder is the trained first stage, held fixed."""
    shape = autoencoder.config
    controller: MaskController = MaskController(
        patch_size=shape.patch_size,
        latent_channels=shape.latent_channels,
        refiner_width=shape.refiner_width,
        refiner_blocks=shape.refiner_blocks,
        width=settings.width,
        blocks=settings.blocks,
    )
    controller.first_stage.load_state_dict(autoencoder.state_dict())
    controller.first_stage.requires_grad_(False)
    return controller


class ControllerTask(TrainingTask):
    """Trains the mask encoder towards the mean latents of images with the same anatomy."""

    part = "anatomy_controller"

    def __init__(self, settings: ControllerSettings, network: MaskController) -> None:
        self.settings = settings
        self.network = network
        self.module = network

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of latents plus the mean absolute error of the linearly decoded image."""
        first_stage = self.network.first_stage
        wanted = first_stage.encode(batch.image).mean
        found = self.network.encode(mask_of(batch.label_map)).mean.float()
        image = first_stage.decode_linear(found)
        latent = functional.mse_loss(found, wanted)
        pixel = functional.l1_loss(image, batch.image)
        return {
            "loss": latent + self.settings.pixel_weight * pixel,
            "latent_mse": latent.detach(),
            "mae_grey_levels": pixel.detach() * 255,
        }

    @torch.no_grad()
    def preview(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Three rows: masks, rough images, and the real images of these masks."""
        mask = mask_of(batch.label_map)
        return image_grid([mask, self.network(mask), batch.image])


def mask_of(label_map_BHW: Tensor) -> Tensor:
    """Organ codes [B, H, W] -> the controller's input [B, 1, H, W], codes divided by 4."""
    return label_map_BHW[:, None].float() / CODE_SCALE
