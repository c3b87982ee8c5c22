"""Organ outlines, finding regions and boxes as SVG, to lie over an image: sharp at any size, in a few kB."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from xreal_synth.findings import ORGANS
from xreal_synth.report.overlay import OWN_COLOUR, Colour, finding_colour, font
from xreal_synth.types import PixelBox, PlacedFinding, Sample

UNIT: Final = 1000
"""An image is UNIT wide in the drawing; its height follows."""
_TRACED: Final = 256
_EVERY: Final = 3
_TEXT: Final = 40


def view_box(shape: tuple[int, int]) -> str:
    """The viewBox of an image of this (height, width)."""
    return f"0 0 {UNIT} {round(UNIT * shape[0] / shape[1])}"


def marks(sample: Sample) -> Markup:
    """Outlines of the organs, regions, boxes and names of the findings; grey what a real image came with,
    and where a sham was painted."""
    drawn = [organ_outlines({name: sample.anatomy == code for name, code in ORGANS.items()})]
    scale = UNIT / sample.image.shape[1]
    for own in sample.meta.source.findings if sample.meta.source is not None else ():
        name = own.name if own.removed is None else f"no {own.name}"
        drawn += [_frame(own.box, scale, OWN_COLOUR), _tag(name, own.box, scale, OWN_COLOUR)]
    for place in sample.meta.sham:
        drawn += [_frame(box, scale, OWN_COLOUR) for box in place.boxes]
        drawn.append(_tag("sham", place.box_xyxy, scale, OWN_COLOUR))
    for index, finding in enumerate(sample.meta.findings):
        drawn += _finding(finding, sample.pathology == index + 1, scale, finding_colour(index))
    return Markup("").join(drawn)


def organ_outlines(organs: dict[str, npt.NDArray[np.bool_] | npt.NDArray[np.float64]]) -> Markup:
    """A path per organ, of class `organ` and the organ's name; masks bool, or float with shares 0..1.

    Masks are [H, W].
    """
    return Markup("").join(
        Markup('<path class="organ {}" d="{}"/>').format(name, path)
        for name, mask in organs.items()
        if (path := outline(mask))
    )


def outline(mask: npt.NDArray[np.bool_] | npt.NDArray[np.float64]) -> str:
    """The border of a mask [H, W] (where shares: of one half) as SVG path data, UNIT wide."""
    from contourpy import contour_generator
    from scipy.ndimage import gaussian_filter

    step = max(1, mask.shape[1] // _TRACED)
    small = np.pad(mask[step // 2 :: step, step // 2 :: step].astype(np.float64), 2)
    smooth = gaussian_filter(small, 1.0 if mask.shape[1] >= 128 else 0.5)
    across = UNIT * step / mask.shape[1]
    parts = []
    for line in contour_generator(z=smooth).lines(0.5):
        corners = np.asarray(line, dtype=np.float64)[:: _EVERY if len(line) > 24 else 1]
        points = np.rint((corners - 1.5) * across).astype(int).clip(0)
        moves = " ".join(f"{x} {y}" for x, y in points.tolist())
        parts.append(f"M{moves}Z")
    return "".join(parts)


def _finding(
    finding: PlacedFinding, region: npt.NDArray[np.bool_], scale: float, colour: Colour
) -> list[Markup]:
    drawn = []
    if finding.region != "box":
        drawn.append(
            Markup('<path class="region" style="--c:{}" d="{}"/>').format(css(colour), outline(region))
        )
    else:
        drawn += [_frame(box, scale, colour) for box in finding.boxes]
    return [*drawn, _tag(finding.name, finding.box_xyxy, scale, colour)]


def _frame(box: PixelBox, scale: float, colour: Colour) -> Markup:
    """A dashed rectangle on a dark rim."""
    x0, y0, x1, y1 = (round(value * scale) for value in box)
    shape = Markup('x="{}" y="{}" width="{}" height="{}"').format(x0, y0, x1 - x0, y1 - y0)
    return Markup('<rect class="rim" {0}/><rect class="box" style="--c:{1}" {0}/>').format(shape, css(colour))


def _tag(text: str, box: PixelBox, scale: float, colour: Colour) -> Markup:
    """The name above its box, or inside where there is no room above."""
    width = round(font(_TEXT, "-Bold").getlength(text)) + 20
    x = max(0, min(round(box[0] * scale), UNIT - width))
    y = round(box[1] * scale) - _TEXT - 16
    y = y if y >= 0 else round(box[1] * scale)
    return Markup(
        '<rect class="tag" x="{}" y="{}" width="{}" height="{}" rx="8" style="--c:{}"/>'
        '<text class="tag" x="{}" y="{}" textLength="{}" lengthAdjust="spacingAndGlyphs">{}</text>'
    ).format(x, y, width, _TEXT + 14, css(colour), x + 10, y + _TEXT, width - 20, text)


def css(colour: Colour) -> str:
    """A colour as a page writes it, `#rrggbb`."""
    return "#" + "".join(f"{value:02x}" for value in colour)
