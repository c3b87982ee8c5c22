"""A look at a plan before anything is made: what will be labelled, and what cannot be placed and why."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

from xreal_synth.anatomy.augment import NORMAL_HEART
from xreal_synth.errors import PlacementError, Problem, RecipeError
from xreal_synth.findings import LABEL_SETS
from xreal_synth.planning.build import Plan
from xreal_synth.planning.chest import Chest
from xreal_synth.planning.labels import LabelValues, image_labels, labels_of
from xreal_synth.types import LabelValue

PROBE_GROUPS: Final = 4096
BUDGET_S: Final = 0.5
_LEAST: Final = 8
_COUNTED_EXACTLY: Final = 4096


@dataclass(frozen=True, slots=True)
class RowReport:
    """One findings row: groups it gets of all, how many of them have a sham, and how its placing went on the
    probed anatomies.

    `reasons` are an error (its `where` is the path in the recipe) and how often that label failed, the
    most frequent first. `asked` says in words what the row asks for.
    """

    row: int
    names: tuple[str, ...]
    asked: str
    groups: float
    shams: float
    tried: int
    placed: int
    reasons: tuple[tuple[PlacementError, int], ...]

    @property
    def placeable(self) -> float:
        """Share of the probed anatomies on which every finding of the row has a place."""
        return self.placed / self.tried


@dataclass(frozen=True, slots=True)
class LabelCount:
    """Expected images by a label's value, over the whole dataset."""

    label_set: str
    label: str
    positive: float
    negative: float
    unknown: float


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """The outcome of a probe. `probed` groups were drawn; `images` include twins and variants."""

    samples: int
    images: float
    shards: int
    probed: int
    large_hearts: float
    rows: tuple[RowReport, ...]
    labels: tuple[LabelCount, ...]

    def require_placeable(self, source: str = "recipe") -> None:
        """Raises RecipeError if a row has no place on any probed anatomy, with the reasons."""
        problems = [
            Problem(error.where, f"{error.found} ({row.tried} anatomies tried)", error.wanted, error.hint)
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
    tallies = [_Tally(plan, row) for row in range(len(plan.recipe.findings))]
    kept, probed, large = _probe_groups(plan, min(plan.recipe.anatomies, n), budget_s, tallies)
    _probe_rows(plan, kept, tallies)
    counts, shams = _groups_per_row(plan)
    rows = tuple(
        RowReport(
            row=i,
            names=row.names,
            asked=_asked(plan, i),
            groups=counts[i],
            shams=shams[i],
            tried=tally.tried,
            placed=tally.placed,
            reasons=tuple((e[0], len(e)) for e in sorted(tally.errors.values(), key=len, reverse=True)),
        )
        for i, (row, tally) in enumerate(zip(plan.recipe.findings, tallies, strict=True))
    )
    totals: _Totals = defaultdict(float)
    for row, tally in zip(rows, tallies, strict=True):
        (_count_real if plan.on_images else _count_generated)(plan, row, tally, large / probed, totals)
    return ProbeReport(
        samples=plan.recipe.anatomies,
        images=sum(sum(_images(plan, row)) for row in rows),
        shards=plan.shard_count,
        probed=probed,
        large_hearts=large / probed,
        rows=rows,
        labels=tuple(
            LabelCount(name, label, *(totals[name, label, value] for value in (1, 0, None)))
            for name, labels in LABEL_SETS.items()
            for label in labels
        ),
    )


_Totals = defaultdict[tuple[str, str, LabelValue], float]
"""Images by label set, label and its value."""


@dataclass(slots=True)
class _Tally:
    """How often a row was tried and placed, what failed by path, and real images' labels: of those left as they are,
    and of those edited."""

    plan: Plan
    row: int
    tried: int = 0
    placed: int = 0
    errors: dict[str, list[PlacementError]] = field(default_factory=dict)
    own: _Totals = field(default_factory=lambda: defaultdict(float))
    edited: _Totals = field(default_factory=lambda: defaultdict(float))

    def meet(self, index: int, chest: Chest | None = None) -> Chest | None:
        """Places the row on a group's chest, or on the one given; None for a real image that cannot be used."""
        self.tried += 1
        kinds = len(self.plan.recipe.findings[self.row].kinds)
        try:
            chest = self.plan.chest(index, 0, self.row) if chest is None else chest
            placed = [self.plan.place_row(self.row, chest, index, 0, variant) for variant in range(kinds)]
        except PlacementError as error:
            self.errors.setdefault(error.where, []).append(error)
            return chest
        self.placed += 1
        as_it_is, edited = self.plan.source_image(chest), self.plan.source_image(chest, self.row)
        if as_it_is is not None and edited is not None:
            for findings in placed:
                _add(self.own, image_labels(as_it_is, ()), 1 / kinds)
                _add(self.edited, image_labels(edited, findings), 1 / kinds)
        return chest


def _probe_groups(plan: Plan, groups: int, budget_s: float, tallies: list[_Tally]) -> tuple[list[Chest], int, int]:
    """Draws groups and places their own rows -> the first chests, groups drawn, large hearts."""
    kept: list[Chest] = []
    large = 0
    start = time.monotonic()
    for index in range(groups):
        if index >= _LEAST and time.monotonic() - start > budget_s:
            return kept, index, large
        chest = tallies[plan.row(index)].meet(index)
        if chest is not None:
            large += (chest.ctr or 0.0) > NORMAL_HEART
            if index < _LEAST:
                kept.append(chest)
    return kept, groups, large


def _probe_rows(plan: Plan, kept: list[Chest], tallies: list[_Tally]) -> None:
    """Tries rows that met too few chests, or had no place so far, on the ones that were kept.

    Where a row decides the anatomy each row has its own.
    """
    tries = _LEAST if plan.on_images else len(kept)
    own = plan.on_images or plan.fits_hearts
    for tally in tallies:
        if tally.tried < tries or not tally.placed:
            for index in range(tries):
                tally.meet(index, None if own else kept[index])


def _groups_per_row(plan: Plan) -> tuple[list[float], list[float]]:
    """Groups of each row over all samples, and those of them with a sham: counted for a small recipe, else their
    shares."""
    samples, rows = plan.recipe.anatomies, plan.recipe.findings
    if samples <= _COUNTED_EXACTLY:
        counts = Counter((plan.row(index), plan.sham(index)) for index in range(samples))
        shams = [float(counts[row, True]) for row in range(len(rows))]
        return [counts[row, False] + shams[row] for row in range(len(rows))], shams
    largest = max(row.weight for row in rows)
    weights = [row.weight / largest for row in rows]
    groups = [samples * weight / sum(weights) for weight in weights]
    return groups, [count * plan.recipe.sham_share(row) for count, row in zip(groups, rows, strict=True)]


def _asked(plan: Plan, row: int) -> str:
    found = plan.recipe.findings[row]
    reported = [found.edit.words] if found.edit is not None else []
    kinds = [" + ".join(label.name for label in labels) for _, labels in found.kinds if labels]
    reported += [" / ".join(kinds)] if kinds else []
    return " + ".join(reported) or ("the image as it is" if plan.on_images else "no finding")


def _images(plan: Plan, row: RowReport) -> tuple[float, float]:
    """Images of such a row: healthy ones (or real ones as they are) with the shams, and variants."""
    asked, pairs = plan.recipe.findings[row.row], plan.recipe.pairs
    if not asked.paints:
        return row.groups * (1 + (pairs.twin and plan.recipe.edits_negative(asked))), 0.0
    return row.groups * pairs.twin + row.shams, row.groups * pairs.variants * len(asked.kinds)


def _count_generated(plan: Plan, row: RowReport, tally: _Tally, large: float, totals: _Totals) -> None:
    """Expected images per label and value; of masks as they are a share `large` has a large heart in every row."""
    healthy, edited = _images(plan, row)
    wide = float(plan.large_heart(row.row)) if plan.fits_hearts else large
    kinds = [[label.name for label in labels] for _, labels in plan.recipe.findings[row.row].kinds]
    for names, images in (([], healthy), *((kind, edited / len(kinds)) for kind in kinds)):
        for ctr, share in ((0.0, 1.0 - wide), (1.0, wide)):
            _add(totals, labels_of(names, plan.recipe.labels.unrequested, ctr), images * share)


def _count_real(plan: Plan, row: RowReport, tally: _Tally, large: float, totals: _Totals) -> None:
    """Expected images per label and value: each row's real images are like those of it that were tried."""
    for images, reported in zip(_images(plan, row), (tally.own, tally.edited), strict=True):
        for key, times in reported.items():
            totals[key] += images * times / max(1, tally.placed)


def _add(totals: _Totals, labels: LabelValues, images: float) -> None:
    for name, values in labels.items():
        for label, value in values.items():
            totals[name, label, value] += images
