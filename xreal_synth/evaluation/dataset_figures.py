"""A dataset's figures beside those of real images: the paper's (Table I) and others, in all and by finding.

"Made" are a dataset's images, "reference" the real images of the split, "second" other real images. What real images
reach stands beside each figure where there is such a thing: of labels, masks and diversity the reference's own,
of distances and sharpness the second sample's against the same reference. Distances that depend on the number of
images (Frechet, precision to coverage) are taken at equal numbers on both sides: whole groups drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

import numpy as np

from xreal_synth.dataset.summary import PLACEMENT
from xreal_synth.evaluation.fidelity import RINGS, upper_power
from xreal_synth.evaluation.findings import area, macro_area, macro_f1
from xreal_synth.evaluation.intervals import Bootstrap, Estimate, divided, proportion, unknown
from xreal_synth.evaluation.measurements import ALL, NAMES, ImageSet
from xreal_synth.evaluation.set_distances import frechet_figure, kernel_figure, manifold
from xreal_synth.findings import NO_FINDING, ORGANS
from xreal_synth.types import Acceptance

MS_SSIM: Final = "MS-SSIM"
DICE: Final = "Dice"
MACRO_F1: Final = "macro-F1"
F1: Final = "F1"
AUC: Final = "AUC"
FRECHET: Final = "Frechet distance (evaluator classifier features)"
KERNEL: Final = "kernel distance (evaluator classifier features)"
FID: Final = "FID"
KID: Final = "KID"
MANIFOLD: Final = ("precision", "recall", "density", "coverage")
SHARPNESS: Final = "sharpness"
POWER: Final = "power in eighth {} of the frequencies"
DIVERSITY: Final = "MS-SSIM between images"
FLAGGED: Final = "flagged"
ACCEPTED: Final = "accepted"

LEAST_FOR_FRECHET: Final = 50
LEAST_FOR_MANIFOLD: Final = 30
"""Images of a finding on both sides; with fewer the figure is not stated."""

_DRAW: Final = 0
_features: Final = attrgetter("measurements.features")
_inception: Final = attrgetter("inception")


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """One figure of generated images and, beside it, of real ones; `finding` None for all images."""

    name: str
    finding: str | None
    made: Estimate
    real: Estimate

    def record(self) -> dict[str, Any]:
        """As evaluation.json holds it, NaN where there is no figure."""
        return {
            "name": self.name, "finding": self.finding,
            "value": self.made.value, "low": self.made.ci_low, "high": self.made.ci_high,
            "real": self.real.value, "real_low": self.real.ci_low, "real_high": self.real.ci_high,
            "n": self.made.n,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class GateCounts:
    """Counts of a dataset's gate, and how many groups were delivered."""

    reported: Acceptance
    groups: int

    def tried(self, finding: str | None) -> tuple[int, int]:
        """Attempts accepted, and attempts, at groups of the finding or at all; what had no place was not tried."""
        if finding is not None:
            return self.reported.accepted.get(finding, 0), self.reported.tried.get(finding, 0)
        refused = sum(count for check, count in self.reported.reasons.items() if check != PLACEMENT)
        return self.groups, self.groups + refused


@dataclass(frozen=True, slots=True, eq=False)
class Sets:
    """The three sets of images, all of them or those of one finding; images are `size` pixels wide."""

    made: ImageSet
    reference: ImageSet
    second: ImageSet
    size: int

    def showing(self, finding: str) -> Sets:
        """The same sets, of each the images that show a finding."""
        made, reference, second = (one.showing(finding) for one in self.all)
        return Sets(made, reference, second, self.size)

    @property
    def all(self) -> tuple[ImageSet, ImageSet, ImageSet]:
        """Generated images, real ones beside them, and real ones of another split."""
        return self.made, self.reference, self.second

    def equal(self) -> tuple[ImageSet, ImageSet]:
        """As many generated images as second ones."""
        count = min(len(self.made), len(self.second))
        return self.made.at_most(count, _DRAW), self.second.at_most(count, _DRAW)


