"""An image's labels in both label sets, from what was asked for."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Literal

from xreal_synth.anatomy.augment import NORMAL_HEART
from xreal_synth.findings import CHEXPERT14, FINDINGS, HEART_FINDING, LABEL_SETS, NO_FINDING, TXRV18
from xreal_synth.types import LabelValue, PlacedFinding

Unrequested = Literal["negative", "unknown", "checked"]


def labels_for(
    findings: Sequence[PlacedFinding], unrequested: Unrequested, ctr: float, passed: Set[str] = frozenset()
) -> dict[str, dict[str, LabelValue]]:
    """1, 0 or None (not known) for every name of every label set.

    What was asked for and what it implies is 1. The rest is 0 (`negative`), but Cardiomegaly is None where
    the anatomy's cardiothoracic ratio `ctr` is over 0.5; None (`unknown`); or 0 for `passed`, the findings that
    the classifier does not see in the healthy twin, and None for what else there is (`checked`). "No Finding" is
    1 only where nothing is 1 or None in either set, 0 where something is 1, else None.
    """
    return labels_of([finding.name for finding in findings], unrequested, ctr, passed)


def labels_of(
    names: Sequence[str], unrequested: Unrequested, ctr: float, passed: Set[str] = frozenset()
) -> dict[str, dict[str, LabelValue]]:
    """`labels_for` by the findings' names alone."""
    positive = implied(names)
    absent = _absent(passed) if unrequested == "checked" else None
    rest: LabelValue = 0 if unrequested == "negative" else None
    labels: dict[str, dict[str, LabelValue]] = {
        set_name: {
            label: 1
            if label in positive[set_name]
            else 0
            if absent is not None and label in absent[set_name]
            else rest
            for label in label_set
        }
        for set_name, label_set in LABEL_SETS.items()
    }
    if ctr > NORMAL_HEART:
        for one in labels.values():
            if one.get(HEART_FINDING) == 0:
                one[HEART_FINDING] = None
    values = [value for one in labels.values() for label, value in one.items() if label != NO_FINDING]
    labels["chexpert14"][NO_FINDING] = 0 if 1 in values else None if None in values else 1
    return labels


def _absent(passed: Set[str]) -> dict[str, set[str]]:
    """The label of each finding that is not seen, in both sets; what it implies may have another cause."""
    makers: dict[str, set[str]] = {}
    for name, finding in FINDINGS.items():
        if finding.chexpert is not None:
            makers.setdefault(finding.chexpert, set()).add(name)
    chexpert = {label for label, names in makers.items() if names <= set(passed)}
    return {"chexpert14": chexpert, "txrv18": set(passed)}


def implied(names: Sequence[str]) -> dict[str, set[str]]:
    """The names of each label set that these findings make positive."""
    positive: dict[str, set[str]] = {"chexpert14": set(), "txrv18": set()}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        finding = FINDINGS.get(name)
        if name in TXRV18:
            positive["txrv18"].add(name)
        if finding is not None:
            waiting.extend(finding.implies)
            if finding.chexpert is not None:
                positive["chexpert14"].add(finding.chexpert)
        elif name in CHEXPERT14:
            positive["chexpert14"].add(name)
    return positive
