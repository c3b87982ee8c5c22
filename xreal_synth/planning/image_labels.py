"""The labels of a real image, and of an image edited from it: its own stay, the rest is not known."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from xreal_synth.findings import FINDINGS, LABEL_SETS, NO_FINDING
from xreal_synth.planning.labels import implied
from xreal_synth.types import LabelValue, PlacedFinding, SourceImage


def image_labels(source: SourceImage, findings: Sequence[PlacedFinding]) -> dict[str, dict[str, LabelValue]]:
    """1, 0 or None (not known) for every name of every label set.

    1: the image's own labels, the findings it has boxes of, those painted in, and what these imply; but not a
    finding of which every box was painted over, which is 0. On an image labelled No Finding everything else is
    0. None: the rest. "No Finding" is 1 only where nothing is 1 or None in either set.
    """
    kept = {own.name for own in source.findings if own.removed is None}
    removed = {own.name for own in source.findings} - kept
    positive = implied([*(set(source.labels) - {NO_FINDING} - removed), *kept, *(f.name for f in findings)])
    nothing = NO_FINDING in source.labels
    labels: dict[str, dict[str, LabelValue]] = {
        set_name: {
            name: 1
            if name in positive[set_name]
            else 0
            if nothing or _gone(set_name, name, removed)
            else None
            for name in names
        }
        for set_name, names in LABEL_SETS.items()
    }
    values = [value for one in labels.values() for name, value in one.items() if name != NO_FINDING]
    labels["chexpert14"][NO_FINDING] = 0 if 1 in values else None if None in values else 1
    return labels


def _gone(set_name: str, name: str, removed: set[str]) -> bool:
    """Whether each finding that makes the label positive was painted over."""
    makers = _makers(set_name, name)
    return name in removed if not makers else makers <= removed


@cache
def _makers(set_name: str, name: str) -> frozenset[str]:
    """The findings that make a label positive."""
    return frozenset(finding for finding in FINDINGS if name in implied([finding])[set_name])