def rows_of(
    sets: Sets, judged: Sequence[str], findings: Sequence[str], gate: GateCounts | None = None
) -> list[DatasetRow]:
    """All rows: those of all images, then those of each finding. `judged` are the classifier's findings."""
    rows = [*_paired_rows(sets, None, ORGANS), *_label_rows(sets, judged), *_set_rows(sets, None)]
    rows += [*_look_rows(sets, None), *_gate_rows(sets.made, None, gate)]
    for name in findings:
        of_one = sets.showing(name)
        if not len(of_one.made):
            continue
        rows += [*_paired_rows(of_one, name, ()), *_finding_rows(sets, judged, name)]
        rows += [*_set_rows(of_one, name), *_look_rows(of_one, name), *_gate_rows(of_one.made, name, gate)]
    return rows


def findings_of(made: ImageSet, asked: Sequence[str]) -> list[str]:
    """What rows are made for: the findings asked for, in NAMES' order, and images without any."""
    return [name for name in NAMES if name in asked or (name == NO_FINDING and (made.label(name) == 1).any())]


def _row(
    name: str, finding: str | None, figure: Callable[[ImageSet], Estimate], made: ImageSet, real: ImageSet
) -> DatasetRow:
    """The same figure of both sets, unknown of one without images."""
    return DatasetRow(name, finding, *(figure(one) if len(one) else unknown() for one in (made, real)))


def _paired_rows(sets: Sets, finding: str | None, organs: Iterable[str]) -> list[DatasetRow]:
    """MS-SSIM to the real image of the same mask; Dice of the evaluator segmenter's organs and the mask's."""
    made = sets.made

    def dice_of(at: int) -> Callable[[ImageSet], Estimate]:
        return lambda one: one.bootstrap().mean(one.measurements.dice[:, at])

    return [
        DatasetRow(MS_SSIM, finding, made.bootstrap().mean(made.paired), unknown()),
        _row(DICE, finding, _dice, made, sets.reference),
        *(
            _row(f"Dice {organ.replace('_', ' ')}", finding, dice_of(at), made, sets.reference)
            for at, organ in enumerate(organs)
        ),
    ]


def _dice(images: ImageSet) -> Estimate:
    """Mean over images of the mean over organs that the mask or the image has."""
    known = ~np.isnan(images.measurements.dice)
    total, count = np.where(known, images.measurements.dice, 0.0).sum(axis=1), known.sum(axis=1)
    return images.bootstrap().mean(divided(total, count))


def _label_rows(sets: Sets, judged: Sequence[str]) -> list[DatasetRow]:
    """Macro-F1 and mean AUC over the findings that the classifier knows and generated images have."""
    names = [name for name in judged if (sets.made.label(name) == 1).any()]
    columns = [judged.index(name) for name in names]
    at = [NAMES.index(name) for name in names]
    if not names:
        return [DatasetRow(name, None, unknown(), unknown()) for name in (MACRO_F1, AUC)]

    def of(statistic: Callable[..., Estimate]) -> Callable[[ImageSet], Estimate]:
        return lambda one: statistic(one.measurements.logits[:, columns], one.labels[:, at], one.bootstrap())

    return [
        _row(name, None, of(statistic), sets.made, sets.reference)
        for name, statistic in ((MACRO_F1, macro_f1), (AUC, macro_area))
    ]


def _finding_rows(sets: Sets, judged: Sequence[str], finding: str) -> list[DatasetRow]:
    """F1 and AUC of one finding over all images: those without it are the negatives."""
    if finding not in judged:
        return []
    column, at = judged.index(finding), NAMES.index(finding)

    def f1(one: ImageSet) -> Estimate:
        return macro_f1(one.measurements.logits[:, [column]], one.labels[:, [at]], one.bootstrap())

    def auc(one: ImageSet) -> Estimate:
        return area(one.measurements.logits[:, column], one.labels[:, at], one.bootstrap())

    return [_row(name, finding, one, sets.made, sets.reference) for name, one in ((F1, f1), (AUC, auc))]


