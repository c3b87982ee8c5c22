"""Small charts, outlines, regions and boxes as inline SVG: sharp at any size, in a few kB, charts in the page's own
colours, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from xreal_synth.findings import ORGANS
from xreal_synth.report.drawing import UNIT, Colour, font, marks_of
from xreal_synth.report.streamed import Histogram
from xreal_synth.types import PixelBox, Sample

WIDTH: Final = 320
HEIGHT: Final = 118
_TOP: Final = 16
_FOOT: Final = 96
_SIDE: Final = 8


_BAR: Final = Markup('<rect class="bin" x="{}" y="{}" width="{}" height="{}"/>')
_BOUND: Final = Markup(
    '<line class="bound" x1="{0}" x2="{0}" y1="4" y2="{1}"/>'
    '<text class="bound" x="{2}" y="11" text-anchor="{3}">{4}</text>'
)
_TICK: Final = Markup(
    '<line class="axis" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>'
    '<text class="axis" x="{0}" y="{3}" text-anchor="{4}">{5}</text>'
)
_CHART: Final = Markup(
    '<svg class="chart" viewBox="0 0 {0} {1}" role="img" aria-label="{2}">'
    '<line class="axis" x1="{3}" x2="{4}" y1="{5}" y2="{5}"/>{6}</svg>'
)


def histogram_svg(histogram: Histogram, label: str, lines: Sequence[tuple[float, str]] = ()) -> Markup:
    """Bars, an axis, and vertical lines (value, name): bounds or landmarks; `label` is read aloud."""
    values = [float(histogram.edges[0]), float(histogram.edges[-1]), *(value for value, _ in lines)]
    low, high = min(values), max(values)

    def x(value: float) -> float:
        return round(_SIDE + (value - low) / (high - low) * (WIDTH - 2 * _SIDE), 1)

    tallest, parts = int(histogram.counts.max()), []
    edges = [x(edge) for edge in histogram.edges.tolist()]
    for count, left, right in zip(histogram.counts.tolist(), edges, edges[1:], strict=False):
        if count:
            height = round(max(count / tallest * (_FOOT - _TOP), 1.0), 1)
            width = round(max(right - left - 0.8, 0.6), 1)
            parts.append(_BAR.format(left, round(_FOOT - height, 1), width, height))
    for value, name in lines:
        at = x(value)
        anchor, beside = ("start", 4) if at < WIDTH / 2 else ("end", -4)
        parts.append(_BOUND.format(at, _FOOT, at + beside, anchor, name))
    for tick in ticks(low, high):
        at = x(tick)
        anchor = "start" if at < 16 else "end" if at > WIDTH - 16 else "middle"
        parts.append(_TICK.format(at, _FOOT, _FOOT + 4, _FOOT + 16, anchor, number(tick)))
    return _CHART.format(WIDTH, HEIGHT, label, _SIDE, WIDTH - _SIDE, _FOOT, Markup("").join(parts))


def ticks(low: float, high: float) -> list[float]:
    """Round numbers within the range."""
    reach = (high - low) * 1e-6
    found = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(value) for value in found if low - reach <= value <= high + reach]


def number(value: float | str | None) -> str:
    """Four significant digits at most, without noise: 0.25, 12.3, 1.2e-05; words as they are, a dash for none."""
    if isinstance(value, str):
        return value
    return "-" if value is None or not math.isfinite(value) else f"{value + 0.0:.4g}"


Shares = npt.NDArray[np.bool_] | npt.NDArray[np.float64]

_TRACED: Final = 256
_EVERY: Final = 3
_TEXT: Final = 40


def marks(sample: Sample) -> Markup:
    """Outlines of the organs, and what is marked: regions that are an organ's, else boxes, with their names."""
    drawn = [organ_outlines({name: sample.anatomy == code for name, code in ORGANS.items()})]
    scale = UNIT / sample.image.shape[1]
    for mark in marks_of(sample):
        if mark.organ is not None:
            path = Markup('<path class="region" style="--c:{}" d="{}"/>')
            drawn.append(path.format(css(mark.colour), outline(mark.organ)))
        else:
            drawn += [_frame(box, scale, mark.colour) for box in mark.boxes]
        left, top = (round(value * scale) for value in mark.corner)
        drawn.append(_tag(mark.name, left, top, mark.colour))
    return Markup("").join(drawn)


def organ_outlines(organs: dict[str, Shares]) -> Markup:
    """A path per organ, of class `organ` and the organ's name, of masks as `outline` takes them."""
    return Markup("").join(
        Markup('<path class="organ {}" d="{}"/>').format(name, path)
        for name, mask in organs.items()
        if (path := outline(mask))
    )


def outline(mask: Shares) -> str:
    """The border of a mask [H, W], bool or float shares 0..1 (there of one half), as SVG path data, UNIT wide."""
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


def _frame(box: PixelBox, scale: float, colour: Colour) -> Markup:
    """A dashed rectangle on a dark rim."""
    x0, y0, x1, y1 = (round(value * scale) for value in box)
    shape = Markup('x="{}" y="{}" width="{}" height="{}"').format(x0, y0, x1 - x0, y1 - y0)
    return Markup('<rect class="rim" {0}/><rect class="box" style="--c:{1}" {0}/>').format(shape, css(colour))


def _tag(text: str, left: int, top: int, colour: Colour) -> Markup:
    """The name above a box's corner, or inside where there is no room above."""
    width = round(font(_TEXT, "-Bold").getlength(text)) + 20
    x = max(0, min(left, UNIT - width))
    y = top - _TEXT - 16
    y = y if y >= 0 else top
    return Markup(
        '<rect class="tag" x="{}" y="{}" width="{}" height="{}" rx="8" style="--c:{}"/>'
        '<text class="tag" x="{}" y="{}" textLength="{}" lengthAdjust="spacingAndGlyphs">{}</text>'
    ).format(x, y, width, _TEXT + 14, css(colour), x + 10, y + _TEXT, width - 20, text)


def css(colour: Colour) -> str:
    """A colour as a page writes it, `#rrggbb`."""
    return "#" + "".join(f"{value:02x}" for value in colour)
