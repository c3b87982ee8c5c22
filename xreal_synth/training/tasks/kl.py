"""The paper's first stage, an AutoencoderKL with L1, gradient, perceptual and small KL losses, and a patch critic; and
its Anatomy Controller, the same architecture given organ masks and trained to return images.

Shapes: B batch, c image channels inside the network, C latent channels, h and w latent sides, H and W image sides.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from xreal_synth.training.first_stage import reading
from xreal_synth.training.images import ImageBatch
from xreal_synth.training.losses import gradient_loss
from xreal_synth.training.settings import KlControllerSettings, KlSettings
from xreal_synth.training.tasks.base import FirstStageTask, image_grid
from xreal_synth.training.tasks.controller import mask_of

GREY_LEVELS = 255


def build_kl(settings: KlSettings, image_size: int) -> AutoencoderKL:
    """A fresh network in the layout of the published checkpoints: attention in the middle block alone."""
    levels = len(settings.channels)
    network: AutoencoderKL = AutoencoderKL(
        in_channels=settings.image_channels,
        out_channels=settings.image_channels,
        latent_channels=settings.latent_channels,
        block_out_channels=settings.channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=settings.blocks,
        norm_num_groups=settings.groups,
        scaling_factor=settings.scale_factor,
        sample_size=image_size,
    )
    return network


def started_kl(settings: KlSettings, image_size: int) -> AutoencoderKL:
    """A network to train: a fresh one, or with the weights of `settings.init`; raises TrainingError."""
    network = build_kl(settings, image_size)
    if not settings.init:
        return network
    with reading(
        "model.init", settings.init, "the folder of an AutoencoderKL of this config's sizes",
        "give the path of a run's network/vae, or the sizes that it was trained with",
    ) as folder:  # fmt: skip
        former: AutoencoderKL = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False)
        network.load_state_dict(former.state_dict())
    return network


class KlAutoencoderTask(FirstStageTask):
    """Trains encoder and decoder to give images back through a Gaussian bottleneck."""

    settings: KlSettings

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Absolute, gradient and perceptual error, the KL divergence to a standard normal, the critic's losses."""
        return self.losses(self._shown(batch.image), batch, generator)

    def losses(self, given_BcHW: Tensor, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of the image that comes out against the batch's, for `given` going in.

        Sampled latents in training, mean latents in evaluation. The KL divergence is summed over an image's latents
        and divided by the number of the image's values, so that `kl_weight` means what it does where both losses
        are sums.
        """
        settings, wanted = self.settings, batch.image
        posterior = self.network.encode(given_BcHW).latent_dist
        mean, std, logvar = posterior.mean.float(), posterior.std.float(), posterior.logvar.float()
        z = mean
        if self.module.training:
            z = mean + std * batch.draws.normal(*mean.shape[1:], generator=generator).to(mean.device)
        found = self.network.decode(z).sample.float().mean(dim=1, keepdim=True)
        mae = (found - wanted).abs().mean()
        divergence = 0.5 * (mean.pow(2) + std.pow(2) - 1 - logvar).sum() / given_BcHW.numel()
        total = (
            mae + settings.gradient_weight * gradient_loss(found, wanted) + settings.kl_weight * divergence
        )
        figures = {
            "mae_grey_levels": mae.detach() * GREY_LEVELS,
            "kl": divergence.detach(),
            "latent_std": mean.detach().std(),
        }
        total, more = self.judged(total, found, wanted, self.network.decoder.conv_out.weight)
        return {"loss": total, **figures, **more}

    @torch.no_grad()
    def preview(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Three rows: images, images given back, and ten times the error."""
        found = self.given_back(self._shown(batch.image))
        return image_grid([batch.image, found, (found - batch.image) * 10 + 0.5])

    def given_back(self, given_BcHW: Tensor) -> Tensor:
        """What the network makes of an input through its mean latents -> images [B, 1, H, W]."""
        mean = self.network.encode(given_BcHW).latent_dist.mean
        image: Tensor = self.network.decode(mean).sample.float().mean(dim=1, keepdim=True)
        return image

    def _shown(self, image_B1HW: Tensor) -> Tensor:
        return image_B1HW.expand(-1, self.settings.image_channels, -1, -1)


class KlControllerTask(KlAutoencoderTask):
    """x_hat = D_v(E_v(m_a / 4)), trained on masks with probability `mask_share`, else on the images themselves."""

    part = "anatomy_controller"
    settings: KlControllerSettings

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The first stage's losses; in evaluation every image is made from its mask."""
        masks = mask_of(batch.label_map)
        if self.module.training:
            masked = batch.draws.uniform(1, 1, 1, generator=generator) < self.settings.mask_share
            masks = torch.where(masked.to(masks.device), masks, batch.image)
        return self.losses(self._shown(masks), batch, generator)

    @torch.no_grad()
    def preview(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Three rows: masks, rough images, and the real images of these masks."""
        masks = mask_of(batch.label_map)
        return image_grid([masks, self.given_back(self._shown(masks)), batch.image])
