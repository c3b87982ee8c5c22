"""The denoiser: v-prediction on the paper's noise schedule in the first stage's latents.

Shapes: B batch, C latent channels, h and w latent sides, L labels, D token width, T schedule steps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from xreal_synth.models.convert.published import XREAL_SIZES
from xreal_synth.models.networks.conditioning import MAPS_KEY, NO_FINDING, LabelTokens, with_maps
from xreal_synth.training.draws import BatchPart
from xreal_synth.training.first_stage import FirstStage, reading
from xreal_synth.training.images import ImageBatch
from xreal_synth.training.settings import ControlNetSettings, DataSettings, DenoiserSettings
from xreal_synth.training.tasks.base import TrainingTask, image_grid

LevelSettings = DenoiserSettings | ControlNetSettings
"""They say how noise levels are drawn."""


def paper_schedule(prediction: Literal["epsilon", "v_prediction"] = "v_prediction") -> DDIMScheduler:
    """The paper's betas, .0015 to .0295 linear in their roots over 1000 steps."""
    return DDIMScheduler(**{**XREAL_SIZES.scheduler(), "prediction_type": prediction})


def log_snr(schedule: DDIMScheduler) -> Tensor:
    """The logarithm of each step's signal-to-noise ratio [T], which falls from step to step."""
    alphas: Tensor = schedule.alphas_cumprod
    return (alphas / (1 - alphas)).log()


def draw_steps(log_snr_T: Tensor, draws: BatchPart, generator: torch.Generator, settings: LevelSettings) -> Tensor:
    """[B] steps: by a normal in log signal-to-noise ratio, a share of them uniform over the schedule."""
    wanted = draws.normal(generator=generator) * settings.log_snr_std + settings.log_snr_mean
    nearest = torch.searchsorted(-log_snr_T, -wanted).clamp_max(len(log_snr_T) - 1)
    uniform = draws.integers(len(log_snr_T), generator=generator)
    pick = draws.uniform(generator=generator) < settings.uniform_share
    return torch.where(pick, uniform, nearest)


