"""Noise that another implementation drew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xreal_synth.sampling.noise import NoiseKey
from xreal_synth.seeds import Purpose


class RecordedNoise:
    """Replays draws in the order in which they were recorded, checking that each is of the expected kind.

    For one row at a time: a batch would interleave the rows' draws.
    """

    def __init__(self, draws: Sequence[npt.NDArray[np.float32]], purposes: Sequence[str]) -> None:
        self._draws = list(zip(draws, purposes, strict=True))
        self._at = 0

    def __call__(
        self, shape: tuple[int, ...], key: NoiseKey, purpose: Purpose, step: int, repeat: int
    ) -> npt.NDArray[np.float32]:
        if self._at == len(self._draws):
            raise ValueError(f"no recorded noise left for {purpose} of step {step}")
        draw, recorded = self._draws[self._at]
        if recorded != purpose.split(".")[1] or draw.shape != shape:
            raise ValueError(f"recorded {recorded} {draw.shape} where {purpose} {shape} of step {step} is drawn")
        self._at += 1
        return draw

    @property
    def left(self) -> int:
        """Draws not used yet."""
        return len(self._draws) - self._at
