"""Random streams keyed by (seed, index, attempt, purpose): adding a draw never moves another.

Draws come from numpy's Philox counter generator on the CPU, so the same key gives the same bits on any
device, in any order and in any process.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
import numpy.typing as npt

Purpose = Literal[
    "rows", "split", "findings", "anatomy", "boxes", "films", "shams", "negatives",
    "a.x_T", "a.posterior", "a.detail", "a.hold", "a.step", "a.resample",
    "u.x_T", "b.x_T", "b.posterior", "b.hold", "b.step", "b.resample", "film.grain",
]  # fmt: skip


def stream(seed: int, index: int, attempt: int, purpose: Purpose, *extra: int | str) -> np.random.Generator:
    """A generator of its own for this key.

    `extra` tells apart uses within a purpose: the member, the pass, the sampling step.
    """
    text = "\x1f".join(["xreal-synth/1", str(seed), str(index), str(attempt), purpose, *map(str, extra)])
    key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key))


def normal(
    shape: tuple[int, ...], seed: int, index: int, attempt: int, purpose: Purpose, *extra: int | str
) -> npt.NDArray[np.float32]:
    """Standard normal float32 noise of `shape` for this key. `[*shape]`, the same bits on any machine."""
    return stream(seed, index, attempt, purpose, *extra).standard_normal(shape, dtype=np.float32)
