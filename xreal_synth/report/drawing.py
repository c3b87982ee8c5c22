"""A sample as a picture: its image, plain or with organ outlines and finding regions drawn on it; and images as small
pictures inside a page, JPEG data URIs within a stated number of bytes."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from xreal_synth.findings import AORTA, HEART, LEFT_LUNG, RIGHT_LUNG
from xreal_synth.types import GreyImage, Mask, PixelBox, Sample

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
UNIT: Final = 1000
"""An image is UNIT wide in the drawing; its height follows."""
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
        small = {name: reduced(picture, side) for name, picture in pictures.items()}
        embedded = [
            Embedded(name, jpeg_uri(one), round(UNIT * one.shape[0] / one.shape[1])) for name, one in small.items()
        ]
        if side == SIDES[-1] or sum(len(one.uri) for one in embedded) <= budget:
            break
    return embedded, side


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


Colour = tuple[int, int, int]

ORGAN_COLOURS: Final[dict[int, Colour]] = {
    LEFT_LUNG: (86, 204, 242),
    RIGHT_LUNG: (111, 226, 167),
    HEART: (255, 107, 117),
    AORTA: (190, 149, 255),
}
FINDING_COLOURS: Final[tuple[Colour, ...]] = (
    (255, 176, 32), (255, 99, 216), (255, 240, 90), (70, 240, 225), (255, 130, 80),
)  # fmt: skip
OWN_COLOUR: Final[Colour] = (220, 226, 232)
BLACK: Final[Colour] = (0, 0, 0)

_FINE = 3
"""Overlays are drawn this many times larger and reduced, so that thin lines are smooth."""
_AROUND: Final = ((3, 0), (2, 2), (0, 3), (-2, 2), (-3, 0), (-2, -2), (0, -3), (2, -2))
"""A circle of radius _FINE."""


@lru_cache(maxsize=16)
def font(size: int, weight: Literal["", "-Bold"] = "") -> ImageFont.FreeTypeFont:
    """DejaVu Sans at `size` pixels, from matplotlib's own files."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"DejaVuSans{weight}.ttf"), size)


def finding_colour(index: int) -> Colour:
    """The colour of the i-th finding; they repeat."""
    return FINDING_COLOURS[index % len(FINDING_COLOURS)]


def plain(sample: Sample, side: int) -> Image.Image:
    """The image alone, RGB, `side` pixels wide."""
    height, width = sample.image.shape
    size = side, max(1, round(side * height / width))
    return Image.fromarray(sample.image).resize(size, Image.Resampling.LANCZOS).convert("RGB")


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """What is marked on an image; `region` bool [H, W] that was painted, `organ` the same where it is no box."""

    name: str
    boxes: tuple[PixelBox, ...]
    colour: Colour
    region: npt.NDArray[np.bool_] | None = None
    organ: npt.NDArray[np.bool_] | None = None

    @property
    def corner(self) -> tuple[int, int]:
        """The top left one of all boxes."""
        return min(box[0] for box in self.boxes), min(box[1] for box in self.boxes)


def marks_of(sample: Sample) -> list[Mark]:
    """Grey what a real image came with, "no NAME" where it was painted over, and a sham; then the findings."""
    source = sample.meta.source
    drawn = [
        Mark(own.name if own.removed is None else f"no {own.name}", (own.box,), OWN_COLOUR)
        for own in (source.findings if source is not None else ())
    ]
    drawn += [Mark("sham", place.boxes, OWN_COLOUR) for place in sample.meta.sham]
    for number, one in enumerate(sample.meta.findings):
        region = sample.pathology == number + 1
        organ = None if one.region == "box" else region
        drawn.append(Mark(one.name, one.boxes, finding_colour(number), region, organ))
    return drawn


def annotated(sample: Sample, side: int) -> Image.Image:
    """The image with thin organ outlines, tinted finding regions, and all that is marked framed and named."""
    picture = plain(sample, side)
    _outline_organs(picture, sample.anatomy)
    marks = marks_of(sample)
    for mark in marks:
        if mark.region is not None:
            tint = Image.fromarray(mark.region.astype(np.uint8) * 255)
            _paint(picture, tint.resize(picture.size, Image.Resampling.BILINEAR), mark.colour, 0.14)
        if mark.organ is not None:
            _paint(picture, _outline(mark.organ, picture.size), mark.colour, 0.9)
    for mark in marks:
        frame(picture, mark, picture.width / sample.image.shape[1])
    return picture


def outlined(image: GreyImage, mask: Mask, side: int) -> Image.Image:
    """A square image with thin outlines of its organ mask, RGB, `side` pixels wide. Image and mask uint8 [H, W]."""
    picture = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS).convert("RGB")
    _outline_organs(picture, mask)
    return picture


def _outline_organs(picture: Image.Image, mask: Mask) -> None:
    for code, colour in ORGAN_COLOURS.items():
        _paint(picture, _outline(mask == code, picture.size), colour, 0.85)


def _outline(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """The mask's inner border, about a pixel wide, as an L image of this size."""
    width, height = size[0] * _FINE, size[1] * _FINE
    large = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BICUBIC)
    smooth = large.filter(ImageFilter.GaussianBlur(0.7 * width / mask.shape[1]))
    whole = np.asarray(smooth.point([0] * 128 + [255] * 128))
    padded, inner = np.pad(whole, _FINE), whole.copy()
    for dx, dy in _AROUND:
        y, x = _FINE + dy, _FINE + dx
        np.minimum(inner, padded[y : y + height, x : x + width], out=inner)
    return Image.fromarray(whole - inner).resize(size, Image.Resampling.BOX)


def _paint(picture: Image.Image, mask: Image.Image, colour: Colour, opacity: float) -> None:
    picture.paste(Image.new("RGB", picture.size, colour), mask=mask.point(lambda value: value * opacity))


def frame(picture: Image.Image, mark: Mark, scale: float) -> None:
    """Draws dashed boxes with a dark rim, to show on bright and dark images alike, and their name above them, or inside
    where there is no room above."""
    draw, face = ImageDraw.Draw(picture), font(11, "-Bold")
    for box in mark.boxes:
        x0, y0, x1, y1 = (round(value * scale) for value in box)
        corners = [(x0, y0), (x1 - 1, y0), (x1 - 1, y1 - 1), (x0, y1 - 1), (x0, y0)]
        for fill, rim in ((BLACK, 4), (mark.colour, 2)):
            for dash in (dash for side in pairwise(corners) for dash in _dashes(*side)):
                draw.line(dash, fill=fill, width=rim)
    left, top = (round(value * scale) for value in mark.corner)
    width, height = int(draw.textlength(mark.name, font=face)) + 8, 16
    x = max(0, min(left, picture.width - width))
    y = top - height if top >= height else top
    draw.rounded_rectangle((x, y, x + width - 1, y + height - 1), radius=3, fill=mark.colour)
    draw.text((x + 4, y + height / 2), mark.name, font=face, fill=BLACK, anchor="lm")


def _dashes(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[float, float, float, float]]:
    """A line cut into dashes of 8 pixels, 4 apart."""
    length = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    dx, dy = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    return [
        (start[0] + dx * a, start[1] + dy * a, start[0] + dx * b, start[1] + dy * b)
        for a, b in ((at, min(at + 8, length)) for at in range(0, length + 1, 12))
    ]
