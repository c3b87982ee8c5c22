"""Timesteps and the closed-form steps of the diffusion: q_sample, DDIM, DPM-Solver++ 2M, and RePaint's way back.

`abar` is the cumulative alpha of the print (alphas_cumprod); states are tensors [B, C, h, w].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xreal_synth.types import SamplingMode

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Schedule:
    """Descending timesteps with abar at each, and at the one that follows it."""

    timesteps: tuple[int, ...]
    abar: tuple[float, ...]
    abar_next: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.timesteps)


def reference_timesteps(steps: int, total: int = 1000) -> tuple[int, ...]:
    """range(0, T, T // S) + 1, descending, as the released code spaces them; S should divide T.

    The schedule has no timestep T: for S = T the last one is repeated, which is a step without effect.
    """
    return tuple(min(t + 1, total - 1) for t in range(0, total, total // steps))[::-1]


def respaced_timesteps(steps: int, total: int = 1000) -> tuple[int, ...]:
    """floor(i * T / S) + 1 for i in 0..S-1, descending: equal to reference_timesteps where S divides T."""
    assert 1 <= steps <= total, f"{steps} steps of {total}"
    return tuple(min(i * total // steps + 1, total - 1) for i in range(steps))[::-1]


def crowded_timesteps(steps: int, power: float, total: int = 1000) -> tuple[int, ...]:
    """floor(t_max * (i / (S - 1)) ** power) + 1, from the same t_max as respaced_timesteps, no step twice.

    Detail is decided at small t; with power > 1 more of the steps lie there.
    """
    top = respaced_timesteps(steps, total)[0] - 1
    rising: list[int] = []
    for i in range(steps):
        wanted = int(top * (i / max(1, steps - 1)) ** power) + 1
        rising.append(max(wanted, rising[-1] + 1) if rising else wanted)
    ceiling = range(total - steps, total)
    return tuple(min(t, most) for t, most in zip(rising, ceiling, strict=True))[::-1]


def mode_timesteps(steps: int, mode: SamplingMode, spacing: float | None = None, total: int = 1000) -> tuple[int, ...]:
    """The descending timesteps of a mode; `spacing` crowds them towards the end."""
    if spacing is not None and spacing != 1:
        return crowded_timesteps(steps, spacing, total)
    spaced = reference_timesteps if mode == "reference" else respaced_timesteps
    return spaced(steps, total)


def make_schedule(
    alphas_cumprod: Tensor | Sequence[float], steps: int, mode: SamplingMode, spacing: float | None = None
) -> Schedule:
    """The schedule of a mode; `spacing` crowds the steps towards the end.

    The last step leads to abar[0] as in the released code; in `paper` to 1, for Algorithm 1 ends at x_0
    with z = 0. DDIM's step with eta = 1 between two abar is Algorithm 1's ancestral step of the respaced
    chain, alpha_t = abar / abar_next, with sigma_t^2 the posterior variance (DDPM eq. 7, DDIM section 4.1).
    """
    alphas = [float(alpha) for alpha in alphas_cumprod]
    timesteps = mode_timesteps(steps, mode, spacing, len(alphas))
    abar = tuple(alphas[t] for t in timesteps)
    end = 1.0 if mode == "paper" else alphas[0]
    return Schedule(timesteps, abar, (*abar[1:], end))


def q_sample(z0: Tensor, abar: float, noise: Tensor) -> Tensor:
    """z0 noised to a timestep (DDPM eq. 4). [B, C, h, w] -> the same."""
    return math.sqrt(abar) * z0 + math.sqrt(1 - abar) * noise


def ddim_step(z0: Tensor, eps: Tensor, abar: float, abar_next: float, noise: Tensor | None, eta: float = 1.0) -> Tensor:
    """The next, less noisy state from the predicted z0 and eps (DDIM eq. 12, sigma by eq. 16). [B, C, h, w] each.

    Where eta is 0 there is no noise, and none is needed.
    """
    sigma = eta * math.sqrt((1 - abar_next) / (1 - abar) * (1 - abar / abar_next))
    direction = math.sqrt(max(1 - abar_next - sigma**2, 0.0))
    state = math.sqrt(abar_next) * z0 + direction * eps
    return state if noise is None else state + sigma * noise


def second_order(z0: Tensor, earlier: Tensor, z: Tensor, schedule: Schedule, i: int) -> tuple[Tensor, Tensor]:
    """DPM-Solver++ 2M's (z0, eps) at step i: predictions here and one step `earlier`, drawn on along half the step.

    DDIM's step with them is the solver's (arXiv 2211.01095, algorithm 2). [B, C, h, w] each.
    """
    at, before, after = (
        math.log(abar / (1 - abar)) / 2 for abar in (schedule.abar[i], schedule.abar[i - 1], schedule.abar_next[i])
    )
    z0 = z0 + (after - at) / (2 * (at - before)) * (z0 - earlier)
    abar = schedule.abar[i]
    return z0, (z - math.sqrt(abar) * z0) / math.sqrt(1 - abar)


def step_back(z: Tensor, abar_next: float, abar: float, noise: Tensor) -> Tensor:
    """From a step's result back to its start by forward noise (RePaint algorithm 1, line 9).

    [B, C, h, w] -> the same.
    """
    ratio = abar / abar_next
    return math.sqrt(ratio) * z + math.sqrt(1 - ratio) * noise
