"""Figures of a report over all images and refusals: counted from samples.parquet and rejected.parquet, batch by batch.

Memory holds one batch of some columns, whatever the dataset's size.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from xreal_synth.dataset.table import FLAGS, QUALITY
from xreal_synth.findings import REGIONS
from xreal_synth.opening import open_parquet
from xreal_synth.report.picks import Pick, Picker
from xreal_synth.report.words import worst_end

BATCH: Final = 16_384
GRID: Final = 64
SIZE_BINS: Final = (0.0, 1.0, 25)
RATIO_BINS: Final = (0.3, 0.7, 40)
SCORE_BINS: Final = 30
WORST: Final = 4
FAMILIES: Final = ("finding", "organs", "change", "seam", "copies", "pixels")
"""Families of scores in the order in which they are shown; others follow by name."""
COLUMNS: Final = ("key", "group", "member", "shard", "row", "height", "width", "findings", "ctr")

Values = npt.NDArray[np.float64]


class Coverage:
    """Counts boxes on a grid of GRID x GRID cells; a box covers the cells whose centres lie in it."""

    def __init__(self) -> None:
        self.boxes = 0
        self._corners = np.zeros((GRID + 1, GRID + 1), np.int64)

    def add(self, boxes: Values) -> None:
        """`boxes` float64 [n, 4], normalised xyxy."""
        x0, y0, x1, y1 = np.ceil(boxes.clip(0, 1) * GRID - 0.5).astype(np.int64).clip(0, GRID).T
        for y, x, sign in ((y0, x0, 1), (y0, x1, -1), (y1, x0, -1), (y1, x1, 1)):
            np.add.at(self._corners, (y, x), sign)
        self.boxes += len(boxes)

    @property
    def share(self) -> Values:
        """float64 [GRID, GRID]: the share of the boxes that cover each cell, 0..1."""
        covered = self._corners.cumsum(axis=0).cumsum(axis=1)[:GRID, :GRID]
        return covered / max(self.boxes, 1)


class Histogram:
    """Counts int64 [n] of values between `edges` float64 [n + 1]; those beyond the edges are in the outer bins.

    `low` and `high` are the least and the greatest value, `count` how many there were.
    """

    def __init__(self, low: float, high: float, bins: int) -> None:
        self.edges = np.linspace(low, high, bins + 1)
        self.counts = np.zeros(bins, np.int64)
        self.count, self._sum = 0, 0.0
        self.low, self.high = float("inf"), float("-inf")

    def add(self, values: Values) -> None:
        """Adds values [n]; NaN and infinity are left out."""
        values = values[np.isfinite(values)]
        if len(values):
            self.counts += np.histogram(values.clip(self.edges[0], self.edges[-1]), self.edges)[0]
            self.count += len(values)
            self._sum += float(values.sum())
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    @property
    def mean(self) -> float:
        """Of the values themselves; NaN where there was none."""
        return self._sum / self.count if self.count else float("nan")


@dataclass(frozen=True, slots=True)
class Extreme:
    """An image at one end of a score."""

    value: float
    key: str
    shard: int


class Worst:
    """Keeps the images of the `most` lowest values, or highest, ties in the order in which they came."""

    def __init__(self, most: int, *, lowest: bool) -> None:
        self._most, self._sign = most, 1 if lowest else -1
        self.images: list[Extreme] = []

    def add(self, values: Values, keys: Any, shards: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """`values` float64 [n] with NaN where there is none; `keys` a pyarrow array of names."""
        known = np.flatnonzero(np.isfinite(values))
        first = known[np.argsort(self._sign * values[known], kind="stable")][: self._most]
        found = [Extreme(float(values[i]), str(keys[int(i)]), int(shards[int(i)])) for i in first]
        ranked = sorted([*self.images, *found], key=lambda one: self._sign * one.value)
        self.images = ranked[: self._most]


class PaintedFinding:
    """A finding wherever it was painted: the images that show it, its boxes, its area over that lung's area."""

    def __init__(self, name: str, region: str) -> None:
        self.name, self.region = name, region
        self.images = 0
        self.coverage = Coverage()
        self.sizes = Histogram(*SIZE_BINS)
        self.on_sides: Counter[str] = Counter()
        self.in_zones: Counter[str] = Counter()

    @property
    def share(self) -> Values | None:
        """How often its boxes cover a place, float64 [GRID, GRID]; None where it takes in a whole organ."""
        return self.coverage.share if REGIONS[self.region].drawn and self.coverage.boxes else None

    @property
    def sides(self) -> dict[str, int]:
        """How often it was on each side."""
        return _ordered(self.on_sides, ("right", "both", "left"))

    @property
    def zones(self) -> dict[str, int]:
        """How often it was in each zone."""
        return _ordered(self.in_zones, ("upper", "middle", "lower"))

    @property
    def words(self) -> str:
        """What the finding's region takes in, in words."""
        return REGIONS[self.region].words


