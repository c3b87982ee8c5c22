"""Which steps of the noise schedule a network in training sees."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_steps(
    log_snr_T: Tensor, size: int, generator: torch.Generator, *, mean: float, std: float, uniform_share: float
) -> Tensor:
    """[size] steps: by a normal in log signal-to-noise ratio, a share of them uniform over the schedule.

    `log_snr_T` falls from step to step.
    """
    wanted = torch.randn(size, generator=generator) * std + mean
    nearest = torch.searchsorted(-log_snr_T, -wanted).clamp_max(len(log_snr_T) - 1)
    uniform = torch.randint(len(log_snr_T), (size,), generator=generator)
    pick = torch.rand(size, generator=generator) < uniform_share
    return torch.where(pick, uniform, nearest)
