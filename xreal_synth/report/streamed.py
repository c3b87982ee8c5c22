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
from xreal_synth.report.figures import Counting, Coverage, Ends, Extreme, Histogram
from xreal_synth.report.picks import Pick, Picker

BATCH: Final = 16_384
SIZE_BINS: Final = (0.0, 1.0, 25)
RATIO_BINS: Final = (0.3, 0.7, 40)
SCORE_BINS: Final = 30
ENDS: Final = 4
FAMILIES: Final = ("finding", "organs", "change", "seam", "copies", "pixels")
"""Families of scores in the order in which they are shown; others follow by name."""
COLUMNS: Final = ("key", "group", "member", "shard", "row", "height", "width", "findings", "ctr")


@dataclass(frozen=True, slots=True, eq=False)
class PaintedFinding:
    """A finding wherever it was painted.

    `images` show it; `share` float64 [64, 64] is how often its boxes cover a place, None where it takes
    in a whole organ; `sizes` are of its area over that lung's area.
    """

    name: str
    region: str
    images: int
    boxes: int
    share: npt.NDArray[np.float64] | None
    sizes: Histogram | None
    sides: dict[str, int]
    zones: dict[str, int]

    @property
    def words(self) -> str:
        """What the finding's region takes in, in words."""
        return REGIONS[self.region].words


@dataclass(frozen=True, slots=True, eq=False)
class StreamedScore:
    """A score of the gate over the delivered images, with the images at both ends."""

    name: str
    histogram: Histogram
    flagged: int
    lowest: tuple[Extreme, ...]
    highest: tuple[Extreme, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Streamed:
    """Figures over all images; `ratios` are cardiothoracic ratios, one a group. `picks` are to be shown."""

    findings: tuple[PaintedFinding, ...]
    ratios: Histogram | None
    scores: tuple[StreamedScore, ...]
    flags: dict[str, int]
    picks: tuple[Pick, ...]


def stream(path: Path, picker: Picker) -> Streamed:
    """Reads samples.parquet once, and its scores once before for their ranges."""
    with open_parquet(path) as file:
        scores = [name for name in file.schema_arrow.names if name.startswith(QUALITY) and name != FLAGS]
        flags = [FLAGS] if FLAGS in file.schema_arrow.names else []
        counting = _Counting(_ranges(file, scores), picker)
        for batch in file.iter_batches(BATCH, columns=[*COLUMNS, *scores, *flags], use_threads=False):
            counting.add(batch)
    return counting.streamed()


class _Finding:
    def __init__(self, region: str) -> None:
        self.region = region
        self.images = 0
        self.coverage = Coverage()
        self.sizes = Counting(*SIZE_BINS)
        self.sides: Counter[str] = Counter()
        self.zones: Counter[str] = Counter()

    def painted(self, name: str) -> PaintedFinding:
        boxed = REGIONS[self.region].drawn and self.coverage.boxes
        return PaintedFinding(
            name, self.region, self.images, self.coverage.boxes, self.coverage.share if boxed else None,
            self.sizes.histogram, _ordered(self.sides, ("right", "both", "left")),
            _ordered(self.zones, ("upper", "middle", "lower")),
        )  # fmt: skip


class _Counting:
    """Adds batches up."""

    def __init__(self, ranges: dict[str, tuple[float, float]], picker: Picker) -> None:
        self._findings: dict[str, _Finding] = {}
        self._ratios = Counting(*RATIO_BINS)
        self._scores = {name: Counting(low, high, SCORE_BINS) for name, (low, high) in ranges.items()}
        self._ends = {name: Ends(ENDS) for name in ranges}
        self._flags: Counter[str] = Counter()
        self._picker = picker
        self._last_group = -1

    def add(self, batch: Any) -> None:
        shards = batch.column("shard").to_numpy()
        groups = batch.column("group").to_numpy()
        new = np.diff(groups, prepend=self._last_group) != 0
        if len(groups):
            self._last_group = int(groups[-1])
        self._ratios.add(_floats(batch.column("ctr"))[new])
        self._add_findings(batch)
        for name, counting in self._scores.items():
            values = _floats(batch.column(name))
            counting.add(values)
            self._ends[name].add(values, batch.column("key"), shards)
        if FLAGS in batch.schema.names:
            reported = batch.column(FLAGS).flatten().value_counts().to_pylist()
            self._flags.update({entry["values"]: entry["counts"] for entry in reported})
        self._picker.add(batch)

    def _add_findings(self, batch: Any) -> None:
        import pyarrow.compute as pc

        column = batch.column("findings")
        flat, image = column.flatten(), pc.list_parent_indices(column).to_numpy()
        if not len(flat):
            return
        part = {name: pc.struct_field(flat, name) for name in ("name", "region", "side", "zone", "size")}
        boxes, owner = _boxes(pc.struct_field(flat, "boxes_xyxy"))
        size = np.stack([batch.column(name).to_numpy() for name in ("width", "height")], axis=1)[image]
        normed = boxes / np.tile(size, 2)[owner]
        names = part["name"].to_numpy(zero_copy_only=False)
        for name in dict.fromkeys(names.tolist()):
            mine = names == name
            one = self._findings.setdefault(name, _Finding(str(part["region"][int(np.flatnonzero(mine)[0])])))
            one.images += len(np.unique(image[mine]))
            one.coverage.add(normed[mine[owner]])
            one.sizes.add(_floats(part["size"])[mine])
            one.sides.update(part["side"].to_numpy(zero_copy_only=False)[mine].tolist())
            one.zones.update(part["zone"].to_numpy(zero_copy_only=False)[mine].tolist())

    def streamed(self) -> Streamed:
        findings = sorted(self._findings.items(), key=lambda item: (-item[1].images, item[0]))
        ranked = sorted(self._scores.items(), key=lambda item: _place(item[0]))
        return Streamed(
            findings=tuple(one.painted(name) for name, one in findings),
            ratios=self._ratios.histogram,
            scores=tuple(self._score(name, counting) for name, counting in ranked),
            flags=dict(sorted(self._flags.items())),
            picks=self._picker.picks(),
        )

    def _score(self, column: str, counting: Counting) -> StreamedScore:
        name, ends, histogram = column.removeprefix(QUALITY), self._ends[column], counting.histogram
        assert histogram is not None
        return StreamedScore(name, histogram, self._flags[name], tuple(ends.lowest), tuple(ends.highest))


def _place(column: str) -> tuple[int, str]:
    """Where a score stands among others."""
    name = column.removeprefix(QUALITY)
    family = name.partition(".")[0]
    return (FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)), name


