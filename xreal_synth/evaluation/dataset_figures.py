"""A dataset's figures beside those of real images: the paper's (Table I) and others, in all and by finding.

"Made" are a dataset's images, "reference" the real images of the split, "second" other real images. What real images
reach stands beside each figure where there is such a thing: of labels, masks and diversity the reference's own,
of distances and sharpness the second sample's against the same reference. Distances that depend on the number of
images (Frechet, precision to coverage) are taken at equal numbers on both sides: whole groups drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np

from xreal_synth.evaluation.findings import area, macro_area, macro_f1
from xreal_synth.evaluation.intervals import Array, Estimate, divided, proportion, unknown
from xreal_synth.evaluation.measurements import ALL, NAMES, RINGS, ImageSet, upper_power
from xreal_synth.evaluation.set_distances import frechet_figure, kernel_figure, manifold
from xreal_synth.findings import NO_FINDING, ORGANS

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

DISTANCES: Final = (FRECHET, KERNEL, FID, KID)
BY_FINDING: Final = (AUC, F1, MS_SSIM, DICE, KERNEL, SHARPNESS, DIVERSITY, FLAGGED, ACCEPTED)
"""The main figures, in the order of the tables by finding."""
COMPARED: Final = (MS_SSIM, FID, KID, FRECHET, KERNEL, DICE, MACRO_F1, AUC, *MANIFOLD, SHARPNESS, DIVERSITY)
"""In the paper's order, its own first; FID and KID only where there was a file for them."""

LEAST_FOR_FRECHET: Final = 50
LEAST_FOR_MANIFOLD: Final = 30
"""Images of a finding on both sides; with fewer the figure is not stated."""

Row = dict[str, Any]
"""A figure as evaluation.json holds it: name, finding (None of all images), value, low and high of generated images,
real, real_low and real_high of real ones beside them, n; NaN where there is no figure."""
Gate = Mapping[str | None, tuple[int, int]]
"""Attempts that the gate accepted, and attempts, at groups of a finding; of all under None."""

_Figure = Callable[[ImageSet], Estimate]


@dataclass(frozen=True, slots=True, eq=False)
class Sets:
    """The three sets of images, all of them or those of one finding; images are `size` pixels wide."""

    made: ImageSet
    reference: ImageSet
    second: ImageSet
    size: int

    def showing(self, finding: str) -> Sets:
        """The same sets, of each the images that show a finding."""
        made, reference, second = (one.showing(finding) for one in (self.made, self.reference, self.second))
        return Sets(made, reference, second, self.size)

    def equal(self) -> tuple[ImageSet, ImageSet]:
        """As many generated images as second ones."""
        count = min(len(self.made), len(self.second))
        return self.made.at_most(count), self.second.at_most(count)


def rows_of(
    sets: Sets, judged: Sequence[str], asked: Collection[str], gate: Gate | None
) -> tuple[list[Row], list[Row]]:
    """The rows of all images, and, where some are flagged, of the others: those of all findings together, then of each.

    `judged` are the classifier's findings, `asked` those that were asked for; No Finding is one where it is shown.
    """
    made, kept = sets.made, ~sets.made.flagged
    findings = [name for name in NAMES if name in asked or (name == NO_FINDING and (made.label(name) == 1).any())]
    rows = _all_rows(sets, judged, findings, gate)
    if kept.all() or kept.sum() < 2:
        return rows, []
    others = _all_rows(replace(sets, made=made.rows(kept)), judged, findings, None)
    return rows, [row for row in others if row["name"] != DIVERSITY]


def _all_rows(sets: Sets, judged: Sequence[str], findings: Sequence[str], gate: Gate | None) -> list[Row]:
    rows = _rows(sets, sets, None, judged, gate)
    for name in findings:
        shown = sets.showing(name)
        if len(shown.made):
            rows += _rows(shown, sets, name, judged, gate)
    return rows


def _rows(sets: Sets, whole: Sets, finding: str | None, judged: Sequence[str], gate: Gate | None) -> list[Row]:
    """The rows of a finding's images, or of all; `whole` are all sets, whose other images are its negatives."""
    made, reference = sets.made, sets.reference
    rows = [_row(MS_SSIM, finding, made.bootstrap().mean(made.paired)), _both(DICE, finding, _dice, made, reference)]
    if finding is None:
        for at, organ in enumerate(ORGANS):
            figures = (one.bootstrap().mean(_column("dice", at, one)) for one in (made, reference))
            rows.append(_row(f"Dice {organ.replace('_', ' ')}", None, *figures))
    rows += [*_label_rows(whole, finding, judged), *_set_rows(sets, finding), *_look_rows(sets, finding)]
    if gate is not None:
        rows.append(_row(FLAGGED, finding, made.bootstrap().mean(made.flagged.astype(float))))
        rows.append(_row(ACCEPTED, finding, proportion(*gate.get(finding, (0, 0)))))
    return rows


