"""Meanings of the gate's scores, which end of them is the worse one, and the bounds that the settings hold."""

from __future__ import annotations

from typing import Final, Literal

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.quality.catalogue import SCORES
from xreal_synth.report.charts import Line

End = Literal["low", "high"]

_DONE: Final = {"reject": "refused", "warn": "flagged"}


def words_for(name: str) -> str:
    """A score's meaning with a capital; empty for one that no check of this version has."""
    words = SCORES.get(name, (True, ""))[1]
    return words[:1].upper() + words[1:]


def worst_end(name: str) -> End:
    """Where the worst images of a score are; of one that is not known the lowest."""
    return "low" if SCORES.get(name, (True, ""))[0] else "high"


def bound_of(head: DatasetHead, name: str) -> Line | None:
    """The bound of a score, at `quality.checks.FAMILY` of the digested settings, and what is done beyond it."""
    family, _, score = name.partition(".")
    check = head.setting("quality", "checks", family)
    if not isinstance(check, dict):
        return None
    value = check.get(score)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    side = "below" if worst_end(name) == "low" else "above"
    return Line(float(value), f"{_DONE.get(str(check.get('action')), 'beyond')} {side}")
