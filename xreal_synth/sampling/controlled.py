"""XReal's Algorithm 1: stage A holds the denoiser to an anatomy, stage B infuses a finding inside a region.

Both stages are one loop (`run_steps`) with different holds. Modes: `reference` re-encodes stage A's image and
starts stage B from noise (as the authors' released code does); `paper` does so with the printed algorithm's
chain, binary mask, mean latents and no guidance; `branch` starts stage B from stage A's state after k steps
and holds it to stage A's kept states, so the twin comes for free; `joint` is stage A alone, in which the findings are
asked for from the first step, so that images with and without findings come about alike.

Instead of being held, stage A may follow a ControlNet's residuals (which stage B then gets too), or nothing.

Shapes: B batch, C latent channels, H and W image sides, h and w latent sides, L tokens, D their width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from xreal_synth.sampling.blend import HOLDS, blend, soft_mask
from xreal_synth.sampling.denoise import Denoise, guided, split_prediction
from xreal_synth.sampling.model import SamplerModel
from xreal_synth.sampling.noise import BatchNoise
from xreal_synth.sampling.schedule import Schedule, ddim_step, q_sample, second_order, step_back
from xreal_synth.seeds import Purpose
from xreal_synth.types import SoftVariance

Hold = Callable[[int, int, Tensor], Tensor]
"""(step, repeat, state) -> the state that the denoiser sees."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Settings of a stage's steps: `resample` is RePaint's U (in held steps but the last), eta DDIM's.

    From step `free_from` on, which is where the anatomy is let go, eta is `eta_free`. `posterior` is what
    z = E_G(x) means: a sample of the posterior, or its mean. With `multistep`, stage A's steps after the hold
    and stage B's, where they are free of noise, are DPM-Solver++'s of second order.
    """

    schedule: Schedule
    prediction_type: Literal["epsilon", "v_prediction"]
    resample: int = 1
    eta: float = 1.0
    posterior: Literal["sample", "mean"] = "sample"
    eta_free: float | None = None
    free_from: int = 0
    multistep: bool = False

    def eta_at(self, step: int) -> float:
        """DDIM's eta of a step: `eta_free`, where it is given, once the steps are no longer held."""
        return self.eta if self.eta_free is None or step < self.free_from else self.eta_free


@dataclass(frozen=True, slots=True)
class Guide:
    """The prompt's tokens [B, L, D], those of the null prompt if guidance is wanted, a ControlNet's hint, and the
    prompt's region maps [B, R + 1, h, w]; the null prompt's are zero. Below timestep `floor` nothing is guided."""

    cond: Tensor
    null: Tensor | None = None
    guidance: float = 1.0
    hint: Tensor | None = None
    maps: Tensor | None = None
    floor: int = 0


@dataclass(frozen=True, slots=True)
class RegionGuide:
    """Prompts and weights by which joint findings are asked of a denoiser that knows no regions.

    The healthy prompt's tokens and the null prompt's [B, L, D], and of each finding its tokens and where it is asked
    for [B, 1, h, w], nowhere for rows that have fewer findings. Below timestep `floor` the weight is 1.
    """

    healthy: Tensor
    null: Tensor
    findings: tuple[tuple[Tensor, Tensor], ...]
    guidance: float
    hint: Tensor | None = None
    floor: int = 0


@dataclass(frozen=True, slots=True)
class FreedRegion:
    """A region where a finding may leave the anatomy [B, 1, h, w], and the step from which on it may."""

    region: Tensor
    step: int


@dataclass(frozen=True, slots=True)
class AnatomyStage:
    """x_hat [B, *, H, W], m_a's soft mask [B, 1, h, w], z_hat, and the states as run_steps returns them."""

    x_hat: Tensor
    mask: Tensor
    z_hat: Tensor
    states: list[Tensor]


