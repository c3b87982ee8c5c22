"""Guidance distilled into a bundle's prompts: with their new tokens one evaluation gives what guidance took two for.

Each finding learns a change of its prompts' tokens, the same in every prompt that names it, so that the plain
prediction matches the guided one (Meng et al. 2023) on latents of real images, noised to the timesteps at which the
bundle's defaults sample. Where the denoiser is shown regions, the weights that take them in learn too; nothing else of
it changes. Images without a finding stay as they are: their prompts are not changed, and their regions are zero.

Shapes: B batch, C latent channels, h and w latent sides, L tokens, D their width, F findings, R region maps.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call

from xreal_synth.errors import TrainingError
from xreal_synth.models.bundle_file import EMBEDDINGS, NULL_KEY
from xreal_synth.models.describe import BundleInfo, describe, joint_prompt
from xreal_synth.models.load import WEIGHTS, alphas_from, load_network, read_embeddings, read_json
from xreal_synth.models.loaded import image_of, moments
from xreal_synth.models.networks.conditioning import ALL_TOGETHER, AT_ONCE, with_maps
from xreal_synth.sampling.blend import in_range
from xreal_synth.sampling.denoise import split_prediction
from xreal_synth.sampling.schedule import mode_timesteps, q_sample
from xreal_synth.training.first_stage import reading
from xreal_synth.training.images import ImageBatch
from xreal_synth.training.settings import DataSettings, GuidanceSettings
from xreal_synth.training.tasks.base import TrainingTask, image_grid

TEACHER: Final = "teacher"
"""In the metadata of the tokens that a run leaves: the content hash of the bundle that they belong to."""
UNET: Final = f"unet/{WEIGHTS}"
PLACE_STEP: Final = 0.02
"""Weights change by so much of what tokens do in a step."""


class PromptChanges(nn.Module):
    """What each finding adds to the tokens of the prompts that name it [F, L, D], and to the weights by which the
    denoiser hears of places [c, R, k, k]; nothing to begin with."""

    def __init__(self, findings: int, tokens: torch.Size, place_weights: torch.Size) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(findings, *tokens))
        self.places = nn.Parameter(torch.zeros(place_weights))

    def new_tokens(self, tokens_BLD: Tensor, named_BF: Tensor) -> Tensor:
        """Prompts' tokens [B, L, D] and the findings that they name [B, F] -> their new tokens [B, L, D]."""
        return tokens_BLD + torch.einsum("bf,fld->bld", named_BF.to(self.tokens.dtype), self.tokens)

    def new_weights(self, weights: Tensor) -> Tensor:
        """The denoiser's first weights [c, C + R, k, k], those of latents as they were."""
        latents = weights.shape[1] - self.places.shape[1]
        return torch.cat([weights[:, :latents], weights[:, latents:] + PLACE_STEP * self.places], dim=1)


def _guided_bundle(name: str, data: DataSettings) -> BundleInfo:
    """The config's bundle. Raises TrainingError where its defaults have no guidance that a prompt can stand for, or the
    images are described in other terms than its own; BundleError for a bundle that cannot be read."""
    if not name:
        raise TrainingError(
            found="no model.bundle", wanted="the bundle whose guidance is distilled",
            hint="--set model.bundle=xreal-mini, or a path",
        )  # fmt: skip
    info = describe(name)
    by_regions = info.defaults.mode == "joint" and not info.region_maps
    if info.defaults.guidance == 1 or by_regions:
        why = "asks for each finding in its region by evaluations of their own" if by_regions else "has none"
        raise TrainingError(
            found=f"bundle {info.name}, whose default guidance {why}",
            wanted="guidance of a whole prediction: another mode than joint, or a denoiser with region maps",
            hint="distil a bundle that is guided so",
        )
    wanted = {
        "data.image_size": (data.image_size, info.image_size),
        "data.findings": ([one for one in data.findings if one in info.prompts], list(data.findings)),
        "data.region_maps": (list(data.region_maps), list(info.region_maps)),
    }
    for key, (found, fits) in wanted.items():
        if found != fits:
            raise TrainingError(
                found=f"{key} {found} for bundle {info.name}", wanted=f"{fits}", hint=f"--set '{key}={fits}'"
            )
    return info


