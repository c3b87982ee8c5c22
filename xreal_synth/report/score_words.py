"""What the gate's scores mean, which end of them is the worse one, and the bounds that a recipe sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from xreal_synth.report.charts import Line
from xreal_synth.shards.head import DatasetHead

End = Literal["low", "high"]

_WORDS: Final[dict[str, str]] = {
    "organs.left_lung": "Left lung: Dice of the requested mask and a segmenter's reading of the film",
    "organs.right_lung": "Right lung: Dice of the requested mask and a segmenter's reading of the film",
    "organs.heart": "Heart: Dice of the requested mask and a segmenter's reading of the film",
    "organs.aorta": "Aorta: Dice of the requested mask and a segmenter's reading of the film",
    "finding.shown": "Finding shown: a classifier's score of the film minus that of its healthy twin",
    "change.inside": "Change inside the finding's region, against the healthy twin",
    "change.outside": "Change outside the finding's region, against the healthy twin",
    "pixels.blur": "Sharpness of the film",
    "pixels.seam": "Energy along the border of the painted region",
    "copy.distance": "Distance to the nearest film of the given index",
}
_HIGH: Final = ("change.outside", "pixels.seam", "pixels.saturated", "pixels.saturation", "pixels.black")
"""Scores that are worse the higher they are."""


def words_for(name: str) -> str:
    return _WORDS.get(name, "")


def bounds_of(head: DatasetHead, name: str) -> tuple[Line, ...]:
    """The bounds that the settings set for a score, whichever way round they are written."""
    found = _find(head.settings.get("quality"), name)
    return tuple(
        Line(float(value), words)
        for key, words in (("min", "at least"), ("max", "at most"))
        if isinstance(value := found.get(key), int | float) and not isinstance(value, bool)
    )


def worst_ends(name: str, bounds: tuple[Line, ...]) -> tuple[End, ...]:
    """Where the worst films of a score are: beyond its bounds, or by what it means."""
    ends: list[End] = []
    for line in bounds:
        ends.append("low" if line.name == "at least" else "high")
    return tuple(ends) or (("high",) if name in _HIGH else ("low",))


def _find(settings: object, name: str) -> Mapping[str, object]:
    """The mapping at `quality.NAME` or `quality.checks.NAME`, dotted or nested."""
    for place in (settings, settings.get("checks") if isinstance(settings, Mapping) else None):
        found: object = place
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            return dict(found[name])
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if isinstance(found, Mapping):
            return dict(found)
    return {}
