"""Latents as a sampler leaves them: a real image's latents, noised a little and denoised again.

Shapes: B batch, C latent channels, h and w latent sides, L labels.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from xreal_synth.errors import TrainingError
from xreal_synth.models.networks.label_tokens import LabelTokens
from xreal_synth.models.networks.with_maps import no_maps

DDIM_STEPS = 2


class Redenoiser(nn.Module):
    """Latents [B, C, h, w] -> the same, noised to a step below `below` and denoised in two DDIM steps."""

    def __init__(
        self, unet: UNet2DConditionModel, tokens: LabelTokens, schedule: DDIMScheduler, below: int
    ) -> None:
        super().__init__()
        self.unet = unet.requires_grad_(False).eval()
        self.tokens = tokens.requires_grad_(False).eval()
        self.schedule = schedule
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


def load_redenoiser(folder: str, below: int) -> Redenoiser:
    """By a trained denoiser's folder (`unet/`, `tokens/`, `scheduler/`); raises TrainingError."""
    root = Path(folder)
    try:
        unet: UNet2DConditionModel = UNet2DConditionModel.from_pretrained(
            root / "unet", low_cpu_mem_usage=False
        )
        tokens: LabelTokens = LabelTokens.from_pretrained(root / "tokens", low_cpu_mem_usage=False)
        schedule: DDIMScheduler = DDIMScheduler.from_pretrained(root / "scheduler")
    except (OSError, ValueError) as error:
        raise TrainingError(
            found=f"model.denoiser: {folder!r}: {error}",
            wanted="the folder of a trained denoiser",
            hint="train it first and give its path: --set model.denoiser=OUT/network, or leave it out",
        ) from error
    return Redenoiser(unet, tokens, schedule, below)
