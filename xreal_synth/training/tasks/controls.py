"""What makes images follow organ masks. The Anatomy Controller: mask -> rough image, in the latents of a trained
first stage; the ControlNet baseline: the denoiser stays as it is, a copy of its encoder learns to follow masks.

Shapes: B batch, C latent channels, h and w latent sides, H and W image sides, L labels.
"""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn import functional

from xreal_synth.errors import TrainingError
from xreal_synth.models.networks.conditioning import NO_FINDING, no_maps
from xreal_synth.models.networks.controls import MaskController, build_controlnet, hint_side, organ_hint
from xreal_synth.models.networks.patch_autoencoder import PatchAutoencoder
from xreal_synth.training.first_stage import FirstStage, TrainedDenoiser
from xreal_synth.training.images import ImageBatch
from xreal_synth.training.settings import ControllerSettings, ControlNetSettings, DataSettings
from xreal_synth.training.tasks.base import TrainingTask, image_grid, mask_of
from xreal_synth.training.tasks.denoiser import ddim, noised


def build_controller(settings: ControllerSettings, autoencoder: PatchAutoencoder) -> MaskController:
    """A fresh controller whose decoder is the trained first stage, held fixed, and without its texture from noise: a
    rough image is a mean."""
    shape = autoencoder.config
    decoder = {key: shape[key] for key in ("patch_size", "latent_channels", "refiner_width", "refiner_blocks")}
    controller: MaskController = MaskController(**decoder, width=settings.width, blocks=settings.blocks)
    state = {key: value for key, value in autoencoder.state_dict().items() if "grain_inlet" not in key}
    controller.first_stage.load_state_dict(state)
    controller.first_stage.requires_grad_(False)
    return controller


class ControllerTask(TrainingTask):
    """Trains the mask encoder towards the mean latents of images with the same anatomy."""

    part = "anatomy_controller"
    settings: ControllerSettings
    network: MaskController

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

    def preview(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Three rows: masks, rough images, and the real images of these masks."""
        mask = mask_of(batch.label_map)
        return image_grid([mask, self.network(mask), batch.image])


class ControlNetTask(TrainingTask):
    """Trains the ControlNet alone, on the fixed encoder's latents of images and their organ masks."""

    part = "controlnet"

    def __init__(
        self, settings: ControlNetSettings, autoencoder: FirstStage, denoiser: TrainedDenoiser, data: DataSettings
    ) -> None:
        super().__init__(settings)
        self.autoencoder = autoencoder
        self.unet, self.tokens, self.schedule = denoiser.unet, denoiser.tokens, denoiser.schedule
        self.unet.set_attn_processor(AttnProcessor())
        if self.tokens.findings != data.findings:
            raise TrainingError(
                found=f"data.findings: {', '.join(data.findings)}",
                wanted=f"the denoiser's own, in its order: {', '.join(self.tokens.findings)}",
                hint="set data.findings to these",
            )
        channels = autoencoder.latent_channels
        if self.unet.config.out_channels != channels:
            raise TrainingError(
                found=f"a denoiser of {self.unet.config.out_channels} latent channels, an autoencoder of {channels}",
                wanted="the autoencoder that the denoiser was trained on",
                hint="give both of one training: model.autoencoder and model.denoiser",
            )
        self.latent_shape = (channels, *[data.image_size // autoencoder.factor] * 2)
        self.controlnet = build_controlnet(self.unet, settings.hint_channels)
        self.controlnet.set_attn_processor(AttnProcessor())
        self.hint_side = hint_side(self.controlnet.config, self.latent_shape[-1])
        self.network = self.module = self.controlnet

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the prediction.

        In evaluation also that of the denoiser alone (what is to be beaten), and that with each mask mirrored:
        as far as it lies above the loss, the mask is followed.
        """
        z = self.autoencoder.encode(batch.image).mean
        noisy, steps, target = noised(z, batch.draws, generator, self.schedule, self.settings)
        labelled = batch.draws.uniform(1, generator=generator) >= self.settings.null_share
        shown = batch.draws.uniform(1, 1, 1, generator=generator) >= self.settings.mask_dropout
        tokens = self.tokens(batch.labels & labelled.to(z.device))
        hint = organ_hint(batch.label_map, self.hint_side) * shown.to(z.device)
        asks: dict[str, Tensor | None] = {"loss": hint}
        if not self.controlnet.training:
            asks |= {"without_mask": None, "mirrored_mask": hint.flip(-1).contiguous()}
        return {
            name: (self._predict(noisy, steps, tokens, asked) - target).pow(2).mean() for name, asked in asks.items()
        }

    def preview(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Four rows: masks, images by the denoiser alone, images that follow the mask, and the real images."""
        noise = torch.randn((len(batch.image), *self.latent_shape), generator=generator).to(batch.image.device)
        free = self._sample(noise, None)
        steered = self._sample(noise, organ_hint(batch.label_map, self.hint_side))
        return image_grid([mask_of(batch.label_map), free, steered, batch.image])

    def _predict(self, z: Tensor, t: Tensor, tokens: Tensor, hint: Tensor | None = None) -> Tensor:
        """The denoiser's raw output, with the ControlNet's residuals if there is a hint.

        A denoiser that knows regions is shown none: the ControlNet learns the organs alone.
        """
        z, residuals = no_maps(z, self.unet), {}
        if hint is not None:
            down, middle = self.controlnet(z, t, tokens, hint, return_dict=False)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        out: Tensor = self.unet(z, t, tokens, **residuals).sample.float()
        return out

    def _sample(self, noise: Tensor, hint: Tensor | None) -> Tensor:
        """DDIM without finding and guidance -> images [B, 1, H, W]."""
        tokens = self.tokens.table()[NO_FINDING].to(noise.device).expand(len(noise), -1, -1)
        z = ddim(self.schedule, noise, lambda z, t: self._predict(z, t, tokens, hint))
        return self.autoencoder.decode(z)
