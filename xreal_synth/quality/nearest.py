"""Thumbnails of images and the nearest of many: what copies are found by, in the gate and in the evaluation."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from xreal_synth.types import GreyImage

THUMB: Final = 64
PERCENTILE: Final = 0.1
"""Of the distances between training images and their nearest neighbour of another patient: below it is a copy."""

Vectors = npt.NDArray[np.float32]


def thumbnail(image: GreyImage) -> Vectors:
    """An image as 64x64 grey levels without their mean [4096]; distances between two are per-pixel RMS * 64."""
    grey = reduced(image).astype(np.float32)
    return np.asarray(grey - grey.mean())


def reduced(image: GreyImage) -> npt.NDArray[np.uint8]:
    """An image as 64x64 grey levels [4096]."""
    return np.asarray(Image.fromarray(image).resize((THUMB, THUMB), Image.Resampling.BOX)).ravel()
