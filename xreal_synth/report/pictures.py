"""Images as small pictures inside a page: JPEG data URIs within a stated number of bytes."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Final

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image

from xreal_synth.report.svg import UNIT
from xreal_synth.types import GreyImage

Picture = npt.NDArray[np.uint8]
"""uint8 [H, W] grey or [H, W, 3] RGB."""

SIDES: Final = (320, 256, 192, 128, 96)
"""Widths that images are reduced to: the largest at which all pictures fit into the budget."""
QUALITY: Final = 86
BUDGET: Final = 5_500_000
"""Bytes of all pictures together, as base64."""
FULL_CHANGE: Final = 48
"""Grey levels of change that are drawn in full colour."""
BRIGHTER: Final = np.array([255, 158, 44], np.float32)
DARKER: Final = np.array([64, 156, 255], np.float32)
CHANGED: Final = np.array([240, 226, 130], np.float32)
_DIMMED: Final = 0.4


def reduced(image: Picture, side: int) -> Picture:
    """The picture `side` pixels wide; a smaller one stays as it is."""
    height, width = image.shape[:2]
    if width <= side:
        return image
    size = (side, max(1, round(side * height / width)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def jpeg_uri(picture: Picture) -> str:
    """`data:image/jpeg;base64,..`; the same text for the same pixels and Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True, slots=True)
class Embedded:
    """A picture in a page, drawn UNIT wide and `height` high."""

    name: str
    uri: str
    height: int


def within_budget(pictures: dict[str, Picture], budget: int = BUDGET) -> tuple[list[Embedded], int]:
    """All pictures at the largest of SIDES at which they fit, and that width."""
    for side in SIDES:
        embedded = [_embedded(name, reduced(picture, side)) for name, picture in pictures.items()]
        if side == SIDES[-1] or sum(len(one.uri) for one in embedded) <= budget:
            break
    return embedded, side


def _embedded(name: str, picture: Picture) -> Embedded:
    height, width = picture.shape[:2]
    return Embedded(name, jpeg_uri(picture), round(UNIT * height / width))


def change_picture(image: GreyImage, change: GreyImage, twin: GreyImage | None) -> Picture:
    """RGB: the image, dimmed, with what became brighter than the twin in orange and what became darker in blue.

    `change` is |image - twin|; without the twin all that changed is in the colour CHANGED. Both images uint8 [H, W].
    """
    strength = (change.astype(np.float32) / FULL_CHANGE).clip(0, 1)[..., None]
    brighter = CHANGED if twin is None else np.where((image > twin)[..., None], BRIGHTER, DARKER)
    colour = np.broadcast_to(brighter, (*image.shape, 3))
    base = np.repeat(image.astype(np.float32)[..., None] * _DIMMED, 3, axis=2)
    return np.asarray(base * (1 - strength) + colour * strength).round().astype(np.uint8)


def heat_picture(mean_image: GreyImage, share: npt.NDArray[np.float64]) -> Picture:
    """RGB: the mean image with the share of boxes [n, n] (0..1) over it, the brightest at its own maximum."""
    height, width = mean_image.shape
    strength = share / max(float(share.max()), 1e-9)
    image = Image.fromarray(strength.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    smooth = np.asarray(image).clip(0, 1)
    colour = matplotlib.colormaps["inferno"](0.25 + 0.7 * smooth)[..., :3] * 255
    alpha = (0.85 * smooth**0.6)[..., None]
    base = np.repeat(mean_image.astype(np.float64)[..., None], 3, axis=2)
    return np.asarray(base * (1 - alpha) + colour * alpha).round().clip(0, 255).astype(np.uint8)
