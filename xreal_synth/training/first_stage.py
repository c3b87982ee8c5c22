"""Trained networks that others stand on: a first stage, whichever network it is, and a denoiser.

Shapes: B batch, C latent channels, h and w latent sides, H and W image sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor, nn

from xreal_synth.errors import TrainingError
from xreal_synth.models.load import NETWORKS
from xreal_synth.models.networks.conditioning import LabelTokens
from xreal_synth.models.networks.patch_autoencoder import LatentPosterior, PatchAutoencoder
from xreal_synth.opening import parse_json


class KlFirstStage(nn.Module):
    """diffusers' AutoencoderKL of 1 or 3 channels as a PatchAutoencoder: grey repeated, latents times its scale.

    `factor` is the image's side over the latents'.
    """

    def __init__(self, network: AutoencoderKL) -> None:
        super().__init__()
        self.network = network
        self.image_channels = int(network.config.in_channels)
        self.scale = float(network.config.scaling_factor)
        self.latent_channels = int(network.config.latent_channels)
        self.factor = 1 << (len(network.config.block_out_channels) - 1)

    def encode(self, image_B1HW: Tensor) -> LatentPosterior:
        """Images [B, 1, H, W] -> the Gaussian over scaled latents [B, C, h, w], fp32."""
        posterior = self.network.encode(image_B1HW.expand(-1, self.image_channels, -1, -1)).latent_dist
        return LatentPosterior(mean=posterior.mean.float() * self.scale, std=posterior.std.float() * self.scale)

    def decode(self, z_BChw: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] -> images [B, 1, H, W], the mean of the network's channels, fp32."""
        image: Tensor = self.network.decode(z_BChw / self.scale).sample.float().mean(dim=1, keepdim=True)
        return image


FirstStage = PatchAutoencoder | KlFirstStage
"""Images in [0, 1] <-> latents of about unit deviation; its weights stay as they are."""


def stage_of(network: Any) -> FirstStage:
    """An AutoencoderKL or PatchAutoencoder as a first stage, whose weights stay as they are from now on."""
    network.requires_grad_(False).eval()
    return KlFirstStage(network) if isinstance(network, AutoencoderKL) else network


@contextmanager
def reading(what: str, wanted: str, hint: str) -> Iterator[None]:
    """While the block lasts, what the reading of `what` meets is raised as a TrainingError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise TrainingError(found=f"{what}: {error}", wanted=wanted, hint=hint) from error


@dataclass(frozen=True, slots=True)
class TrainedDenoiser:
    """A denoiser's parts, frozen, and the schedule it was trained on."""

    unet: UNet2DConditionModel
    tokens: LabelTokens
    schedule: DDIMScheduler


def read_denoiser(folder: str, hint: str = "") -> TrainedDenoiser:
    """A trained denoiser from its run's network/; raises TrainingError."""
    root, wanted = Path(folder), "the folder of a trained denoiser (unet/, tokens/ and scheduler/)"
    hint = f"train it first and give its path: --set model.denoiser=OUT/network{hint}"
    with reading(f"model.denoiser: {folder!r}", wanted, hint):
        unet = UNet2DConditionModel.from_pretrained(root / "unet", low_cpu_mem_usage=False)
        tokens = LabelTokens.from_pretrained(root / "tokens", low_cpu_mem_usage=False)
        schedule = DDIMScheduler.from_pretrained(root / "scheduler")
    return TrainedDenoiser(unet.requires_grad_(False).eval(), tokens.requires_grad_(False).eval(), schedule)


def load_first_stage(folder: str, *, weights: bool = True) -> FirstStage:
    """A trained first stage from its diffusers folder, frozen; without `weights` by its config alone.

    Raises TrainingError.
    """
    hint = "train it first and give its path: --set model.autoencoder=OUT/network/vae"
    with reading(f"model.autoencoder: {folder!r}", "the folder of a trained autoencoder (its vae/)", hint):
        config = parse_json((Path(folder) / "config.json").read_text(encoding="utf-8"))
        kind = NETWORKS["vae"].get(config["_class_name"])
        if kind is None:
            raise ValueError(f"its config.json names a {config['_class_name']}")
        if not weights:
            return stage_of(kind.from_config(config))
        return stage_of(kind.from_pretrained(folder, low_cpu_mem_usage=False))


def patches_of(stage: FirstStage, folder: str) -> PatchAutoencoder:
    """The first stage of a folder as the patch autoencoder that it must be; raises TrainingError."""
    if isinstance(stage, KlFirstStage):
        raise TrainingError(
            found=f"{folder!r} holds an AutoencoderKL",
            wanted="a patch autoencoder",
            hint="set model.kind to kl, or give the folder of a patch autoencoder's run",
        )
    return stage
