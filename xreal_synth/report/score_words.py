"""What the gate's scores mean, which end of them is the worse one, and the bounds that a recipe sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from xreal_synth.quality.catalogue import SCORES
from xreal_synth.report.charts import Line
from xreal_synth.shards.head import DatasetHead

End = Literal["low", "high"]


def words_for(name: str) -> str:
    words = SCORES.get(name, (True, ""))[1]
    return words[:1].upper() + words[1:]


def bounds_of(head: DatasetHead, name: str) -> tuple[Line, ...]:
    """The bound that the digested settings set for a score."""
    found: object = head.settings.get("quality")
    for part in ("checks", *name.split(".")):
        found = found.get(part) if isinstance(found, Mapping) else None
    if not isinstance(found, int | float) or isinstance(found, bool):
        return ()
    return (Line(float(found), "at least" if SCORES.get(name, (True, ""))[0] else "at most"),)


def worst_ends(name: str, bounds: tuple[Line, ...]) -> tuple[End, ...]:
    """Where the worst films of a score are: beyond its bounds, or by what it means."""
    ends: list[End] = []
    for line in bounds:
        ends.append("low" if line.name == "at least" else "high")
    return tuple(ends) or (("low",) if SCORES.get(name, (True, ""))[0] else ("high",))
