"""A real image in the twin's place: the states of a sampling that would have ended in it.

Shapes: B batch, C latent channels, H and W image sides, h and w latent sides.
"""

from __future__ import annotations

import math

from torch import Tensor

from xreal_synth.sampling.controlled import Rule
from xreal_synth.sampling.model import SamplerModel
from xreal_synth.sampling.noise import BatchNoise
from xreal_synth.sampling.schedule import ddim_step, q_sample


def image_states(model: SamplerModel, x_BCHW: Tensor, rule: Rule, noise: BatchNoise) -> list[Tensor]:
    """An image -> the state at each step and the image's own latent, as `run_steps` returns a stage's states.

    z0 = scale_factor * mean(E_G(x)) is noised once to the first step and led back by DDIM's own process with
    z0 known (DDIM eq. 7): each state has the distribution of q_sample, and two neighbours have that of two
    neighbouring states of the sampler at this eta (at eta 0 all share one noise). Noise drawn anew in every
    step would change what surrounds an edit under its hands; DDIM inversion would cost a network
    evaluation a step, and end in noise that is not Gaussian.
    """
    mean, _ = model.encode(x_BCHW)
    z0, schedule = model.scale_factor * mean, rule.schedule
    z = q_sample(z0, schedule.abar[0], noise("a.x_T"))
    states = []
    for i, (abar, abar_next) in enumerate(zip(schedule.abar, schedule.abar_next, strict=True)):
        states.append(z)
        eps = (z - math.sqrt(abar) * z0) / math.sqrt(1 - abar)
        z = ddim_step(z0, eps, abar, abar_next, noise("a.step", i), rule.eta_at(i))
    return [*states, z0]
