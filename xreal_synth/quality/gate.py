"""The gate: images in, verdicts out. It draws nothing and keeps nothing, so a verdict depends on its image alone.

Its checks are found by their files: the modules of this room with a CHECK. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import exp
from pkgutil import iter_modules
from typing import Final, Protocol

import xreal_synth.quality as room
from xreal_synth.quality.checks import CheckEntry, JudgedImage, NetworkReadings
from xreal_synth.types import GreyImage, Mask, QualitySettings, Verdict


def _entries() -> list[CheckEntry]:
    names = [f"{room.__name__}.{found.name}" for found in iter_modules(room.__path__)]
    modules = [import_module(name) for name in names if name != __name__]
    entries: list[CheckEntry] = [module.CHECK for module in modules if hasattr(module, "CHECK")]
    return sorted(entries, key=lambda entry: (entry.rank, entry.name))


CHECKS: Final[dict[str, CheckEntry]] = {entry.name: entry for entry in _entries()}

SCORES: Final[dict[str, tuple[bool, str]]] = {
    f"{entry.name}.{name}": (score.least, score.words)
    for entry in CHECKS.values()
    for name, score in entry.scores.items()
}
"""By full name ("organs.heart"): whether its bound is the least that is let through, and its words."""

DIGITS: Final = 4
"""Scores are rounded to so many digits behind the point before they are compared and kept."""


class Segmenter(Protocol):
    """Draws organ masks of images."""

    def label_map(self, images: Sequence[GreyImage]) -> list[Mask]:
        """Images uint8 [H, W] of one size -> organ codes uint8 [H, W] of each."""
        ...


class Classifier(Protocol):
    """Says which findings images show."""

    def logits(self, images: Sequence[GreyImage]) -> list[Mapping[str, float]]:
        """Images uint8 [H, W] of one size -> logits by finding of each."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class GateNetworks:
    """Networks that the checks look with; None where no check needs it."""

    segmenter: Segmenter | None = None
    classifier: Classifier | None = None


class Gate:
    """The checks of a recipe, ready to judge. Raises BundleError for a copy index that cannot be read."""

    def __init__(self, settings: QualitySettings, networks: GateNetworks | None = None) -> None:
        self._settings = settings
        self._networks = networks or GateNetworks()
        self._running = [(one, CHECKS[one.name].opened(one.file)) for one in settings.checks]

    def judge(self, images: Sequence[JudgedImage]) -> list[Verdict]:
        """A verdict on each image, in their order."""
        label_map, logits = self._label_map(images), self._logits(images)
        verdicts = []
        for image in images:
            own, twin = id(image.image), id(image.twin)
            seen = NetworkReadings(label_map.get(own), logits.get(own), logits.get(twin))
            verdicts.append(self._verdict(image, seen))
        return verdicts

    def _label_map(self, images: Sequence[JudgedImage]) -> dict[int, Mask]:
        if self._networks.segmenter is None:
            return {}
        wanted = {id(one.image): one.image for one in images if one.anatomy is not None}
        found = self._networks.segmenter.label_map(list(wanted.values())) if wanted else []
        return dict(zip(wanted, found, strict=True))

    def _logits(self, images: Sequence[JudgedImage]) -> dict[int, Mapping[str, float]]:
        """Of all twins where labels depend on them, else of images with findings and their twins."""
        if self._networks.classifier is None:
            return {}
        every = self._settings.negative_below is not None
        wanted: dict[int, GreyImage] = {}
        for one in images:
            judged = bool(one.asked or one.gone)
            if judged:
                wanted[id(one.image)] = one.image
            if judged or every:
                twin = one.image if one.twin is None else one.twin
                wanted[id(twin)] = twin
        found = self._networks.classifier.logits(list(wanted.values())) if wanted else []
        return dict(zip(wanted, found, strict=True))

    def _verdict(self, image: JudgedImage, seen: NetworkReadings) -> Verdict:
        scores: dict[str, float] = {}
        refused, flags = list[str](), list[str]()
        reasons: dict[str, str] = {}
        for check, measure in self._running:
            for name, found in measure(image, seen).items():
                score, bound = CHECKS[check.name].scores[name], check.bounds[name]
                value, reported = round(float(found), DIGITS), f"{check.name}.{name}"
                scores[reported] = value
                if score.broken(value, bound):
                    (refused if check.action == "reject" else flags).append(reported)
                    reasons[reported] = score.reason(value, bound)
        below, logits = self._settings.negative_below, seen.logits if image.twin is None else seen.twin_logits
        passed = None
        if below is not None and logits is not None:
            passed = frozenset(name for name, logit in logits.items() if 1 / (1 + exp(-logit)) < below)
        return Verdict(
            refused=tuple(refused), flags=tuple(flags), reasons=tuple(reasons[name] for name in (*refused, *flags)),
            scores=tuple(scores.items()), passed=passed,
        )  # fmt: skip