class StreamedScore:
    """A score of the gate over the delivered images, with those nearest to being refused."""

    def __init__(self, name: str, low: float, high: float) -> None:
        self.name = name
        self.histogram = Histogram(low, high, SCORE_BINS)
        self.worst = Worst(WORST, lowest=worst_end(name) == "low")


class Streamed:
    """Figures over all images; `ratios` are cardiothoracic ratios, one a group."""

    def __init__(self, ranges: dict[str, tuple[float, float]], picker: Picker) -> None:
        self.ratios = Histogram(*RATIO_BINS)
        self.scores = [StreamedScore(name, *ranges[name]) for name in sorted(ranges, key=_place)]
        self.flags: Counter[str] = Counter()
        self._findings: dict[str, PaintedFinding] = {}
        self._picker = picker
        self._last_group = -1

    @property
    def findings(self) -> list[PaintedFinding]:
        """The most frequent first."""
        return sorted(self._findings.values(), key=lambda one: (-one.images, one.name))

    @property
    def picks(self) -> tuple[Pick, ...]:
        """The images to be shown."""
        return self._picker.picks()

    def add(self, batch: Any) -> None:
        """A batch of samples.parquet."""
        groups = batch.column("group").to_numpy()
        new = np.diff(groups, prepend=self._last_group) != 0
        if len(groups):
            self._last_group = int(groups[-1])
        self.ratios.add(_floats(batch.column("ctr"))[new])
        self._add_findings(batch)
        for score in self.scores:
            values = _floats(batch.column(QUALITY + score.name))
            score.histogram.add(values)
            score.worst.add(values, batch.column("key"), batch.column("shard").to_numpy())
        if FLAGS in batch.schema.names:
            self.flags.update(_counts(batch.column(FLAGS).flatten()))
        self._picker.add(batch)

    def _add_findings(self, batch: Any) -> None:
        import pyarrow.compute as pc

        column = batch.column("findings")
        flat, image = column.flatten(), pc.list_parent_indices(column).to_numpy()
        part = {
            name: pc.struct_field(flat, name).to_numpy(zero_copy_only=False)
            for name in ("name", "region", "side", "zone", "size")
        }
        boxes, owner = _boxes(pc.struct_field(flat, "boxes_xyxy"))
        size = np.stack([batch.column(name).to_numpy() for name in ("width", "height")], axis=1)[image]
        normed = boxes / np.tile(size, 2)[owner]
        for name in dict.fromkeys(part["name"].tolist()):
            mine = part["name"] == name
            one = self._findings.setdefault(name, PaintedFinding(name, str(part["region"][mine][0])))
            one.images += len(np.unique(image[mine]))
            one.coverage.add(normed[mine[owner]])
            one.sizes.add(part["size"][mine].astype(np.float64))
            one.on_sides.update(part["side"][mine].tolist())
            one.in_zones.update(part["zone"][mine].tolist())


