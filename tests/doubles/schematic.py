"""A schematic chest of ellipses: a valid organ mask without any data, for tests, demos and examples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xreal_synth.findings import AORTA, HEART, LEFT_LUNG, RIGHT_LUNG
from xreal_synth.types import Mask

# code, centre x, centre y, half width, half height: shares of the side; painted in this order
_ORGANS: tuple[tuple[int, float, float, float, float], ...] = (
    (RIGHT_LUNG, 0.30, 0.45, 0.16, 0.30),
    (LEFT_LUNG, 0.70, 0.45, 0.16, 0.30),
    (HEART, 0.54, 0.60, 0.14, 0.14),
    (AORTA, 0.55, 0.32, 0.035, 0.05),
)


def schematic_mask(size: int, rng: np.random.Generator | None = None, *, vary: float = 0.04) -> Mask:
    """A valid organ mask uint8 [size, size]; with `rng` every ellipse is varied by about `vary`."""
    mask = np.zeros((size, size), dtype=np.uint8)
    centres = (np.arange(size) + 0.5) / size
    for code, *numbers in _ORGANS:
        x, y, w, h = _varied(numbers, rng, vary)
        inside = ((centres[None, :] - x) / w) ** 2 + ((centres[:, None] - y) / h) ** 2 < 1.0
        mask[inside] = code
    return mask


def _varied(numbers: list[float], rng: np.random.Generator | None, vary: float) -> npt.NDArray[np.float64]:
    values = np.array(numbers)
    if rng is None:
        return values
    change = rng.uniform(-1.0, 1.0, 4) * vary
    return np.concatenate([values[:2] + change[:2] / 2, values[2:] * (1.0 + 2 * change[2:])])