class GuidanceTask(TrainingTask):
    """Changes of tokens, trained against the guided prediction of the bundle that they belong to: its frozen networks,
    its prompts' tokens [L, D] and its schedule's cumulative alphas [T]. Raises TrainingError, BundleError."""

    def __init__(self, settings: GuidanceSettings, data: DataSettings) -> None:
        super().__init__(settings)
        info = _guided_bundle(settings.bundle, data)
        self.info, self.findings, defaults = info, data.findings, info.defaults
        frozen: list[Any] = [load_network(info, part).requires_grad_(False).eval() for part in ("unet", "vae")]
        self.unet, self.vae = frozen
        schedule = read_json(info, "scheduler/scheduler_config.json")
        self.embeddings, self.alphas = read_embeddings(info), alphas_from(schedule)
        self.prediction = schedule["prediction_type"]
        first = int(defaults.branch * defaults.steps) if defaults.mode == "branch" else 0
        self.timesteps = torch.tensor(mode_timesteps(defaults.steps, defaults.mode, defaults.spacing)[first:])
        weights, tokens = self.unet.conv_in.weight, next(iter(self.embeddings.values()))
        places = weights[:, info.latent_shape[0] :].shape
        self.module: PromptChanges = PromptChanges(len(self.findings), tokens.shape, places)

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared difference to the guided prediction; `undistilled` is that of the prompts as they were."""
        z, named, maps = self._latents(batch.image), *self._asked(batch)
        steps = self.timesteps[batch.draws.integers(len(self.timesteps), generator=generator)]
        noise = batch.draws.normal(*z.shape[1:], generator=generator).to(z.device)
        abar = self.alphas[steps].to(z)[:, None, None, None]
        noisy = abar.sqrt() * z + (1 - abar).sqrt() * noise
        plain, guided, distilled = self._predictions(noisy, steps.to(z.device), named, maps)
        return {"loss": (distilled - guided).pow(2).mean(), "undistilled": (plain - guided).pow(2).mean()}

    def preview(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Three rows of images as the denoiser sees them at the middle timestep: prompts as they were, guided,
        distilled."""
        z, named, maps = self._latents(batch.image), *self._asked(batch)
        t = int(self.timesteps[len(self.timesteps) // 3])
        abar = float(self.alphas[t])
        noisy = q_sample(z, abar, torch.randn(z.shape, generator=generator).to(z.device))
        times = torch.full((len(z),), t, device=z.device)
        seen = [
            split_prediction(self.prediction, out, noisy, abar)[0] / self.info.scale_factor
            for out in self._predictions(noisy, times, named, maps)
        ]
        low, high = self.info.value_range
        images = [image_of(self.vae.decode(one)).mean(dim=1, keepdim=True) for one in seen]
        return image_grid([(image - low) / (high - low) for image in images])

    def save(self, folder: Path) -> None:
        """The bundle's whole table of prompts with the new tokens, and the denoiser's weights as `unet/` has them."""
        (folder / UNET).parent.mkdir(parents=True, exist_ok=True)
        weights = self.unet.conv_in.weight.detach().clone()
        with torch.no_grad():
            self.unet.conv_in.weight.copy_(self.module.new_weights(weights))
            save_file({k: v.half().contiguous() for k, v in self.unet.state_dict().items()}, folder / UNET)
            self.unet.conv_in.weight.copy_(weights)
        table = {prompt or NULL_KEY: tokens.half().contiguous() for prompt, tokens in self.table().items()}
        save_file(table, folder / EMBEDDINGS, metadata={TEACHER: self.info.content_hash})

    @torch.no_grad()
    def table(self) -> dict[str, Tensor]:
        """Every prompt of the bundle -> its tokens [L, D], new where it names findings that were learnt."""
        found, change = dict(self.embeddings), self.module.tokens.float().cpu()
        count = len(self.findings)
        most = count if count <= ALL_TOGETHER else AT_ONCE
        for chosen in chain.from_iterable(combinations(range(count), size) for size in range(1, most + 1)):
            prompt = joint_prompt(self.info, [self.findings[one] for one in chosen])
            if prompt in found:
                found[prompt] = self.embeddings[prompt] + change[list(chosen)].sum(dim=0)
        return found

    def _latents(self, image_B1HW: Tensor) -> Tensor:
        x = in_range(image_B1HW, self.info.value_range, self.info.channels)
        with torch.no_grad():
            return moments(self.vae.encode(x))[0].float() * self.info.scale_factor

    def _asked(self, batch: ImageBatch) -> tuple[Tensor, Tensor | None]:
        """The findings that each image's prompt names [B, F], those with a place where the denoiser knows places, and
        their maps [B, R + 1, h, w]. Where no prompt names them all, the first is asked for."""
        named, maps = batch.labels[:, : len(self.findings)], batch.maps(*self.info.latent_shape[1:])
        if maps is not None:
            placed = maps.flatten(2).amax(dim=2) > 0
            order = [self.info.region_maps.index(one) for one in self.findings]
            named = named & placed[:, order]
        known = [self._prompt(row) in self.embeddings for row in named.tolist()]
        first = named & (named.cumsum(dim=1) == 1)
        named = torch.where(torch.tensor(known, device=named.device)[:, None], named, first)
        if maps is not None:
            shown = torch.zeros_like(maps[:, :, 0, 0])
            shown[:, order] = named.to(shown)
            maps = maps * shown[:, :, None, None]
        return named, maps

    def _prompt(self, named: Sequence[bool]) -> str:
        names = [one for one, asked in zip(self.findings, named, strict=True) if asked]
        return joint_prompt(self.info, names) if names else self.info.healthy_prompt

    def _predictions(self, z: Tensor, t: Tensor, named: Tensor, maps: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The denoiser's raw output [B, C, h, w] by the prompts as they were, guided, and by the new tokens."""
        embeddings, defaults = self.embeddings, self.info.defaults
        tokens = torch.stack([embeddings[self._prompt(row)] for row in named.tolist()]).to(z)
        null = embeddings[self.info.null_prompt].to(z).expand_as(tokens)
        nowhere = None if maps is None else torch.zeros_like(maps)
        seen = with_maps(z, maps)
        with torch.no_grad():
            both = torch.cat([with_maps(z, nowhere), seen]), torch.cat([t, t]), torch.cat([null, tokens])
            without, plain = self.unet(*both).sample.float().chunk(2)
            guided = t >= (defaults.guidance_floor or 0)
            weight = torch.where(guided, defaults.guidance, 1.0)[:, None, None, None]
            wanted = without + weight * (plain - without)
        changed = {"conv_in.weight": self.module.new_weights(self.unet.conv_in.weight)}
        found = functional_call(self.unet, changed, (seen, t, self.module.new_tokens(tokens, named)))
        return plain, wanted, found.sample.float()


def take_distilled(base: BundleInfo, network: Path, folder: Path) -> None:
    """Puts a run's tokens and denoiser (`network`, as `save` left it) into the files of a copy of the bundle `base`.

    Raises TrainingError for a run of another bundle.
    """
    wanted = "the run of xreal-synth train distill-guidance"
    with reading(f"--guidance: {str(network)!r}", wanted, "give its --out folder"):
        with safe_open(network / EMBEDDINGS, "pt") as tokens:
            teacher = tokens.metadata()[TEACHER]
        for name in (EMBEDDINGS, UNET):
            shutil.copyfile(network / name, folder / name)
    if teacher != base.content_hash:
        raise TrainingError(
            found=f"{network}: the guidance of a bundle of content hash {teacher[:12]}",
            wanted=f"{base.content_hash[:12]}, the --base",
            hint="give the --base whose guidance was distilled, model.bundle of its config",
        )
