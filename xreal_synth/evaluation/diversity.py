"""How different films are from one another: MS-SSIM between films of one finding, in a stream.

Each film is compared with the last film of the same finding and of another group (or patient), after which both
are let go: one film a finding is in memory, and every pair is of films that no other pair has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from xreal_synth.evaluation.fidelity import ms_ssim
from xreal_synth.evaluation.intervals import Bootstrap, Figure, unknown
from xreal_synth.types import Film

ALL: Final = ""
"""The pairs of any two films."""

MOST_PAIRS: Final = 100
"""A finding; beyond it the interval is narrow enough."""


class FilmPairs:
    """Takes films one by one and keeps MS-SSIM of pairs by finding."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[str, Film]] = {}
        self._scores: dict[str, list[tuple[str, float]]] = {}

    def add(self, film: Film, group: str, findings: Iterable[str]) -> None:
        """A film of `group` that shows `findings`; it is paired within each, and among all films."""
        for name in (ALL, *findings):
            scores = self._scores.setdefault(name, [])
            if len(scores) >= MOST_PAIRS:
                continue
            former = self._waiting.get(name)
            if former is None or former[0] == group:
                self._waiting.setdefault(name, (group, film))
                continue
            scores.append((group, ms_ssim([film], [former[1]])[0]))
            del self._waiting[name]

    def figure(self, finding: str = ALL) -> Figure:
        """Mean MS-SSIM of the finding's pairs, `n` of them; lower is more diverse."""
        scores = self._scores.get(finding, [])
        if not scores:
            return unknown()
        return Bootstrap([group for group, _ in scores]).mean(np.array([score for _, score in scores]))