def noised(
    z: Tensor, draws: BatchPart, generator: torch.Generator, schedule: DDIMScheduler, settings: LevelSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents -> the same noised to steps of their own, the steps [B], and what a denoiser should make of them."""
    steps = draw_steps(log_snr(schedule), draws, generator, settings).to(z.device)
    noise = draws.normal(*z.shape[1:], generator=generator).to(z.device)
    velocity = schedule.config.prediction_type == "v_prediction"
    target = schedule.get_velocity(z, noise, steps) if velocity else noise
    return schedule.add_noise(z, noise, steps), steps, target


def ddim(schedule: DDIMScheduler, z: Tensor, predict: Callable[[Tensor, Tensor], Tensor], steps: int = 25) -> Tensor:
    """Noise -> latents, by a few steps of plain DDIM."""
    schedule.set_timesteps(steps)
    for t in schedule.timesteps:
        z = schedule.step(predict(z, t), t, z).prev_sample
    return z


def build_unet(
    settings: DenoiserSettings, latent_channels: int, latent_size: int, maps: int = 0
) -> UNet2DConditionModel:
    """A small conditional UNet; levels without attention are plain residual blocks.

    `maps` input channels come after the latents'.
    """
    down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in settings.attention]
    up = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(settings.attention)]
    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=latent_size, in_channels=latent_channels + maps, out_channels=latent_channels,
        layers_per_block=settings.layers, block_out_channels=settings.channels,
        down_block_types=tuple(down), up_block_types=tuple(up),
        cross_attention_dim=settings.token_width, attention_head_dim=settings.heads,
        addition_embed_type="text" if settings.pooled_labels else None, addition_embed_type_num_heads=settings.heads,
    )  # fmt: skip
    if settings.pooled_labels:
        nn.init.zeros_(unet.add_embedding.norm2.weight)
    unet.set_attn_processor(AttnProcessor())
    return unet


def take_weights(unet: UNet2DConditionModel, tokens: LabelTokens, folder: Path) -> None:
    """Copy a trained denoiser's weights (`unet/`, `tokens/`).

    New may be the pooled label embedding, the inputs for region maps, which begin at zero, and labels, whose
    tokens begin as the mean of the known ones, alike where present and absent.

    Raises TrainingError where the folder holds no denoiser of this shape.
    """
    wanted = "the folder of a trained denoiser (unet/ and tokens/) of this config's sizes"
    hint = "give the path of a run's network/, or the config that the denoiser was trained with"
    with reading(f"model.init: {str(folder)!r}", wanted, hint):
        former: UNet2DConditionModel = UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False)
        labels: LabelTokens = LabelTokens.from_pretrained(folder / "tokens", low_cpu_mem_usage=False)
        weights = former.state_dict()
        widened = unet.conv_in.weight.detach().clone().zero_()
        widened[:, : weights["conv_in.weight"].shape[1]] = weights["conv_in.weight"]
        missing, unexpected = unet.load_state_dict({**weights, "conv_in.weight": widened}, strict=False)
        _take_tokens(tokens, labels)
        strange = [name for name in missing if not name.startswith("add_embedding.")] + list(unexpected)
        if strange:
            raise ValueError(f"weights that differ from the config's network: {', '.join(strange[:5])}")


@torch.no_grad()
def _take_tokens(tokens: LabelTokens, former: LabelTokens) -> None:
    """Raises ValueError unless the former labels are among the new ones."""
    names = (*tokens.findings, NO_FINDING)
    rows = [names.index(name) for name in (*former.findings, NO_FINDING)]
    middle = former.absent.mean(dim=0)
    for own, other in ((tokens.present, former.present), (tokens.absent, former.absent)):
        own.copy_(middle.expand_as(own))
        own[rows] = other


class DenoiserTask(TrainingTask):
    """UNet and label tokens, trained together on the fixed encoder's latents."""

    def __init__(self, settings: DenoiserSettings, autoencoder: FirstStage, data: DataSettings) -> None:
        super().__init__(settings)
        self.autoencoder = autoencoder
        self.region_maps = data.region_maps
        self.schedule = paper_schedule(settings.prediction)
        channels = autoencoder.latent_channels
        self.latent_shape = (channels, *[data.image_size // autoencoder.factor] * 2)
        self.maps = len(self.region_maps) + 1 if self.region_maps else 0
        self.unet = build_unet(settings, channels, self.latent_shape[-1], self.maps)
        if self.region_maps:
            self.unet.register_to_config(**{MAPS_KEY: list(self.region_maps)})
        self.tokens = LabelTokens(data.findings, settings.token_width)
        if settings.init:
            take_weights(self.unet, self.tokens, Path(settings.init))
        self.module = nn.ModuleDict({"unet": self.unet, "tokens": self.tokens})

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of v or eps over all latent channels, weighted by step and region where the config
        says so; `loss_in_regions` is that inside the findings' regions alone."""
        device = batch.image.device
        z = self.autoencoder.encode(batch.image).mean
        noisy, steps, target = noised(z, batch.draws, generator, self.schedule, self.settings)
        kept = batch.draws.uniform(1, generator=generator) >= self.settings.null_share
        named = kept
        if self.settings.token_drop:
            named = kept & (batch.draws.uniform(1, generator=generator) >= self.settings.token_drop)
        labels = batch.labels & named.to(device)
        maps = batch.maps(*self.latent_shape[1:])
        shown = None if maps is None else maps * kept.to(device)[:, :, None, None]
        found = self.unet(with_maps(noisy, shown), steps, self.tokens(labels)).sample.float()
        square = (found - target).pow(2).mean(dim=1)
        inside = None if maps is None else maps[:, :-1].amax(dim=1)
        if inside is not None:
            square = square * (1 + (self.settings.region_weight - 1) * inside)
        error = square.mean(dim=(1, 2)) * self.weights(steps)
        low = steps < 400
        late = torch.where(low.any(), (error * low).sum() / low.sum().clamp_min(1), error.mean())
        losses = {"loss": error.mean(), "loss_t_below_400": late}
        if inside is not None:
            within = (square * inside).sum(dim=(1, 2)) / self.settings.region_weight
            losses["loss_in_regions"] = within.sum() / inside.sum().clamp_min(1)
        return losses

    def preview(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Four rows of images: no finding, and the first finding with guidance 1, 2 and 4, from the same noise.

        With region maps the finding is asked for in the middle of the picture's left half.
        """
        shape = (len(batch.image), *self.latent_shape)
        noise = torch.randn(shape, generator=generator).to(batch.image.device)
        table = self.tokens.table()
        first = self.tokens.findings[0]
        asks = [(NO_FINDING, 1.0), (first, 1.0), (first, 2.0), (first, 4.0)]
        maps = None
        if self.region_maps:
            maps = torch.zeros(self.maps, *self.latent_shape[1:], device=noise.device)
            side = self.latent_shape[-1]
            maps[self.region_maps.index(first), side * 3 // 8 : side * 3 // 4, side // 8 : side * 3 // 8] = 1
        rows = [
            self._sample(noise, table[prompt], table[""], guidance, None if prompt == NO_FINDING else maps)
            for prompt, guidance in asks
        ]
        return image_grid(rows)

    def save(self, folder: Path) -> None:
        """`unet/`, `tokens/` and `scheduler/`."""
        self.unet.save_pretrained(folder / "unet")
        self.tokens.save_pretrained(folder / "tokens")
        self.schedule.save_pretrained(folder / "scheduler")

    def weights(self, steps: Tensor) -> Tensor:
        """[B] loss weights of the steps: 1, or min-SNR's."""
        gamma = self.settings.min_snr_gamma
        if gamma is None:
            return torch.ones(len(steps), device=steps.device)
        snr = log_snr(self.schedule)[steps.cpu()].exp().to(steps.device)
        scale = snr + 1 if self.settings.prediction == "v_prediction" else snr
        return snr.clamp_max(gamma) / scale

    def _sample(
        self, noise: Tensor, tokens: Tensor, null: Tensor, guidance: float, maps: Tensor | None = None
    ) -> Tensor:
        """Plain DDIM without control -> images [B, 1, H, W]."""
        count = len(noise)
        empty = torch.zeros(count, self.maps, *noise.shape[2:], device=noise.device) if self.maps else None
        shown = empty if maps is None else maps.expand(count, -1, -1, -1)
        both = torch.cat([null.expand(count, -1, -1), tokens.expand(count, -1, -1)]).to(noise.device)

        def predict(z: Tensor, t: Tensor) -> Tensor:
            if guidance == 1.0:
                found: Tensor = self.unet(with_maps(z, shown), t, both[count:]).sample.float()
                return found
            pair = torch.cat([with_maps(z, empty), with_maps(z, shown)])
            v_null, v_label = self.unet(pair, t, both).sample.float().chunk(2)
            guided: Tensor = v_null + guidance * (v_label - v_null)
            return guided

        return self.autoencoder.decode(ddim(self.schedule, noise, predict))
