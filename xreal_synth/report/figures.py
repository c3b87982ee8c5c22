"""Counts that grow batch by batch (histograms, how often boxes cover each part of an image, highest and lowest
values), and small charts, outlines, regions and boxes as inline SVG: sharp at any size, in a few kB, charts in
the page's own colours, so that they follow light and dark."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from xreal_synth.findings import ORGANS
from xreal_synth.report.drawing import OWN_COLOUR, UNIT, Colour, finding_colour, font
from xreal_synth.types import PixelBox, PlacedFinding, Sample

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


Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Counts int64 [n] between `edges` float64 [n + 1]; values beyond the edges are in the outer bins.

    `mean`, `low` and `high` are those of the values themselves, `count` how many there were.
    """

    edges: Values
    counts: npt.NDArray[np.int64]
    count: int
    mean: float
    low: float
    high: float


class Counting:
    """Counts values into a histogram of fixed edges; null and NaN are passed over."""

    def __init__(self, low: float, high: float, bins: int) -> None:
        assert low < high
        self._edges = np.linspace(low, high, bins + 1)
        self._counts = np.zeros(bins, np.int64)
        self._sum = 0.0
        self._low, self._high = float("inf"), float("-inf")

    def add(self, values: Values) -> None:
        """Adds values [n]; NaN and infinity are left out, what is beyond the edges counts in the last bins."""
        values = values[np.isfinite(values)]
        if not len(values):
            return
        self._counts += np.histogram(values.clip(self._edges[0], self._edges[-1]), self._edges)[0]
        self._sum += float(values.sum())
        self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))

    @property
    def histogram(self) -> Histogram | None:
        """None where there was no value."""
        count = int(self._counts.sum())
        if not count:
            return None
        return Histogram(self._edges, self._counts, count, self._sum / count, self._low, self._high)


@dataclass(frozen=True, slots=True, order=True)
class Extreme:
    """An image at one end of a score."""

    value: float
    key: str
    shard: int


class Ends:
    """Keeps the `most` lowest and highest values, ties by key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.lowest: list[Extreme] = []
        self.highest: list[Extreme] = []

    def add(self, values: Values, keys: Any, shards: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """`values` float64 [n] with NaN where there is none; `keys` a pyarrow array of names."""
        known = np.flatnonzero(np.isfinite(values))
        if not len(known):
            return
        order = known[np.argsort(values[known], kind="stable")]
        for end, places in (("lowest", order[: self._most]), ("highest", order[-self._most :])):
            limit = values[places[-1] if end == "lowest" else places[0]]
            beyond = values[known] <= limit if end == "lowest" else values[known] >= limit
            tied = known[beyond][: 64 * self._most]
            found = [Extreme(float(values[i]), str(keys[int(i)]), int(shards[int(i)])) for i in tied]
            kept = [*getattr(self, end), *found]
            pick = heapq.nsmallest if end == "lowest" else _largest
            setattr(self, end, pick(self._most, kept))


def _largest(most: int, extremes: list[Extreme]) -> list[Extreme]:
    return heapq.nsmallest(most, extremes, key=lambda one: (-one.value, one.key))


WIDTH: Final = 320
HEIGHT: Final = 118
_TOP: Final = 16
_FOOT: Final = 96
_SIDE: Final = 8


@dataclass(frozen=True, slots=True)
class Line:
    """A vertical line in a histogram, with its name: a bound or a landmark."""

    value: float
    name: str


def histogram_svg(histogram: Histogram, label: str, lines: Sequence[Line] = ()) -> Markup:
    """Bars, a rule at the mean, the given lines and an axis; `label` is read aloud."""
    low, high = _span(histogram, lines)

    def x(value: float) -> float:
        return round(_SIDE + (value - low) / (high - low) * (WIDTH - 2 * _SIDE), 1)

    tallest = int(histogram.counts.max())
    parts = []
    for count, left, right in zip(
        histogram.counts.tolist(), histogram.edges[:-1], histogram.edges[1:], strict=True
    ):
        if count:
            height = round(max(count / tallest * (_FOOT - _TOP), 1.0), 1)
            width = round(max(x(right) - x(left) - 0.8, 0.6), 1)
            parts.append(
                Markup('<rect class="bin" x="{}" y="{}" width="{}" height="{}"/>').format(
                    x(left), round(_FOOT - height, 1), width, height
                )
            )
    for line in lines:
        at = x(line.value)
        anchor = "start" if at < WIDTH / 2 else "end"
        parts.append(
            Markup(
                '<line class="bound" x1="{0}" x2="{0}" y1="4" y2="{1}"/>'
                '<text class="bound" x="{2}" y="11" text-anchor="{3}">{4}</text>'
            ).format(at, _FOOT, at + (4 if anchor == "start" else -4), anchor, line.name)
        )
    for tick in ticks(low, high):
        anchor = "start" if x(tick) < 16 else "end" if x(tick) > WIDTH - 16 else "middle"
        parts.append(
            Markup(
                '<line class="axis" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>'
                '<text class="axis" x="{0}" y="{3}" text-anchor="{4}">{5}</text>'
            ).format(x(tick), _FOOT, _FOOT + 4, _FOOT + 16, anchor, number(tick))
        )
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>{}</svg>'
    ).format(WIDTH, HEIGHT, label, _SIDE, WIDTH - _SIDE, _FOOT, _FOOT, Markup("").join(parts))


def ticks(low: float, high: float) -> list[float]:
    """Round numbers within the range."""
    reach = (high - low) * 1e-6
    found = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(value) for value in found if low - reach <= value <= high + reach]


def number(value: float) -> str:
    """Four significant digits at most, without noise: 0.25, 12.3, 1.2e-05."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "-"
    return f"{value:.4g}"


def _span(histogram: Histogram, lines: Sequence[Line]) -> tuple[float, float]:
    """The bins' range, wider where a line lies outside."""
    values = [float(histogram.edges[0]), float(histogram.edges[-1]), *(line.value for line in lines)]
    return min(values), max(values)


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
