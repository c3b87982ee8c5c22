"""Steps of the noise schedule that a network in training sees."""

from __future__ import annotations

import torch
from torch import Tensor

from xreal_synth.training.draws import BatchPart
from xreal_synth.training.images import ImageBatch


def draw_steps(
    log_snr_T: Tensor,
    batch: ImageBatch | BatchPart,
    generator: torch.Generator,
    *,
    mean: float,
    std: float,
    uniform_share: float,
) -> Tensor:
    """[B] steps: by a normal in log signal-to-noise ratio, a share of them uniform over the schedule.

    `log_snr_T` falls from step to step.
    """
    wanted = batch.normal(generator=generator) * std + mean
    nearest = torch.searchsorted(-log_snr_T, -wanted).clamp_max(len(log_snr_T) - 1)
    uniform = batch.integers(len(log_snr_T), generator=generator)
    pick = batch.uniform(generator=generator) < uniform_share
    return torch.where(pick, uniform, nearest)
