"""A film's labels in both label sets, from what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from xreal_synth.types import LabelValue, PlacedFinding
from xreal_synth.vocab import CHEXPERT14, FINDINGS, LABEL_SETS, NO_FINDING, TXRV18

LARGE_HEART_CTR: Final = 0.5


def labels_for(
    findings: Sequence[PlacedFinding], unrequested: Literal["negative", "unknown"], ctr: float
) -> dict[str, dict[str, LabelValue]]:
    """1, 0 or None (not known) for every name of every label set.

    What was asked for and what it implies is 1. The rest is 0 (`negative`), but Cardiomegaly is None where
    the anatomy's cardiothoracic ratio `ctr` is over 0.5; or None (`unknown`). "No Finding" is 1 only
    where nothing is 1 or None in either set, 0 where something is 1, else None.
    """
    return labels_of([finding.name for finding in findings], unrequested, ctr)


def labels_of(
    names: Sequence[str], unrequested: Literal["negative", "unknown"], ctr: float
) -> dict[str, dict[str, LabelValue]]:
    """`labels_for` by the findings' names alone."""
    positive = implied(names)
    rest: LabelValue = 0 if unrequested == "negative" else None
    labels: dict[str, dict[str, LabelValue]] = {
        set_name: {label: 1 if label in positive[set_name] else rest for label in label_set}
        for set_name, label_set in LABEL_SETS.items()
    }
    if ctr > LARGE_HEART_CTR:
        for one in labels.values():
            if one["Cardiomegaly"] == 0:
                one["Cardiomegaly"] = None
    values = [value for one in labels.values() for label, value in one.items() if label != NO_FINDING]
    labels["chexpert14"][NO_FINDING] = 0 if 1 in values else None if None in values else 1
    return labels


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
