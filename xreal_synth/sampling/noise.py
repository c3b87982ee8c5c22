"""Noise by key: each row of a batch has its own, the same on any device and in any batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xreal_synth import seeds
from xreal_synth.seeds import Purpose


@dataclass(frozen=True, slots=True)
class NoiseKey:
    """The key of a row's noise: the group's attempt and, in stage B, the member and the pass (in stage A "" and 0)."""

    seed: int
    index: int
    attempt: int
    member: str = ""
    pass_: int = 0


class NoiseSource(Protocol):
    """The source of the sampler's noise: by key, so that no row depends on its neighbours."""

    def __call__(
        self, shape: tuple[int, ...], key: NoiseKey, purpose: Purpose, step: int, repeat: int
    ) -> npt.NDArray[np.float32]:
        """Standard normal noise of `shape` for a row at a step; `repeat` counts RePaint's rounds."""
        ...


def philox(
    shape: tuple[int, ...], key: NoiseKey, purpose: Purpose, step: int, repeat: int
) -> npt.NDArray[np.float32]:
    """The noise of every dataset: one Philox stream per key (xreal_synth.seeds). `[*shape]`, float32."""
    extra = (key.member, key.pass_, step, repeat)
    return seeds.normal(shape, key.seed, key.index, key.attempt, purpose, *extra)


@dataclass(frozen=True, slots=True)
class BatchNoise:
    """Noise [B, *shape] for the rows of one micro-batch."""

    source: NoiseSource
    keys: tuple[NoiseKey, ...]
    shape: tuple[int, ...]
    device: torch.device

    def __call__(self, purpose: Purpose, step: int = 0, repeat: int = 0) -> Tensor:
        rows = [self.source(self.shape, key, purpose, step, repeat) for key in self.keys]
        return torch.from_numpy(np.stack(rows)).to(self.device)
