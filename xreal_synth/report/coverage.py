"""Coverage: how often boxes cover each part of an image, whatever their number."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

GRID: Final = 64


class Coverage:
    """Counts boxes on a grid of GRID x GRID cells; a box covers the cells whose centres lie in it."""

    def __init__(self) -> None:
        self.boxes = 0
        self._corners = np.zeros((GRID + 1, GRID + 1), np.int64)

    def add(self, boxes: npt.NDArray[np.float64]) -> None:
        """`boxes` float64 [n, 4], normalised xyxy."""
        x0, y0, x1, y1 = np.ceil(boxes.clip(0, 1) * GRID - 0.5).astype(np.int64).clip(0, GRID).T
        for y, x, sign in ((y0, x0, 1), (y0, x1, -1), (y1, x0, -1), (y1, x1, 1)):
            np.add.at(self._corners, (y, x), sign)
        self.boxes += len(boxes)

    @property
    def share(self) -> npt.NDArray[np.float64]:
        """float64 [GRID, GRID]: the share of the boxes that cover each cell, 0..1."""
        covered = self._corners.cumsum(axis=0).cumsum(axis=1)[:GRID, :GRID]
        return covered / max(self.boxes, 1)
