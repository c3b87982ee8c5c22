"""First stages. The patch transform is fitted once, its residual decoder is trained, also on latents as a sampler
leaves them: a real image's, noised a little and denoised again. And the paper's, an AutoencoderKL with L1,
gradient, perceptual and small KL losses, and a patch critic; its Anatomy Controller has the same architecture, is
given organ masks and trained to return images.

Shapes: B batch, c image channels inside the network, C latent channels, h and w latent sides, H and W image sides, L
labels.
"""

from __future__ import annotations

import math

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from xreal_synth.models.networks.conditioning import no_maps
from xreal_synth.models.networks.patch_autoencoder import PatchAutoencoder
from xreal_synth.training import losses
from xreal_synth.training.first_stage import TrainedDenoiser, read_denoiser, reading
from xreal_synth.training.images import ImageBatch, TrainingImages
from xreal_synth.training.settings import AutoencoderSettings, FirstStageSettings, KlControllerSettings, KlSettings
from xreal_synth.training.tasks.base import TrainingTask, image_grid, mask_of

DDIM_STEPS = 2


class Redenoiser(nn.Module):
    """Latents [B, C, h, w] -> the same, noised to a step below `below` and denoised in two DDIM steps."""

    def __init__(self, denoiser: TrainedDenoiser, below: int) -> None:
        super().__init__()
        self.unet, self.tokens, self.schedule = denoiser.unet, denoiser.tokens, denoiser.schedule
        self.below = below

    def draw_top(self, generator: torch.Generator) -> int:
        """A step to noise latents to."""
        return int(torch.randint(2 * DDIM_STEPS, self.below, (), generator=generator))

    @torch.no_grad()
    def forward(self, z: Tensor, labels_BL: Tensor, noise: Tensor, top: int) -> Tensor:
        """Latents and noise [B, C, h, w], labels [B, L] -> latents noised to step `top` and led back by DDIM."""
        alphas = self.schedule.alphas_cumprod.double()
        tokens = self.tokens(labels_BL)
        x, eps = z, noise
        for n in range(DDIM_STEPS):
            t = top * (DDIM_STEPS - n) // DDIM_STEPS
            a, s = math.sqrt(float(alphas[t])), math.sqrt(1 - float(alphas[t]))
            x = a * x + s * eps
            out = self.unet(no_maps(x, self.unet), t, tokens).sample.float()
            if self.schedule.config.prediction_type == "v_prediction":
                x, eps = a * x - s * out, s * x + a * out
            else:
                x, eps = (x - s * out) / a, out
        return x


def fitted_autoencoder(settings: AutoencoderSettings, images: TrainingImages) -> PatchAutoencoder:
    """A network whose patch transform is fitted on all unwarped training images."""
    network = fresh_autoencoder(settings)
    network.fit_patches(images.take(torch.arange(len(images))).image, settings.whiten)
    return network


def fresh_autoencoder(settings: AutoencoderSettings) -> PatchAutoencoder:
    """An untrained network of the config's sizes."""
    network: PatchAutoencoder = PatchAutoencoder(
        settings.patch_size, settings.latent_channels, settings.refiner_width, settings.refiner_blocks, settings.grain
    )
    return network


def continued_autoencoder(settings: AutoencoderSettings, former: PatchAutoencoder) -> PatchAutoencoder:
    """The former network where the config has its sizes, else a fresh decoder on its patch transform.

    An inlet for grain may be new; it starts silent.
    """
    network = fresh_autoencoder(settings)
    state = former.state_dict()
    shapes = {k: v.shape for k, v in network.state_dict().items() if "grain_inlet" not in k or k in state}
    if {k: v.shape for k, v in state.items()} == shapes:
        network.load_state_dict(state, strict=False)
    else:
        network.copy_patches(former)
    return network