def _set_rows(sets: Sets, finding: str | None) -> list[DatasetRow]:
    """Distances between sets, in the evaluator classifier's features and, where given, in Inception's."""
    rows = []
    least = min(len(one) for one in sets.all)
    if finding is None or least >= LEAST_FOR_FRECHET:
        rows.append(_distance_row(FRECHET, finding, sets, frechet_figure, _features))
        if _inception(sets.made).shape[1]:
            rows.append(_distance_row(FID, finding, sets, frechet_figure, _inception))
    rows.append(_distance_row(KERNEL, finding, sets, kernel_figure, _features))
    if _inception(sets.made).shape[1]:
        rows.append(_distance_row(KID, finding, sets, kernel_figure, _inception))
    if finding is None or least >= LEAST_FOR_MANIFOLD:
        rows += _manifold_rows(sets, finding)
    return rows


def _distance_row(
    name: str,
    finding: str | None,
    sets: Sets,
    distance: Callable[[Any, Any, Bootstrap], Estimate],
    features: Callable[[ImageSet], Any],
) -> DatasetRow:
    reference = features(sets.reference)
    return _row(name, finding, lambda one: distance(features(one), reference, one.bootstrap()), *sets.equal())


def _manifold_rows(sets: Sets, finding: str | None) -> list[DatasetRow]:
    made, second = (_manifold_figures(one, sets.reference) for one in sets.equal())
    return [DatasetRow(name, finding, *pair) for name, *pair in zip(MANIFOLD, made, second, strict=True)]


def _manifold_figures(images: ImageSet, reference: ImageSet) -> list[Estimate]:
    """Precision, recall, density, coverage; intervals take the other set as it is."""
    found = manifold(
        images.measurements.features,
        reference.measurements.features,
        images.groups.tolist(),
        reference.groups.tolist(),
    )
    if found is None:
        return [unknown(len(images))] * len(MANIFOLD)
    own, real = images.bootstrap(), reference.bootstrap()
    boots = (own, real, own, real)
    return [boot.mean(getattr(found, name)) for name, boot in zip(MANIFOLD, boots, strict=True)]


def _look_rows(sets: Sets, finding: str | None) -> list[DatasetRow]:
    """Power over real images by frequency, and how alike images are among themselves."""
    name = ALL if finding is None else finding
    alike = DatasetRow(
        DIVERSITY, finding, sets.made.pairs.figure(name), sets.reference.pairs.figure(name)
    )  # fmt: skip
    if not len(sets.reference):
        return [alike]
    rows = [_power_row(SHARPNESS, finding, sets, lambda one: upper_power(one.measurements.rings, sets.size))]
    if finding is None:
        rows += [_power_row(POWER.format(at + 1), None, sets, _ring(at)) for at in range(RINGS)]
    return [*rows, alike]


def _ring(at: int) -> Callable[[ImageSet], Any]:
    return lambda images: images.measurements.rings[:, at]


def _power_row(name: str, finding: str | None, sets: Sets, power: Callable[[ImageSet], Any]) -> DatasetRow:
    under, boot = power(sets.reference), sets.reference.bootstrap()
    return _row(
        name, finding, lambda one: one.bootstrap().mean_over(power(one), boot, under), sets.made, sets.second
    )


def _gate_rows(made: ImageSet, finding: str | None, gate: GateCounts | None) -> list[DatasetRow]:
    """What the gate flagged and accepted; nothing where there was none."""
    if gate is None:
        return []
    flagged = DatasetRow(FLAGGED, finding, made.bootstrap().mean(made.flagged.astype(float)), unknown())
    return [flagged, DatasetRow(ACCEPTED, finding, proportion(*gate.tried(finding)), unknown())]