def stream(path: Path, picker: Picker) -> Streamed:
    """Reads samples.parquet once, and its scores once before for their ranges."""
    with open_parquet(path) as file:
        scores = [name for name in file.schema_arrow.names if name.startswith(QUALITY) and name != FLAGS]
        flags = [FLAGS] if FLAGS in file.schema_arrow.names else []
        streamed = Streamed(_ranges(file, scores), picker)
        for batch in file.iter_batches(BATCH, columns=[*COLUMNS, *scores, *flags], use_threads=False):
            streamed.add(batch)
    return streamed


def _place(name: str) -> tuple[int, str]:
    """Where a score stands among others."""
    family = name.partition(".")[0]
    return (FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)), name


def _ranges(file: Any, columns: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The lowest and highest finite value of each score that has one, a little apart."""
    found: dict[str, tuple[float, float]] = {}
    for batch in file.iter_batches(BATCH, columns=list(columns), use_threads=False) if columns else ():
        for name in columns:
            values = _floats(batch.column(name))
            values = values[np.isfinite(values)]
            if len(values):
                low, high = found.get(name, (np.inf, -np.inf))
                found[name] = (min(low, float(values.min())), max(high, float(values.max())))
    return {
        name.removeprefix(QUALITY): (low, high if high > low else low + (abs(low) * 0.1 or 1.0))
        for name, (low, high) in found.items()
    }


def _boxes(column: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """boxes float64 [n, 4] of a list of boxes per finding, and the finding that each belongs to."""
    import pyarrow.compute as pc

    numbers = column.flatten().flatten().to_numpy(zero_copy_only=False)
    owner = pc.list_parent_indices(column).to_numpy()
    return numbers.astype(np.float64).reshape(-1, 4), owner.astype(np.int64)


def _floats(column: Any) -> npt.NDArray[np.float64]:
    """NaN where the column is null."""
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def _counts(column: Any) -> dict[Any, int]:
    return {entry["values"]: entry["counts"] for entry in column.value_counts().to_pylist()}


def _ordered(counts: Counter[str], first: tuple[str, ...]) -> dict[str, int]:
    """Those named first in their order, others after them by name."""
    rest = sorted(name for name in counts if name not in first)
    return {name: counts[name] for name in (*first, *rest) if counts[name]}


_KINDS: Final = 2048
_LISTED: Final = 12
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?%?")
OTHERS: Final = "other reasons"


@dataclass(frozen=True, slots=True)
class Reason:
    """Refused attempts of one kind: numbers in reasons are left out, `example` has those of the first."""

    words: str
    attempts: int
    example: str


@dataclass(frozen=True, slots=True)
class Refusals:
    """Refused attempts and dropped groups by the recipe's findings row, and the most frequent reasons."""

    attempts: Counter[int]
    dropped: Counter[int]
    reasons: tuple[Reason, ...]


def refusals(path: Path) -> Refusals:
    """Reads rejected.parquet once."""
    attempts, dropped, reasons = Counter[int](), Counter[int](), Counter[str]()
    examples: dict[str, str] = {}
    with open_parquet(path) as file:
        for batch in file.iter_batches(BATCH, columns=["row", "reason", "dropped"], use_threads=False):
            rows = batch.column("row").to_numpy()
            attempts.update(rows.tolist())
            dropped.update(rows[batch.column("dropped").to_numpy(zero_copy_only=False)].tolist())
            for text, count in _counts(batch.column("reason")).items():
                words = _NUMBER.sub("#", text)
                words = words if words in examples or len(examples) < _KINDS else OTHERS
                reasons[words] += count
                examples.setdefault(words, text)
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    reported = [Reason(words, count, examples[words]) for words, count in ranked[:_LISTED]]
    if rest := sum(count for _, count in ranked[_LISTED:]):
        reported.append(Reason(OTHERS, rest, ranked[_LISTED][0]))
    return Refusals(attempts, dropped, tuple(reported))
