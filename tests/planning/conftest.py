"""An anatomy source for tests of the plan: lungs, heart and aorta as ellipses of drawn places and sizes."""

from __future__ import annotations

import numpy as np
import pytest

from xreal_synth.findings import AORTA, HEART, LEFT_LUNG, RIGHT_LUNG
from xreal_synth.types import Mask


class EllipseSource:
    """Seeded elliptical organs; `heart` scales the heart's width, `calls` counts draws."""

    source_name = "bank"

    def __init__(self, heart: float = 1.0) -> None:
        self.heart = heart
        self.calls = 0

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Mask, str]:
        self.calls += 1
        y, x = np.mgrid[0:size, 0:size] / size
        dx, dy, stretch = (*rng.uniform(-0.02, 0.02, 2).tolist(), rng.uniform(0.95, 1.05))
        mask = np.zeros((size, size), dtype=np.uint8)

        def paint(code: int, cx: float, cy: float, rx: float, ry: float) -> None:
            mask[((x - cx - dx) / rx) ** 2 + ((y - cy - dy) / (ry * stretch)) ** 2 <= 1] = code

        paint(RIGHT_LUNG, 0.28, 0.5, 0.15, 0.34)
        paint(LEFT_LUNG, 0.72, 0.5, 0.15, 0.34)
        paint(HEART, 0.54, 0.66, 0.12 * self.heart, 0.13)
        paint(AORTA, 0.52, 0.38, 0.04, 0.12)
        return mask, "ellipses"


@pytest.fixture
def ellipses() -> EllipseSource:
    return EllipseSource()


@pytest.fixture
def large_hearts() -> EllipseSource:
    return EllipseSource(heart=2.4)
