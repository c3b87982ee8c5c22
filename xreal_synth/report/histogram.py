"""Counts that grow batch by batch: histograms, how often boxes cover each part of an image, and the highest and lowest
values with the images they belong to."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

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
