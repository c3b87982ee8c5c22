"""A look at a plan before anything is made: what will be labelled, and what cannot be placed and why."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Final

from xreal_synth.anatomy.measure import cardiothoracic_ratio
from xreal_synth.errors import PlacementError, Problem, RecipeError
from xreal_synth.plan.build import Plan
from xreal_synth.plan.labels import LARGE_HEART_CTR, labels_of
from xreal_synth.types import Mask
from xreal_synth.vocab import LABEL_SETS

PROBE_GROUPS: Final = 4096
BUDGET_S: Final = 0.5
_LEAST: Final = 8
_COUNTED_EXACTLY: Final = 4096


@dataclass(frozen=True, slots=True)
class RowReport:
    """One findings row: groups it gets of all, and how its placing went on the probed anatomies.

    `reasons` are an error (its `where` is the path in the recipe) and how often that label failed, the
    most frequent first.
    """

    row: int
    names: tuple[str, ...]
    groups: float
    tried: int
    placed: int
    reasons: tuple[tuple[PlacementError, int], ...]

    @property
    def placeable(self) -> float:
        """Share of the probed anatomies on which every finding of the row has a place."""
        return self.placed / self.tried


@dataclass(frozen=True, slots=True)
class LabelCount:
    """Expected films by a label's value, over the whole dataset."""

    label_set: str
    label: str
    positive: float
    negative: float
    unknown: float


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What the plan of a recipe promises. `probed` groups were drawn; `films` include twins and variants."""

    samples: int
    films: float
    shards: int
    probed: int
    large_hearts: float
    rows: tuple[RowReport, ...]
    labels: tuple[LabelCount, ...]

    def require_placeable(self, source: str = "recipe") -> None:
        """Raises RecipeError if a row has no place on any probed anatomy, with the reasons."""
        problems = [
            Problem(
                f"{error.where}", f"{error.found} ({row.tried} anatomies tried)", error.wanted, error.mend
            )
            for row in self.rows
            if row.placed == 0
            for error, _ in row.reasons[:1]
        ]
        if problems:
            raise RecipeError(source, problems)


def probe(plan: Plan, n: int = PROBE_GROUPS, *, budget_s: float = BUDGET_S) -> ProbeReport:
    """Draws the first min(samples, n) groups, as far as `budget_s` seconds go, and tries every row.

    At least eight groups are drawn (or all, if fewer) and every row meets eight anatomies (or all
    drawn), however long that takes.
    """
    tallies = [_Tally() for _ in plan.recipe.findings]
    kept, probed, large = _probe_groups(plan, min(plan.recipe.samples, n), budget_s, tallies)
    _probe_rows(plan, kept, tallies)
    counts = _groups_per_row(plan)
    rows = tuple(
        RowReport(
            row=i,
            names=tuple(label.name for label in row.labels),
            groups=counts[i],
            tried=tallies[i].tried,
            placed=tallies[i].placed,
            reasons=tallies[i].ranked(),
        )
        for i, row in enumerate(plan.recipe.findings)
    )
    return ProbeReport(
        samples=plan.recipe.samples,
        films=sum(row.groups * sum(_films(plan, row.names)) for row in rows),
        shards=plan.shard_count,
        probed=probed,
        large_hearts=large / probed,
        rows=rows,
        labels=_label_table(plan, rows, large / probed),
    )


class _Tally:
    """How often a row was tried and placed, and what failed, by path and message."""

    def __init__(self) -> None:
        self.tried = 0
        self.placed = 0
        self.times: Counter[str] = Counter()
        self.errors: dict[str, PlacementError] = {}

    def count(self, plan: Plan, row: int, anatomy: Mask, index: int) -> None:
        self.tried += 1
        try:
            plan.place_row(row, anatomy, index, 0, "v0")
        except PlacementError as error:
            self.times[error.where] += 1
            self.errors.setdefault(error.where, error)
        else:
            self.placed += 1

    def ranked(self) -> tuple[tuple[PlacementError, int], ...]:
        return tuple((self.errors[where], times) for where, times in self.times.most_common())


def _probe_groups(
    plan: Plan, groups: int, budget_s: float, tallies: list[_Tally]
) -> tuple[list[Mask], int, int]:
    """Draws groups and places their own rows -> the first anatomies, groups drawn, large hearts."""
    kept: list[Mask] = []
    large = 0
    start = time.monotonic()
    for index in range(groups):
        if index >= _LEAST and time.monotonic() - start > budget_s:
            return kept, index, large
        anatomy, _ = plan.anatomy(index, 0)
        if index < _LEAST:
            kept.append(anatomy)
        large += cardiothoracic_ratio(anatomy) > LARGE_HEART_CTR
        row = plan.row(index)
        tallies[row].count(plan, row, anatomy, index)
    return kept, groups, large


def _probe_rows(plan: Plan, anatomies: list[Mask], tallies: list[_Tally]) -> None:
    """Tries rows that met too few anatomies, or had no place so far, on the ones that were kept."""
    for row, tally in enumerate(tallies):
        if tally.tried < len(anatomies) or not tally.placed:
            for index, anatomy in enumerate(anatomies):
                tally.count(plan, row, anatomy, index)


def _groups_per_row(plan: Plan) -> list[float]:
    """Groups of each row over all samples: counted for a small recipe, else its share of them."""
    samples = plan.recipe.samples
    if samples <= _COUNTED_EXACTLY:
        counts = Counter(plan.row(index) for index in range(samples))
        return [float(counts[row]) for row in range(len(plan.recipe.findings))]
    largest = max(row.weight for row in plan.recipe.findings)
    weights = [row.weight / largest for row in plan.recipe.findings]
    return [samples * weight / sum(weights) for weight in weights]


def _films(plan: Plan, names: tuple[str, ...]) -> tuple[int, int]:
    """Films of one group of such a row: healthy ones, and ones with the findings."""
    if not names:
        return 1, 0
    return int(plan.recipe.pairs.twin), plan.recipe.pairs.variants


def _label_table(plan: Plan, rows: tuple[RowReport, ...], large: float) -> tuple[LabelCount, ...]:
    """Expected films per label and value; a share `large` of each row's films has a large heart."""
    totals: dict[tuple[str, str], list[float]] = {
        (name, label): [0.0, 0.0, 0.0] for name, labels in LABEL_SETS.items() for label in labels
    }
    unrequested = plan.recipe.labels.unrequested
    for row in rows:
        healthy, edited = _films(plan, row.names)
        for names, films in (((), healthy), (row.names, edited)):
            for ctr, share in ((0.0, 1.0 - large), (1.0, large)):
                for name, labels in labels_of(names, unrequested, ctr).items():
                    for label, value in labels.items():
                        column = {1: 0, 0: 1, None: 2}[value]
                        totals[name, label][column] += row.groups * films * share
    return tuple(LabelCount(*key, *columns) for key, columns in totals.items())
