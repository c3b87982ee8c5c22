"""An image's labels in both label sets: from what was asked for, or of a real image and what was edited in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cache
from typing import Literal

from xreal_synth.anatomy.augment import NORMAL_HEART
from xreal_synth.findings import CHEXPERT14, FINDINGS, HEART_FINDING, LABEL_SETS, NO_FINDING, TXRV18
from xreal_synth.types import LabelValue, PlacedFinding, SourceImage

Unrequested = Literal["negative", "unknown", "checked"]
LabelValues = dict[str, dict[str, LabelValue]]
"""1, 0 or None (not known) for every name of every label set."""


def labels_of(
    names: Iterable[str], unrequested: Unrequested, ctr: float, passed: Set[str] = frozenset()
) -> LabelValues:
    """The labels of a generated image with these findings.

    What was asked for and what it implies is 1. The rest is 0 (`negative`), but Cardiomegaly is None where
    the anatomy's cardiothoracic ratio `ctr` is over 0.5; None (`unknown`); or 0 for `passed`, the findings that
    the classifier does not see in the healthy twin, and None for what else there is (`checked`). "No Finding" is
    1 only where nothing is 1 or None in either set, 0 where something is 1, else None.
    """
    absent: dict[str, set[str]] = {set_name: set() for set_name in LABEL_SETS}
    if unrequested == "negative":
        absent = {set_name: set(labels) for set_name, labels in LABEL_SETS.items()}
    elif unrequested == "checked":  # a label's other findings, and what it implies, may have another cause
        doubted = {finding.chexpert for name, finding in FINDINGS.items() if name not in passed}
        absent["chexpert14"] = {
            finding.chexpert for name, finding in FINDINGS.items() if name in passed and finding.chexpert
        } - doubted
        absent["txrv18"] = set(passed)
    if ctr > NORMAL_HEART:
        absent = {set_name: labels - {HEART_FINDING} for set_name, labels in absent.items()}
    return _values(implied(names), absent)


def image_labels(source: SourceImage, findings: Sequence[PlacedFinding]) -> LabelValues:
    """The labels of a real image, and of an image edited from it.

    1: the image's own labels, the findings it has boxes of, those painted in, and what these imply; but not a
    finding of which every box was painted over, which is 0. On an image labelled No Finding everything else is
    0. None: the rest. "No Finding" is 1 only where nothing is 1 or None in either set.
    """
    kept = {own.name for own in source.findings if own.removed is None}
    removed = {own.name for own in source.findings} - kept
    positive = implied([*(set(source.labels) - {NO_FINDING} - removed), *kept, *(f.name for f in findings)])
    healthy = NO_FINDING in source.labels
    absent = {
        set_name: {name for name in names if healthy or (_makers(set_name, name) or {name}) <= removed}
        for set_name, names in LABEL_SETS.items()
    }
    return _values(positive, absent)


def implied(names: Iterable[str]) -> dict[str, set[str]]:
    """The names of each label set that these findings make positive."""
    found, waiting = set[str](), list(names)
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting.extend(FINDINGS[name].implies if name in FINDINGS else ())
    chexpert = {FINDINGS[name].chexpert if name in FINDINGS else name for name in found}
    return {"chexpert14": {*CHEXPERT14} & chexpert, "txrv18": {*TXRV18} & found}


@cache
def _makers(set_name: str, name: str) -> frozenset[str]:
    """The findings that make a label positive."""
    return frozenset(finding for finding in FINDINGS if name in implied([finding])[set_name])


def _values(positive: Mapping[str, Set[str]], absent: Mapping[str, Set[str]]) -> LabelValues:
    labels: LabelValues = {
        set_name: {name: 1 if name in positive[set_name] else 0 if name in absent[set_name] else None for name in names}
        for set_name, names in LABEL_SETS.items()
    }
    values = {value for one in labels.values() for name, value in one.items() if name != NO_FINDING}
    labels["chexpert14"][NO_FINDING] = 0 if 1 in values else None if None in values else 1
    return labels
