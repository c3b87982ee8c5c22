"""Small charts as inline SVG whose colours are the page's own, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from xreal_synth.report.histogram import Histogram

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
