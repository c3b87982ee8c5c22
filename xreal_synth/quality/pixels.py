"""Faults that need no network: an image without contrast, with blank or saturated parts, or blurred."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy import ndimage

from xreal_synth.quality.checks import CheckEntry, JudgedImage, NetworkReadings, Score
from xreal_synth.types import GreyImage

BLOCK: Final = 8
"""Side of the blocks that are counted as blank, pixels."""
BLUR_WIDTH: Final = 11
"""Width of the blur that an image is compared with, pixels."""


def measure(image: JudgedImage, seen: NetworkReadings) -> dict[str, float]:
    """`range`, `blank`, `saturated` and `blur`; of an edited real image only those worse than the real image's own."""
    found = measured(image.image)
    if image.real and image.twin is not None:
        own = measured(image.twin)
        found = {name: value for name, value in found.items() if CHECK.scores[name].broken(value, own[name])}
    return found


def measured(image: GreyImage) -> dict[str, float]:
    """The four scores of an image uint8 [H, W]; blank are blocks whose pixels differ by one grey level at most."""
    low, high = np.percentile(image, [1, 99])
    height, width = (side - side % BLOCK for side in image.shape)
    blocks = image[:height, :width].reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    spread = blocks.max(axis=(1, 3)).astype(int) - blocks.min(axis=(1, 3))
    return {
        "range": float(high - low),
        "blank": float(np.mean(spread <= 1)),
        "saturated": float(np.mean((image == 0) | (image == 255))),
        "blur": blur(image),
    }


def blur(image: GreyImage) -> float:
    """How little a further blur takes away, 0 to 1, the worse of both directions.

    After Crete et al., "The blur effect" (SPIE 6492, 2007): the share of the variation between neighbours that
    is still there after a box blur. An image of one grey level has 1. The image is uint8 [H, W].
    """
    grey, kept = image.astype(np.float32), list[float]()
    for axis in (0, 1):
        blurred = ndimage.uniform_filter1d(grey, BLUR_WIDTH, axis=axis, mode="nearest")
        sharp = np.abs(np.diff(grey, axis=axis))
        lost = np.maximum(0.0, sharp - np.abs(np.diff(blurred, axis=axis)))
        total = float(sharp.sum(dtype=np.float64))
        kept.append(1.0 if total == 0 else 1.0 - float(lost.sum(dtype=np.float64)) / total)
    return max(kept)


CHECK: Final = CheckEntry(
    name="pixels", rank=0, about="Faults of the image itself; needs nothing.", measure=measure,
    scores={
        "range": Score(
            True, "grey levels between the 1st and the 99th percentile",
            "Least grey levels between the 1st and the 99th percentile.", 80, 100, (0, 255),
        ),
        "blank": Score(
            False, "share of blocks in one grey level", "Most 8x8 blocks of one grey level, share.", 0.4, 0.25
        ),
        "saturated": Score(False, "share of pixels at 0 or 255", "Most pixels at 0 or 255, share.", 0.2, 0.1),
        "blur": Score(False, "blur (0 sharp, 1 flat)", "Most blur: 0 sharp, 1 flat.", 0.7, 0.6),
    },
)  # fmt: skip
