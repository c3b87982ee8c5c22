"""A dataset's figures beside those of real films: the paper's (Table I) and others, in all and by finding.

"Made" are a dataset's films, "reference" the real films of the split, "second" other real films. What real films
reach stands beside each figure where there is such a thing: of labels, masks and diversity the reference's own,
of distances and sharpness the second sample's against the same reference. Distances that depend on the number of
films (Frechet, precision to coverage) are taken at equal numbers on both sides: whole groups drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from xreal_synth.evaluation.diversity import ALL
from xreal_synth.evaluation.film_sets import NAMES, FilmSet
from xreal_synth.evaluation.findings import area, macro_area, macro_f1
from xreal_synth.evaluation.intervals import Bootstrap, Figure, proportion, unknown
from xreal_synth.evaluation.manifold import manifold
from xreal_synth.evaluation.set_distances import frechet_figure, kernel_figure
from xreal_synth.evaluation.spectrum import RINGS, upper_power
from xreal_synth.shards.acceptance import PLACEMENT
from xreal_synth.types import Acceptance
from xreal_synth.vocab import NO_FINDING, ORGANS

MS_SSIM: Final = "MS-SSIM"
DICE: Final = "Dice"
MACRO_F1: Final = "macro-F1"
F1: Final = "F1"
AUC: Final = "AUC"
FRECHET: Final = "Frechet distance (judging classifier features)"
KERNEL: Final = "kernel distance (judging classifier features)"
FID: Final = "FID"
KID: Final = "KID"
MANIFOLD: Final = ("precision", "recall", "density", "coverage")
SHARPNESS: Final = "sharpness"
POWER: Final = "power in eighth {} of the frequencies"
DIVERSITY: Final = "MS-SSIM between films"
FLAGGED: Final = "flagged"
ACCEPTED: Final = "accepted"

LEAST_FOR_FRECHET: Final = 50
LEAST_FOR_MANIFOLD: Final = 30
"""Films of a finding on both sides; with fewer the figure is not stated."""

_DRAW: Final = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of made films and, beside it, of real ones; `finding` None for all films."""

    name: str
    finding: str | None
    made: Figure
    real: Figure

    def record(self) -> dict[str, Any]:
        """As evaluation.json holds it, NaN where there is no figure."""
        return {
            "name": self.name, "finding": self.finding,
            "value": self.made.mean, "low": self.made.low, "high": self.made.high,
            "real": self.real.mean, "real_low": self.real.low, "real_high": self.real.high,
            "n": self.made.n,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gate:
    """What a dataset's gate did, and how many groups were delivered."""

    told: Acceptance
    groups: int

    def tried(self, finding: str | None) -> tuple[int, int]:
        """Attempts accepted, and attempts, at groups of the finding or at all; what had no place was not tried."""
        if finding is not None:
            return self.told.accepted.get(finding, 0), self.told.tried.get(finding, 0)
        refused = sum(count for check, count in self.told.reasons.items() if check != PLACEMENT)
        return self.groups, self.groups + refused


@dataclass(frozen=True, slots=True, eq=False)
class Sets:
    """The three sets of films, all of them or those of one finding; films are `size` pixels wide."""

    made: FilmSet
    reference: FilmSet
    second: FilmSet
    size: int

    def showing(self, finding: str) -> Sets:
        made, reference, second = (one.showing(finding) for one in self.all)
        return Sets(made, reference, second, self.size)

    @property
    def all(self) -> tuple[FilmSet, FilmSet, FilmSet]:
        return self.made, self.reference, self.second

    def equal(self) -> tuple[FilmSet, FilmSet]:
        """As many made films as second ones."""
        count = min(len(self.made), len(self.second))
        return self.made.at_most(count, _DRAW), self.second.at_most(count, _DRAW)


def rows_of(
    sets: Sets, judged: Sequence[str], findings: Sequence[str], gate: Gate | None = None
) -> list[Row]:
    """All rows: those of all films, then those of each finding. `judged` are the classifier's findings."""
    rows = [*_paired_rows(sets, None, ORGANS), *_label_rows(sets, judged), *_set_rows(sets, None)]
    rows += [*_look_rows(sets, None), *_gate_rows(sets.made, None, gate)]
    for name in findings:
        of_one = sets.showing(name)
        if not len(of_one.made):
            continue
        rows += [*_paired_rows(of_one, name, ()), *_finding_rows(sets, judged, name)]
        rows += [*_set_rows(of_one, name), *_look_rows(of_one, name), *_gate_rows(of_one.made, name, gate)]
    return rows


def findings_of(made: FilmSet, asked: Sequence[str]) -> list[str]:
    """What rows are made for: the findings asked for, in NAMES' order, and films without any."""
    return [name for name in NAMES if name in asked or (name == NO_FINDING and (made.label(name) == 1).any())]


def _paired_rows(sets: Sets, finding: str | None, organs: Any) -> list[Row]:
    """MS-SSIM to the real film of the same mask; Dice of the judging segmenter's organs and the mask's."""
    made, reference = sets.made, sets.reference
    boot, boot_real = made.bootstrap(), reference.bootstrap()
    rows = [Row(MS_SSIM, finding, boot.mean(made.paired), unknown())]
    rows.append(Row(DICE, finding, *(_dice(one, b) for one, b in ((made, boot), (reference, boot_real)))))
    for at, organ in enumerate(organs):
        parts = (
            b.mean(one.looks.dice[:, at]) if len(one) else unknown()
            for one, b in ((made, boot), (reference, boot_real))
        )
        rows.append(Row(f"Dice {organ.replace('_', ' ')}", finding, *parts))
    return rows


def _dice(films: FilmSet, bootstrap: Bootstrap) -> Figure:
    """Mean over films of the mean over organs that the mask or the film has."""
    if not len(films):
        return unknown()
    known = ~np.isnan(films.looks.dice)
    total, count = np.where(known, films.looks.dice, 0.0).sum(axis=1), known.sum(axis=1)
    return bootstrap.mean(np.divide(total, count, out=np.full(len(films), np.nan), where=count > 0))


def _label_rows(sets: Sets, judged: Sequence[str]) -> list[Row]:
    """Macro-F1 and mean AUC over the findings that the classifier knows and made films have."""
    names = [name for name in judged if (sets.made.label(name) == 1).any()]
    columns = [judged.index(name) for name in names]
    at = [NAMES.index(name) for name in names]
    figures = []
    for statistic in (macro_f1, macro_area):
        figures.append([
            statistic(one.looks.logits[:, columns], one.labels[:, at], one.bootstrap()) if at else unknown()
            for one in (sets.made, sets.reference)
        ])  # fmt: skip
    return [Row(name, None, *pair) for name, pair in zip((MACRO_F1, AUC), figures, strict=True)]


def _finding_rows(sets: Sets, judged: Sequence[str], finding: str) -> list[Row]:
    """F1 and AUC of one finding over all films: those without it are the negatives."""
    if finding not in judged:
        return []
    column, at = judged.index(finding), NAMES.index(finding)
    both = (sets.made, sets.reference)
    f1 = (macro_f1(one.looks.logits[:, [column]], one.labels[:, [at]], one.bootstrap()) for one in both)
    auc = (area(one.looks.logits[:, column], one.labels[:, at], one.bootstrap()) for one in both)
    return [Row(F1, finding, *f1), Row(AUC, finding, *auc)]


def _set_rows(sets: Sets, finding: str | None) -> list[Row]:
    """Distances between sets, in the judging classifier's features and, where given, in Inception's."""
    rows = []
    least = min(len(one) for one in sets.all)
    if finding is None or least >= LEAST_FOR_FRECHET:
        rows.append(_distance_row(FRECHET, finding, sets, frechet_figure, _features))
        if _inception(sets.made).shape[1]:
            rows.append(_distance_row(FID, finding, sets, frechet_figure, _inception))
    rows.append(_distance_row(KERNEL, finding, sets, kernel_figure, _features))
    if _inception(sets.made).shape[1]:
        rows.append(_distance_row(KID, finding, sets, kernel_figure, _inception))
    if finding is None or least >= LEAST_FOR_MANIFOLD:
        rows += _manifold_rows(sets, finding)
    return rows


def _features(films: FilmSet) -> Any:
    return films.looks.features


def _inception(films: FilmSet) -> Any:
    return films.inception


def _distance_row(
    name: str,
    finding: str | None,
    sets: Sets,
    distance: Callable[[Any, Any, Bootstrap], Figure],
    features: Callable[[FilmSet], Any],
) -> Row:
    reference = features(sets.reference)
    made, second = (
        distance(features(one), reference, one.bootstrap()) if len(one) else unknown() for one in sets.equal()
    )
    return Row(name, finding, made, second)


def _manifold_rows(sets: Sets, finding: str | None) -> list[Row]:
    made, second = (_manifold_figures(one, sets.reference) for one in sets.equal())
    return [Row(name, finding, *pair) for name, *pair in zip(MANIFOLD, made, second, strict=True)]


def _manifold_figures(films: FilmSet, reference: FilmSet) -> list[Figure]:
    """Precision, recall, density, coverage; intervals take the other set as it is."""
    found = manifold(
        films.looks.features, reference.looks.features, films.groups.tolist(), reference.groups.tolist()
    )
    if found is None:
        return [unknown(len(films))] * len(MANIFOLD)
    own, real = films.bootstrap(), reference.bootstrap()
    boots = (own, real, own, real)
    return [boot.mean(getattr(found, name)) for name, boot in zip(MANIFOLD, boots, strict=True)]


def _look_rows(sets: Sets, finding: str | None) -> list[Row]:
    """Power over real films by frequency, and how alike films are among themselves."""
    name = ALL if finding is None else finding
    alike = Row(
        DIVERSITY, finding, sets.made.pairs.figure(name), sets.reference.pairs.figure(name)
    )  # fmt: skip
    if not len(sets.reference):
        return [alike]
    rows = [_power_row(SHARPNESS, finding, sets, lambda one: upper_power(one.looks.rings, sets.size))]
    if finding is None:
        rows += [_power_row(POWER.format(at + 1), None, sets, _ring(at)) for at in range(RINGS)]
    return [*rows, alike]


def _ring(at: int) -> Callable[[FilmSet], Any]:
    return lambda films: films.looks.rings[:, at]


def _power_row(name: str, finding: str | None, sets: Sets, power: Callable[[FilmSet], Any]) -> Row:
    under, boot = power(sets.reference), sets.reference.bootstrap()
    made, second = (
        one.bootstrap().mean_over(power(one), boot, under) if len(one) else unknown()
        for one in (sets.made, sets.second)
    )
    return Row(name, finding, made, second)


def _gate_rows(made: FilmSet, finding: str | None, gate: Gate | None) -> list[Row]:
    """What the gate flagged and accepted; nothing where there was none."""
    if gate is None:
        return []
    flagged = Row(FLAGGED, finding, made.bootstrap().mean(made.flagged.astype(float)), unknown())
    return [flagged, Row(ACCEPTED, finding, proportion(*gate.tried(finding)), unknown())]