class FirstStageTask(TrainingTask):
    """A first stage of either kind: beside its own loss, a distance in a segmenter's features and a patch critic."""

    part = "vae"
    settings: FirstStageSettings

    def __init__(self, settings: FirstStageSettings, network: nn.Module) -> None:
        super().__init__(settings, network)
        self.critic = losses.PatchCritic(settings.critic_width) if settings.adversarial_weight > 0 else None
        self.perceptual = losses.load_perceptual(settings.perceptual) if settings.perceptual else None
        self.module = nn.ModuleDict({"network": network})
        if self.critic is not None:
            self.module["critic"] = self.critic

    def judged(
        self, total: Tensor, found_B1HW: Tensor, wanted_B1HW: Tensor, last_layer: nn.Parameter
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss with what features and critic add to it, and figures of these.

        The critic learns from the start. The decoder hears it from step `adversarial_after` on, over RAMP_STEPS up to
        `adversarial_weight` times as strongly as the loss without the critic.
        """
        settings, figures = self.settings, dict[str, Tensor]()
        if self.perceptual is not None:
            distance = self.perceptual(found_B1HW, wanted_B1HW)
            total = total + settings.perceptual_weight * distance
            figures["perceptual"] = distance.detach()
        if self.critic is None:
            return total, figures
        learned = losses.critic_loss(self.critic, found_B1HW, wanted_B1HW)
        figures["critic"] = learned.detach()
        late = self.step - settings.adversarial_after
        if late < 0:
            return total + learned, figures
        fooling = losses.fooling_loss(self.critic, found_B1HW)
        most = min(1.0, (late + 1) / losses.RAMP_STEPS) * settings.adversarial_weight
        factor = most * losses.balance(total, fooling, last_layer)
        return total + (learned + factor * fooling), {**figures, "fooling": fooling.detach(), "fooling_weight": factor}


class AutoencoderTask(FirstStageTask):
    """Trains the residual decoder to undo patch borders and to give back the detail that latents lack."""

    settings: AutoencoderSettings
    network: PatchAutoencoder

    def __init__(self, settings: AutoencoderSettings, network: PatchAutoencoder) -> None:
        super().__init__(settings, network)
        self.redenoiser: Redenoiser | None = None
        if settings.denoiser:
            denoiser = read_denoiser(settings.denoiser, ", or leave it out")
            self.redenoiser = Redenoiser(denoiser, settings.denoised_below)

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Absolute, gradient, texture and perceptual error; then the critic's two losses."""
        z = self._latents(batch, generator)
        found, wanted = self.network.decode(z, self._grain(batch, generator)).float(), batch.image
        mae = (found - wanted).abs().mean()
        texture = losses.texture_loss(found, wanted)
        total = mae + self.settings.gradient_weight * losses.gradient_loss(found, wanted)
        total = total + self.settings.texture_weight * texture
        scalars = {"mae_grey_levels": mae.detach() * 255, "texture": texture.detach()}
        if self.settings.band_weight > 0:
            bands = losses.band_loss(found, wanted)
            total = total + self.settings.band_weight * bands
            scalars["bands"] = bands.detach()
        total, figures = self.judged(total, found, wanted, self.network.last_layer)
        return {"loss": total, **scalars, **figures}

    def preview(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Four rows: images, linear decoding, refined decoding, and of latents as a sampler leaves them
        (without a denoiser: ten times the refined error)."""
        z = self.network.encode(batch.image).mean
        grain = self._grain(batch, generator)
        refined = self.network.decode(z, grain)
        last = (refined - batch.image) * 10 + 0.5
        if self.redenoiser is not None:
            noise = batch.draws.normal(*z.shape[1:], generator=generator).to(z.device)
            again = self.redenoiser(z, batch.labels, noise, self.redenoiser.draw_top(generator))
            last = self.network.decode(again, grain)
        return image_grid([batch.image, self.network.decode_linear(z), refined, last])

    def _grain(self, batch: ImageBatch, generator: torch.Generator) -> Tensor | None:
        if not self.settings.grain:
            return None
        return batch.draws.normal(*batch.image.shape[1:], generator=generator).to(batch.image.device)

    def _latents(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Latents [B, C, h, w] of the images, some of them noised a little, some noised and denoised."""
        z = self.network.encode(batch.image).mean
        level = batch.draws.uniform(1, 1, 1, generator=generator) * 2 - 1
        noise = batch.draws.normal(*z.shape[1:], generator=generator) * level.clamp_min(0) * self.settings.latent_noise
        noisy = z + noise.to(z.device)
        if self.redenoiser is None:
            return noisy
        again = batch.draws.uniform(generator=generator) < self.settings.denoised_share
        fresh = batch.draws.normal(*z.shape[1:], generator=generator).to(z.device)
        top = self.redenoiser.draw_top(generator)
        if again.any():
            noisy[again] = self.redenoiser(z[again], batch.labels[again], fresh[again], top)
        return noisy


def build_kl(settings: KlSettings, image_size: int) -> AutoencoderKL:
    """A fresh network in the layout of the published checkpoints: attention in the middle block alone."""
    levels = len(settings.channels)
    network: AutoencoderKL = AutoencoderKL(
        in_channels=settings.image_channels, out_channels=settings.image_channels,
        latent_channels=settings.latent_channels, block_out_channels=settings.channels,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=settings.blocks, norm_num_groups=settings.groups,
        scaling_factor=settings.scale_factor, sample_size=image_size,
    )  # fmt: skip
    return network


def started_kl(settings: KlSettings, image_size: int) -> AutoencoderKL:
    """A network to train: a fresh one, or with the weights of `settings.init`; raises TrainingError."""
    network = build_kl(settings, image_size)
    if not settings.init:
        return network
    hint = "give the path of a run's network/vae, or the sizes that it was trained with"
    with reading(f"model.init: {settings.init!r}", "the folder of an AutoencoderKL of this config's sizes", hint):
        former: AutoencoderKL = AutoencoderKL.from_pretrained(settings.init, low_cpu_mem_usage=False)
        network.load_state_dict(former.state_dict())
    return network


class KlAutoencoderTask(FirstStageTask):
    """Trains encoder and decoder to give images back through a Gaussian bottleneck."""

    settings: KlSettings

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Absolute, gradient and perceptual error, the KL divergence to a standard normal, the critic's losses.

        Sampled latents in training, mean latents in evaluation. The KL divergence is summed over an image's latents
        and divided by the number of the image's values, so that `kl_weight` means what it does where both losses
        are sums.
        """
        settings, wanted = self.settings, batch.image
        given_BcHW = self._shown(self.given(batch, generator))
        posterior = self.network.encode(given_BcHW).latent_dist
        mean, std, logvar = posterior.mean.float(), posterior.std.float(), posterior.logvar.float()
        z = mean
        if self.module.training:
            z = mean + std * batch.draws.normal(*mean.shape[1:], generator=generator).to(mean.device)
        found = self.network.decode(z).sample.float().mean(dim=1, keepdim=True)
        mae = (found - wanted).abs().mean()
        divergence = 0.5 * (mean.pow(2) + std.pow(2) - 1 - logvar).sum() / given_BcHW.numel()
        total = mae + settings.gradient_weight * losses.gradient_loss(found, wanted) + settings.kl_weight * divergence
        figures = {"mae_grey_levels": mae.detach() * 255, "kl": divergence.detach(), "latent_std": mean.detach().std()}
        total, more = self.judged(total, found, wanted, self.network.decoder.conv_out.weight)
        return {"loss": total, **figures, **more}

    def given(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """What goes in [B, 1, H, W]."""
        return batch.image

    def preview(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Three rows: images, images given back, and ten times the error."""
        found = self.given_back(batch.image)
        return image_grid([batch.image, found, (found - batch.image) * 10 + 0.5])

    def given_back(self, given_B1HW: Tensor) -> Tensor:
        """What the network makes of an input through its mean latents -> images [B, 1, H, W]."""
        mean = self.network.encode(self._shown(given_B1HW)).latent_dist.mean
        image: Tensor = self.network.decode(mean).sample.float().mean(dim=1, keepdim=True)
        return image

    def _shown(self, image_B1HW: Tensor) -> Tensor:
        return image_B1HW.expand(-1, self.settings.image_channels, -1, -1)


class KlControllerTask(KlAutoencoderTask):
    """x_hat = D_v(E_v(m_a / 4)), trained on masks with probability `mask_share`, else on the images themselves."""

    part = "anatomy_controller"
    settings: KlControllerSettings

    def given(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Masks or images [B, 1, H, W]; in evaluation every image is made from its mask."""
        masks = mask_of(batch.label_map)
        if not self.module.training:
            return masks
        masked = batch.draws.uniform(1, 1, 1, generator=generator) < self.settings.mask_share
        return torch.where(masked.to(masks.device), masks, batch.image)

    def preview(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Three rows: masks, rough images, and the real images of these masks."""
        masks = mask_of(batch.label_map)
        return image_grid([masks, self.given_back(masks), batch.image])
