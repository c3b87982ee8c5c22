"""The way of the authors' released code, written anew from what is known of it, to be measured against.

One image at a time: both stages of 100 DDIM steps from noise, guidance by two calls of the denoiser (by one of
two rows where `fused`), prompts through the text encoder for every image, images encoded and decoded in
between. The networks are diffusers' own, as loaded. What the text encoder returns is dropped for the bundle's
token table: with random weights its words mean nothing, only its time counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xreal_synth.models.loaded import LoadedBundle
from xreal_synth.models.text.ldm_bert import TextEncoder
from xreal_synth.sampling.blend import blend, latent_region, soft_mask
from xreal_synth.sampling.controlled import decode_scaled, encode_scaled
from xreal_synth.sampling.denoise import split_prediction
from xreal_synth.sampling.jobs import Edit
from xreal_synth.sampling.schedule import Schedule, ddim_step, make_schedule, q_sample
from xreal_synth.seeds import Purpose
from xreal_synth.types import Mask, SamplingSettings


@dataclass(frozen=True, slots=True)
class PlainLoop:
    """`model` is one whose networks are left as they were loaded; `ids` [1, L] go through `text`, if any."""

    model: LoadedBundle
    settings: SamplingSettings
    text: TextEncoder | None = None
    ids: Tensor | None = None
    fused: bool = False

    @torch.no_grad()
    def images(self, anatomy: Mask, edit: Edit, healthy: str) -> tuple[Tensor, Tensor]:
        """Organ codes uint8 [H, W] and a finding -> the images without and with it [1, C, H, W]."""
        model, settings, noise = self.model, self.settings, self.noise
        assert settings.soft is not None, "the reference holds by its controller"
        schedule = make_schedule(model.alphas_cumprod, settings.steps, "reference")
        label_map = torch.from_numpy(anatomy)[None].to(model.device)
        mask = soft_mask(label_map, model.latent_shape[1:], settings.soft)
        z_hat = encode_scaled(model, model.control(label_map), noise("a.posterior", 0))
        z, prompt = noise("a.x_T", 0), self._encode(healthy)
        for i, t in enumerate(schedule.timesteps):
            if i < settings.hold_steps:
                z = blend(q_sample(z_hat, schedule.abar[i], noise("a.hold", i)), z, mask)
            z = self._step(schedule, i, z, self._predict(z, t, prompt), noise("a.step", i))
        x_a = decode_scaled(model, z, self._decoder_noise())

        m_p = latent_region(torch.from_numpy(edit.region)[None].to(model.device), model.latent_shape[1:])
        z0 = encode_scaled(model, x_a, noise("b.posterior", 0))
        z, label, null = noise("b.x_T", 0), self._encode(edit.prompt), self._encode(model.null_prompt)
        for i, t in enumerate(schedule.timesteps):
            z = blend(q_sample(z0, schedule.abar[i], noise("b.hold", i)), z, 1 - m_p)
            out = self._guided(z, t, null, label)
            z = self._step(schedule, i, z, out, noise("b.step", i))
        return x_a, decode_scaled(model, z, self._decoder_noise())

    def _predict(self, z: Tensor, t: int, tokens: Tensor) -> Tensor:
        return self.model.denoise(z, torch.full((len(z),), t, device=z.device), tokens)

    def _guided(self, z: Tensor, t: int, null: Tensor, label: Tensor) -> Tensor:
        if self.fused:
            without, following = self._predict(z.expand(2, -1, -1, -1), t, torch.cat([null, label])).chunk(2)
        else:
            without, following = self._predict(z, t, null), self._predict(z, t, label)
        return without + self.settings.guidance * (following - without)

    def _step(self, schedule: Schedule, i: int, z: Tensor, out: Tensor, noise: Tensor) -> Tensor:
        z0, eps = split_prediction(self.model.prediction_type, out, z, schedule.abar[i])
        return ddim_step(z0, eps, schedule.abar[i], schedule.abar_next[i], noise, self.settings.eta)

    def _encode(self, prompt: str) -> Tensor:
        if self.text is not None:
            self.text(self.ids)
        return self.model.embed([prompt])

    def _decoder_noise(self) -> Tensor | None:
        return None if self.model.decoder_noise_shape is None else self.noise("film.grain", 0)

    def noise(self, purpose: Purpose, step: int) -> Tensor:
        """Torch's, [1, *shape] of the latents or of the decoder's noise."""
        shape = self.model.decoder_noise_shape if purpose == "film.grain" else self.model.latent_shape
        return torch.randn(1, *(shape or ()), device=self.model.device)