def run_steps(
    denoise: Callable[[Tensor, int], Tensor],
    z: Tensor,
    rule: Rule,
    noise: Callable[[Purpose, int, int], Tensor],
    stage: Literal["a", "b"],
    *,
    hold: Hold,
    held: int,
    first: int = 0,
    replaced: int = 0,
    kept_from: int = 0,
) -> list[Tensor]:
    """DDIM from state z at step `first` to the end, held in the steps before `held` (Algorithm 1's loops).

    `denoise` is (z, t) -> raw output. It is not asked in the steps before `replaced`: the hold of the step after
    replaces their result whole. Returns the states that the denoiser saw, or would have, at each step, then the result;
    of the steps before `replaced` only those from step `kept_from` on, and before it whatever z was.
    """
    schedule, states = rule.schedule, []
    before: Tensor | None = None
    step_noise: Purpose = "a.step" if stage == "a" else "b.step"
    back_noise: Purpose = "a.resample" if stage == "a" else "b.resample"
    for i in range(first, len(schedule)):
        abar, abar_next = schedule.abar[i], schedule.abar_next[i]
        rounds = rule.resample if i < held and i + 1 < len(schedule) else 1
        if i < replaced:
            states.append(hold(i, rounds - 1, z) if i >= kept_from else z)
            continue
        for repeat in range(rounds):
            seen = hold(i, repeat, z) if i < held else z
            out = denoise(seen, schedule.timesteps[i])
            z0, eps = split_prediction(rule.prediction_type, out, seen, abar)
            if rule.multistep and not rule.eta_at(i) and (i >= held or stage == "b"):
                before, earlier = z0, before
                if earlier is not None and i + 1 < len(schedule):
                    z0, eps = second_order(z0, earlier, seen, schedule, i)
            eta = rule.eta_at(i)
            fresh = noise(step_noise, i, repeat) if eta else None
            z = ddim_step(z0, eps, abar, abar_next, fresh, eta)
            if repeat + 1 < rounds:
                z = step_back(z, abar_next, abar, noise(back_noise, i, repeat))
        states.append(seen)
    return [*states, z]


def anatomy_stage(
    model: SamplerModel,
    label_map_BHW: Tensor,
    guide: Guide | RegionGuide,
    rule: Rule,
    noise: BatchNoise,
    *,
    hold_steps: int,
    soft: float,
    soft_variance: SoftVariance | None = None,
    detail: float | None = None,
    freed: FreedRegion | None = None,
    replaced: int = 0,
    kept_from: int = 0,
) -> AnatomyStage:
    """Stage A: organ codes uint8 -> latents of an image with this anatomy, held for the first `hold_steps`.

    Mode joint asks for findings here and frees their regions of the hold earlier. `replaced`, `kept_from`: see
    run_steps; where the first hold is the whole state, nothing is drawn for it to replace. The rough
    image is a mean over images of this anatomy: held to it alone, the state has too little variance at the timestep at
    which it is let go, and the image stays smooth. `detail` adds the variance.
    """
    x_hat = model.control(label_map_BHW)
    mask = soft_mask(label_map_BHW, model.latent_shape[1:], soft)
    z_hat = encode_scaled(model, x_hat, noise("a.posterior") if rule.posterior == "sample" else None)
    if detail:
        z_hat = z_hat + detail * model.detail(noise("a.detail"))

    def hold(step: int, repeat: int, z: Tensor) -> Tensor:
        abar, fresh = rule.schedule.abar[step], noise("a.hold", step, repeat)
        keep = mask if freed is None or step < freed.step else mask * (1 - freed.region)
        return HOLDS[soft_variance or "mixed"](z_hat, z, keep, abar, fresh)

    whole = soft == 1 and hold_steps > 0 and (freed is None or freed.step > 0)
    states = run_steps(
        denoiser(model, guide), torch.zeros_like(z_hat) if whole else noise("a.x_T"), rule, noise, "a",
        hold=hold, held=hold_steps, replaced=replaced, kept_from=kept_from,
    )  # fmt: skip
    return AnatomyStage(x_hat, mask, z_hat, states)


def free_stage(model: SamplerModel, guide: Guide | RegionGuide, rule: Rule, noise: BatchNoise) -> list[Tensor]:
    """Stage A that nothing is held in, as `control: controlnet` and `none` make it -> the states."""
    return run_steps(denoiser(model, guide), noise("a.x_T"), rule, noise, "a", hold=lambda step, repeat, z: z, held=0)


