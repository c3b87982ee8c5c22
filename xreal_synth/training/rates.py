"""The learning rate of a step, from diffusers' schedules."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from diffusers.optimization import get_scheduler

from xreal_synth.training.settings import LoopSettings


def learning_rate(settings: LoopSettings, step: int) -> float:
    """The rate of step `step` (0 is the first): warm-up, then constant, then to zero at the end.

    It is the product of two of diffusers' schedules: `constant_with_warmup` from the first step on, and
    `linear` or `cosine` over the last `decay_share` of the steps. diffusers' own `linear` and `cosine` begin
    to fall where the warm-up ends (nearly decay_share = 1) and cannot stay constant in between, hence the
    product. The warm-up is read one step on, so that the first step is not spent at a rate of zero. A rate
    depends on the step alone: a resumed run needs no scheduler state.
    """
    warm = _factor("constant_with_warmup", settings.warmup_steps, None)(step + 1)
    begin = settings.steps * (1 - settings.decay_share)
    if settings.schedule == "constant" or step <= begin:
        return settings.lr * warm
    fall = _factor(settings.schedule, 0, max(1.0, settings.steps - begin))(min(step, settings.steps) - begin)
    return settings.lr * warm * fall


@lru_cache(maxsize=16)
def _factor(name: str, warmup_steps: int, steps: float | None) -> Callable[[float], float]:
    """A diffusers schedule as a function of the step."""
    nothing = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule: Any = get_scheduler(name, nothing, num_warmup_steps=warmup_steps, num_training_steps=steps)
    factor: Callable[[float], float] = schedule.lr_lambdas[0]
    return factor