def _row(name: str, finding: str | None, made: Estimate, real: Estimate | None = None) -> Row:
    real = real or unknown()
    return {
        "name": name, "finding": finding, "value": made.value, "low": made.ci_low, "high": made.ci_high,
        "real": real.value, "real_low": real.ci_low, "real_high": real.ci_high, "n": made.n,
    }  # fmt: skip


def _both(name: str, finding: str | None, figure: _Figure, made: ImageSet, real: ImageSet) -> Row:
    """The same figure of both sets, unknown of one without images."""
    return _row(name, finding, *(figure(one) if len(one) else unknown() for one in (made, real)))


def _column(name: str, at: int, images: ImageSet) -> Array:
    return np.asarray(getattr(images, name)[:, at])


def _dice(images: ImageSet) -> Estimate:
    """Mean over images of the mean over organs that the mask or the image has."""
    known = ~np.isnan(images.dice)
    total, count = np.where(known, images.dice, 0.0).sum(axis=1), known.sum(axis=1)
    return images.bootstrap().mean(divided(total, count))


def _label_rows(sets: Sets, finding: str | None, judged: Sequence[str]) -> list[Row]:
    """F1 and AUC of the finding, or their means over the findings that the classifier knows and made images have."""
    if finding is not None and finding not in judged:
        return []
    names = [finding] if finding else [name for name in judged if (sets.made.label(name) == 1).any()]
    columns, at = [judged.index(name) for name in names], [NAMES.index(name) for name in names]

    def f1(one: ImageSet) -> Estimate:
        return macro_f1(one.logits[:, columns], one.labels[:, at], one.bootstrap())

    def auc(one: ImageSet) -> Estimate:
        if finding:
            return area(one.logits[:, columns[0]], one.labels[:, at[0]], one.bootstrap())
        return macro_area(one.logits[:, columns], one.labels[:, at], one.bootstrap())

    figures = {F1 if finding else MACRO_F1: f1, AUC: auc}
    if not names:
        return [_row(name, None, unknown()) for name in figures]
    return [_both(name, finding, figure, sets.made, sets.reference) for name, figure in figures.items()]


def _set_rows(sets: Sets, finding: str | None) -> list[Row]:
    """Distances between sets, in the evaluator classifier's features and, where given, in Inception's."""
    least = min(len(one) for one in (sets.made, sets.reference, sets.second))
    given = bool(sets.made.inception.shape[1])
    rows = []
    for name, distance, features, wanted in (
        (FRECHET, frechet_figure, "features", finding is None or least >= LEAST_FOR_FRECHET),
        (FID, frechet_figure, "inception", given and (finding is None or least >= LEAST_FOR_FRECHET)),
        (KERNEL, kernel_figure, "features", True),
        (KID, kernel_figure, "inception", given),
    ):
        if wanted:
            real = getattr(sets.reference, features)
            made, second = (distance(getattr(one, features), real, one.bootstrap()) for one in sets.equal())
            rows.append(_row(name, finding, made, second))
    if finding is None or least >= LEAST_FOR_MANIFOLD:
        figures = zip(*(_manifold_figures(one, sets.reference) for one in sets.equal()), strict=True)
        rows += [_row(name, finding, *pair) for name, pair in zip(MANIFOLD, figures, strict=True)]
    return rows


def _manifold_figures(images: ImageSet, reference: ImageSet) -> list[Estimate]:
    """Precision, recall, density, coverage; intervals take the other set as it is."""
    found = manifold(images.features, reference.features, images.groups.tolist(), reference.groups.tolist())
    if found is None:
        return [unknown(len(images))] * len(MANIFOLD)
    own, real = images.bootstrap(), reference.bootstrap()
    return [boot.mean(found[name]) for name, boot in zip(MANIFOLD, (own, real, own, real), strict=True)]


def _look_rows(sets: Sets, finding: str | None) -> list[Row]:
    """Power over real images by frequency, and how alike images are among themselves."""
    name = ALL if finding is None else finding
    alike = _row(DIVERSITY, finding, sets.made.pairs.figure(name), sets.reference.pairs.figure(name))
    if not len(sets.reference):
        return [alike]

    def power_row(name: str, power: Callable[[ImageSet], Array]) -> Row:
        under, boot = power(sets.reference), sets.reference.bootstrap()
        return _both(
            name, finding, lambda one: one.bootstrap().mean_over(power(one), boot, under), sets.made, sets.second
        )

    rows = [power_row(SHARPNESS, lambda one: upper_power(one.rings, sets.size))]
    if finding is None:
        rows += [power_row(POWER.format(at + 1), partial(_column, "rings", at)) for at in range(RINGS)]
    return [*rows, alike]
