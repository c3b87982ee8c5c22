"""Noise by key: each row of a batch has its own, the same on any device and in any batch."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
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


def philox(shape: tuple[int, ...], key: NoiseKey, purpose: Purpose, step: int, repeat: int) -> npt.NDArray[np.float32]:
    """The noise of every dataset: one Philox stream per key (xreal_synth.seeds). `[*shape]`, float32."""
    extra = (key.member, key.pass_, step, repeat)
    return seeds.normal(shape, key.seed, key.index, key.attempt, purpose, *extra)


Draw = tuple[Purpose, int, int]
"""A purpose, a step and RePaint's round: what a micro-batch asks its noise for."""


class BatchNoise:
    """Noise [B, *shape] for the rows of one micro-batch, on `device`. `asked` are the draws so far, in order."""

    def __init__(
        self, source: NoiseSource, keys: tuple[NoiseKey, ...], shape: tuple[int, ...], device: torch.device
    ) -> None:
        self._source, self._keys, self._shape, self._device = source, keys, shape, device
        self._drawn: dict[Draw, Future[Tensor]] = {}
        self.asked: list[Draw] = []

    def __call__(self, purpose: Purpose, step: int = 0, repeat: int = 0) -> Tensor:
        draw = purpose, step, repeat
        self.asked.append(draw)
        there = self._drawn.pop(draw, None)
        drawn = self._rows(draw) if there is None else there.result()
        return drawn.to(self._device, non_blocking=True)

    def begin(self, draws: Iterable[Draw], thread: Executor) -> None:
        """Has these drawn in a thread; any other is drawn when it is asked for, to the same bits."""
        self._drawn.update((draw, thread.submit(self._rows, draw)) for draw in dict.fromkeys(draws))

    def _rows(self, draw: Draw) -> Tensor:
        """On the host, where the copy to a GPU can begin without a wait."""
        rows = torch.empty(len(self._keys), *self._shape, dtype=torch.float32, pin_memory=self._device.type == "cuda")
        for row, key in zip(rows.numpy(), self._keys, strict=True):
            row[...] = self._source(self._shape, key, *draw)
        return rows


class NoiseAhead:
    """Noise of micro-batches drawn beside the model: each kind's next one will ask for what its last one did."""

    def __init__(self, source: NoiseSource, device: torch.device) -> None:
        self._source, self._device = source, device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="noise")
        self._last: dict[str, BatchNoise] = {}

    def batch(self, kind: str, keys: tuple[NoiseKey, ...], shape: tuple[int, ...]) -> BatchNoise:
        """The noise of a micro-batch that is about to be made."""
        noise = BatchNoise(self._source, keys, shape, self._device)
        if (last := self._last.get(kind)) is not None:
            noise.begin(last.asked, self._thread)
        self._last[kind] = noise
        return noise