def pathology_from_noise(
    model: SamplerModel, x_BCHW: Tensor, m_p: Tensor, guide: Guide, rule: Rule, noise: BatchNoise
) -> tuple[Tensor, list[Tensor]]:
    """Stage B of `reference` and `paper`: an image, its region [B, 1, h, w] -> the image's z0, stage B's states."""
    z0 = encode_scaled(model, x_BCHW, noise("b.posterior") if rule.posterior == "sample" else None)

    def hold(step: int, repeat: int, z: Tensor) -> Tensor:
        return blend(q_sample(z0, rule.schedule.abar[step], noise("b.hold", step, repeat)), z, 1 - m_p)

    steps = len(rule.schedule)
    states = run_steps(denoiser(model, guide), noise("b.x_T"), rule, noise, "b", hold=hold, held=steps)
    return z0, states


def pathology_from_branch(
    model: SamplerModel, states: list[Tensor], m_p: Tensor, guide: Guide, rule: Rule, noise: BatchNoise, *, start: int
) -> list[Tensor]:
    """Stage B of `branch`: another stage's states and a region [B, 1, h, w] -> the states with the finding.

    It starts from the state seen at step `start` and is held, outside the region, to the state seen at each
    later step and to the result: rows with an empty region return unchanged.
    """

    def hold(step: int, repeat: int, z: Tensor) -> Tensor:
        return blend(states[step], z, 1 - m_p)

    steps = len(rule.schedule)
    *seen, last = run_steps(denoiser(model, guide), states[start], rule, noise, "b", hold=hold, held=steps, first=start)
    return [*states[:start], *seen, blend(states[steps], last, 1 - m_p)]


def denoiser(model: SamplerModel, guide: Guide | RegionGuide) -> Callable[[Tensor, int], Tensor]:
    """The model's denoiser with prompts, guidance, hint and maps filled in.

    Every step is given the same tensor of tokens, by which a model knows that it has seen them.
    """
    if isinstance(guide, RegionGuide):
        return _region_denoiser(model, guide)
    given = {"hint_BChw": guide.hint, "maps_BRhw": guide.maps}
    more = {key: value for key, value in given.items() if value is not None}
    alone: Denoise = partial(model.denoise, **more)
    if guide.null is None:
        return lambda z, t: alone(z, torch.full((len(z),), t, device=z.device), guide.cond)
    unasked = {"maps_BRhw": torch.zeros_like}
    twice = {key: torch.cat([unasked.get(key, torch.clone)(value), value]) for key, value in more.items()}
    both: Denoise = partial(model.denoise, **twice)
    tokens = torch.cat([guide.null, guide.cond])

    def denoise(z: Tensor, t: int) -> Tensor:
        if t < guide.floor:
            return alone(z, torch.full((len(z),), t, device=z.device), guide.cond)
        return guided(both, z, t, tokens, guide.guidance)

    return denoise


def _region_denoiser(model: SamplerModel, guide: RegionGuide) -> Callable[[Tensor, int], Tensor]:
    """o_healthy + sum_f m_f g (o_f - o_null), a forward of B rows for each prompt.

    Where nothing is guided (t below the floor), o_healthy + sum_f m_f (o_f - o_healthy).
    """
    denoise: Denoise = model.denoise
    if guide.hint is not None:
        denoise = partial(model.denoise, hint_BChw=guide.hint)

    def joint(z: Tensor, t: int) -> Tensor:
        times = torch.full((len(z),), t, device=z.device)
        healthy = denoise(z, times, guide.healthy)
        unguided = t < guide.floor
        alike = unguided or torch.equal(guide.healthy, guide.null)
        null = healthy if alike else denoise(z, times, guide.null)
        weight = 1.0 if unguided else guide.guidance
        out = healthy
        for tokens, place in guide.findings:
            out = out + weight * place * (denoise(z, times, tokens) - null)
        return out

    return joint


def encode_scaled(model: SamplerModel, x_BCHW: Tensor, noise: Tensor | None) -> Tensor:
    """z = scale_factor * sample(E_G(x)); without noise, of the mean."""
    mean, std = model.encode(x_BCHW)
    return model.scale_factor * (mean if noise is None else mean + std * noise)


def decode_scaled(model: SamplerModel, z: Tensor, decoder_noise: Tensor | None = None) -> Tensor:
    """x = clamp(D_G(z / scale_factor)) in the model's value_range."""
    return model.decode(z / model.scale_factor, decoder_noise).clamp(*model.value_range)
