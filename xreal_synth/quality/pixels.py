"""Faults that need no network: an image without contrast, with blank or saturated parts, or blurred."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from xreal_synth.quality.checks import JudgedImage, NetworkReadings, bounds_of
from xreal_synth.types import GreyImage

NAME: Final = "pixels"
BLOCK: Final = 8
"""Side of the blocks that are counted as blank, pixels."""
BLUR_WIDTH: Final = 11
"""Width of the blur that an image is compared with, pixels."""
WORDS: Final = {
    "range": (True, "grey levels between the 1st and the 99th percentile"),
    "blank": (False, "share of blocks in one grey level"),
    "saturated": (False, "share of pixels at 0 or 255"),
    "blur": (False, "blur (0 sharp, 1 flat)"),
}


class PixelsCheck:
    """Of an edited real image a score counts only where it is worse than the real image's own."""

    name = NAME

    def __init__(self, bounds: Mapping[str, float]) -> None:
        self.bounds = bounds_of(bounds, WORDS)

    def scores(self, image: JudgedImage, seen: NetworkReadings) -> dict[str, float]:
        found = measured(image.image)
        if image.real and image.twin is not None:
            own = measured(image.twin)
            found = {name: value for name, value in found.items() if self._worse(name, value, own[name])}
        return found

    def _worse(self, name: str, value: float, own: float) -> bool:
        return value < own if self.bounds[name].least else value > own


def measured(image: GreyImage) -> dict[str, float]:
    """The four scores of an image uint8 [H, W]."""
    low, high = np.percentile(image, [1, 99])
    return {
        "range": float(high - low),
        "blank": blank_share(image),
        "saturated": float(np.mean((image == 0) | (image == 255))),
        "blur": blur(image),
    }


def blank_share(image: GreyImage) -> float:
    """Share of the BLOCK x BLOCK blocks whose pixels differ by one grey level at most."""
    height, width = (side - side % BLOCK for side in image.shape)
    blocks = image[:height, :width].reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    spread = blocks.max(axis=(1, 3)).astype(int) - blocks.min(axis=(1, 3))
    return float(np.mean(spread <= 1))


def blur(image: GreyImage) -> float:
    """How little a further blur takes away, 0 to 1, the worse of both directions.

    After Crete et al., "The blur effect" (SPIE 6492, 2007): the share of the variation between neighbours that
    is still there after a box blur. An image of one grey level has 1.
    """
    grey = image.astype(np.float32)
    return max(_kept_variation(grey, axis) for axis in (0, 1))


def _kept_variation(grey: npt.NDArray[np.float32], axis: int) -> float:
    blurred = ndimage.uniform_filter1d(grey, BLUR_WIDTH, axis=axis, mode="nearest")
    sharp = np.abs(np.diff(grey, axis=axis))
    lost = np.maximum(0.0, sharp - np.abs(np.diff(blurred, axis=axis)))
    total = float(sharp.sum(dtype=np.float64))
    return 1.0 if total == 0 else 1.0 - float(lost.sum(dtype=np.float64)) / total
