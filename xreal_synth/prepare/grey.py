"""Any image as 8-bit grey levels, and as the square that networks are trained on."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xreal_synth.anatomy.label_map import resize_mask
from xreal_synth.images.files import DEEP, decode_image, upright
from xreal_synth.images.manifest import BadImage, ImageBox, RowFault
from xreal_synth.opening import UnreadableError, open_image
from xreal_synth.types import GreyImage, Mask

Fit = Literal["crop", "pad"]
PERCENTILES = (0.5, 99.5)
LOOK = 16
"""Side of the small picture by which images are compared."""
_PHOTOMETRIC = 262
"""TIFF's tag: 0 where white is zero, which Pillow minds for 8 bits alone."""


def scaled(levels: NDArray[np.float64], percentiles: tuple[float, float] = PERCENTILES) -> NDArray[np.uint8]:
    """Levels of any depth, of any shape -> uint8, from one percentile to the other; raises BadImage for one colour."""
    low, high = np.percentile(levels, percentiles)
    if not (np.isfinite(low) and np.isfinite(high)) or high <= low:
        raise BadImage(RowFault.ONE_COLOUR, "image has only one colour")
    return np.asarray(np.clip((levels - low) / (high - low) * 255 + 0.5, 0, 255), np.uint8)


def decode_picture(data: bytes) -> GreyImage:
    """A PNG, JPEG or TIFF of 8 or 16 bits -> uint8 [H, W]; deeper than 8 bits by percentiles. Raises BadImage."""
    try:
        with open_image(data) as image:
            if image.mode not in DEEP:
                return decode_image(data)
            levels = np.asarray(upright(image), np.float64)
            inverse = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    except UnreadableError as error:
        raise BadImage(RowFault.UNREADABLE, str(error)) from error
    if strange := int((~np.isfinite(levels)).sum()):
        raise BadImage(RowFault.BAD_VALUE, f"{strange} pixels are not numbers")
    return 255 - scaled(levels) if inverse else scaled(levels)


def look_of(image: GreyImage) -> str:
    """An image uint8 [S, S] as a small picture, 16 x 16 grey levels, in base64."""
    small = Image.fromarray(image).resize((LOOK, LOOK), Image.Resampling.BOX)
    return base64.b64encode(small.tobytes()).decode()


@dataclass(frozen=True, slots=True)
class Square:
    """The square of `side` source pixels that is shown, its corner at (x, y); it reaches beyond a padded image."""

    x: int
    y: int
    side: int

    @classmethod
    def of(cls, width: int, height: int, fit: Fit) -> Square:
        """Centred: the largest inside the image (crop), or the smallest round it (pad)."""
        side = min(width, height) if fit == "crop" else max(width, height)
        return cls((width - side) // 2, (height - side) // 2, side)

    def image(self, image: GreyImage, size: int) -> GreyImage:
        """The image in this square, uint8 [size, size]; black beyond the image."""
        return np.asarray(Image.fromarray(self._cut(image)).resize((size, size), Image.Resampling.LANCZOS))

    def mask(self, mask: Mask, size: int) -> Mask:
        """A mask of the image's size in this square, uint8 [size, size]."""
        return resize_mask(self._cut(mask), size)

    def boxes(self, boxes: tuple[ImageBox, ...], width: int, height: int) -> tuple[ImageBox, ...]:
        """Boxes normalised to the image -> normalised to the square; what lies outside is cut off or left out."""
        found = []
        for boxed in boxes:
            scale, shift = (width, height, width, height), (self.x, self.y, self.x, self.y)
            x0, y0, x1, y1 = (
                min(1.0, max(0.0, (value * by - less) / self.side))
                for value, by, less in zip(boxed.box, scale, shift, strict=True)
            )
            if x1 > x0 and y1 > y0:
                found.append(ImageBox(boxed.name, (x0, y0, x1, y1)))
        return tuple(found)

    def _cut(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = pixels.shape
        inner = pixels[max(0, self.y) : self.y + self.side, max(0, self.x) : self.x + self.side]
        if self.x >= 0 and self.y >= 0:
            return np.ascontiguousarray(inner)
        whole = np.zeros((self.side, self.side), np.uint8)
        whole[-self.y if self.y < 0 else 0 :, -self.x if self.x < 0 else 0 :][:height, :width] = inner
        return whole
