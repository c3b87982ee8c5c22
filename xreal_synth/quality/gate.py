"""The gate: films in, verdicts out. It draws nothing and keeps nothing, so a verdict depends on its film alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Final, Protocol

from xreal_synth.quality.catalogue import CHECKS
from xreal_synth.quality.checks import JudgedFilm, Seen
from xreal_synth.types import Film, Mask, QualitySettings, Verdict

DIGITS: Final = 4
"""Scores are rounded to so many digits behind the point before they are compared and kept."""


class Segmenter(Protocol):
    """Draws organ masks of films."""

    def codes(self, films: Sequence[Film]) -> list[Mask]:
        """Films uint8 [H, W] of one size -> organ codes uint8 [H, W] of each."""
        ...


class Classifier(Protocol):
    """Says which findings films show."""

    def logits(self, films: Sequence[Film]) -> list[Mapping[str, float]]:
        """Films uint8 [H, W] of one size -> logits by finding of each."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class GateNetworks:
    """What the checks look with; None where no check needs it."""

    segmenter: Segmenter | None = None
    classifier: Classifier | None = None


class Gate:
    """The checks of a recipe, ready to judge. Raises BundleError for a copy index that cannot be read."""

    def __init__(self, settings: QualitySettings, networks: GateNetworks | None = None) -> None:
        self._settings = settings
        self._networks = networks or GateNetworks()
        self._running = [
            (one.name, CHECKS[one.name].opened(one), one.action == "reject") for one in settings.checks
        ]

    def judge(self, films: Sequence[JudgedFilm]) -> list[Verdict]:
        """A verdict on each film, in their order."""
        codes, logits = self._codes(films), self._logits(films)
        return [
            self._verdict(
                film,
                Seen(
                    codes=codes.get(id(film.film)),
                    logits=logits.get(id(film.film)),
                    twin_logits=logits.get(id(film.twin)),
                ),
            )
            for film in films
        ]

    def _codes(self, films: Sequence[JudgedFilm]) -> dict[int, Mask]:
        if self._networks.segmenter is None:
            return {}
        wanted = {id(one.film): one.film for one in films if one.anatomy is not None}
        found = self._networks.segmenter.codes(list(wanted.values())) if wanted else []
        return dict(zip(wanted, found, strict=True))

    def _logits(self, films: Sequence[JudgedFilm]) -> dict[int, Mapping[str, float]]:
        """Of all twins where labels depend on them, else of films with findings and their twins."""
        if self._networks.classifier is None:
            return {}
        every = self._settings.negative_below is not None
        wanted: dict[int, Film] = {}
        for one in films:
            if one.asked:
                wanted[id(one.film)] = one.film
            if one.asked or every:
                twin = one.film if one.twin is None else one.twin
                wanted[id(twin)] = twin
        found = self._networks.classifier.logits(list(wanted.values())) if wanted else []
        return dict(zip(wanted, found, strict=True))

    def _verdict(self, film: JudgedFilm, seen: Seen) -> Verdict:
        scores: dict[str, float] = {}
        refused, flags = list[str](), list[str]()
        reasons: dict[str, str] = {}
        for family, check, rejects in self._running:
            for name, value in check.scores(film, seen).items():
                bound, score = check.bounds[name], round(float(value), DIGITS)
                told = f"{family}.{name}"
                scores[told] = score
                if bound.broken(score):
                    (refused if rejects else flags).append(told)
                    reasons[told] = bound.reason(score)
        return Verdict(
            refused=tuple(refused),
            flags=tuple(flags),
            reasons=tuple(reasons[name] for name in (*refused, *flags)),
            scores=tuple(scores.items()),
            passed=self._passed(seen.logits if film.twin is None else seen.twin_logits),
        )

    def _passed(self, logits: Mapping[str, float] | None) -> frozenset[str] | None:
        below = self._settings.negative_below
        if below is None or logits is None:
            return None
        return frozenset(name for name, logit in logits.items() if 1 / (1 + exp(-logit)) < below)