def _ranges(file: Any, columns: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The lowest and highest finite value of each column that has one, a little apart."""
    found: dict[str, tuple[float, float]] = {}
    for batch in file.iter_batches(BATCH, columns=list(columns), use_threads=False) if columns else ():
        for name in columns:
            values = _floats(batch.column(name))
            values = values[np.isfinite(values)]
            if len(values):
                low, high = found.get(name, (np.inf, -np.inf))
                found[name] = (min(low, float(values.min())), max(high, float(values.max())))
    return {
        name: (low, high if high > low else low + (abs(low) * 0.1 or 1.0))
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

    attempts: dict[int, int]
    dropped: dict[int, int]
    reasons: tuple[Reason, ...]


def refusals(path: Path) -> Refusals:
    """Reads rejected.parquet once."""
    attempts: Counter[int] = Counter()
    dropped: Counter[int] = Counter()
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    with open_parquet(path) as file:
        for batch in file.iter_batches(BATCH, columns=["row", "reason", "dropped"], use_threads=False):
            rows = batch.column("row").to_numpy()
            attempts.update(rows.tolist())
            dropped.update(rows[batch.column("dropped").to_numpy(zero_copy_only=False)].tolist())
            for entry in batch.column("reason").value_counts().to_pylist():
                words = _NUMBER.sub("#", entry["values"])
                words = words if words in examples or len(examples) < _KINDS else OTHERS
                reasons[words] += entry["counts"]
                examples.setdefault(words, entry["values"])
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    reported = [Reason(words, count, examples[words]) for words, count in ranked[:_LISTED]]
    if rest := sum(count for _, count in ranked[_LISTED:]):
        reported.append(Reason(OTHERS, rest, ranked[_LISTED][0]))
    return Refusals(dict(sorted(attempts.items())), dict(sorted(dropped.items())), tuple(reported))
