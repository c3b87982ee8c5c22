"""Do images show the findings they were asked for? What an evaluator classifier says, beside real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xreal_synth.evaluation.intervals import Array, Bootstrap, Estimate, divided

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
"""1, 0, or -1 where a label is not known."""


@dataclass(frozen=True, slots=True)
class FindingFigures:
    """One finding: the classifier's area under the ROC curve on made and on real images.

    `rises` is the share of generated images with the finding whose score for it is higher than their healthy
    twin's, `rises_unasked` the same of images that were given other findings only, `change` the mean
    difference of the logits.
    """

    positives: int
    auc: Estimate
    auc_real: Estimate
    rises: Estimate
    rises_unasked: Estimate
    change: Estimate

    @property
    def overlap(self) -> bool:
        """Whether the intervals of generated and real images' AUC meet; False where one is not known."""
        return self.auc.known and self.auc_real.known and self.auc.overlaps(self.auc_real)


@dataclass(frozen=True, slots=True, eq=False)
class FindingScores:
    """One finding's logits [N] on generated images, their healthy twins and the real images, and its labels [N].

    `asked` is what was asked for, `labels` what the real image has; `given` is where the image was given any
    finding (elsewhere it is its own twin).
    """

    made: Scores
    twins: Scores
    real: Scores
    asked: Labels
    labels: Labels
    given: npt.NDArray[np.bool_]


def finding_figures(scores: FindingScores, bootstrap: Bootstrap) -> FindingFigures:
    """What a classifier's logits say of one finding."""
    change, asked = scores.made - scores.twins, scores.asked
    rises = (change > 0).astype(float)
    return FindingFigures(
        positives=int((asked == 1).sum()),
        auc=area(scores.made, asked, bootstrap),
        auc_real=area(scores.real, scores.labels, bootstrap),
        rises=bootstrap.mean(np.where(asked == 1, rises, np.nan)),
        rises_unasked=bootstrap.mean(np.where((asked == 0) & scores.given, rises, np.nan)),
        change=bootstrap.mean(np.where(asked == 1, change, np.nan)),
    )


def area(scores: Scores, labels: Labels, bootstrap: Bootstrap) -> Estimate:
    """Area under the ROC curve: the chance that a positive image scores above a negative one, ties half."""
    positive, negative = int((labels == 1).sum()), int((labels == 0).sum())
    return bootstrap.interval(area_of(scores, labels), min(positive, negative) and positive + negative)


def macro_area(scores_NL: Scores, labels_NL: Labels, bootstrap: Bootstrap) -> Estimate:
    """Mean over findings of the area under the ROC curve; findings without both kinds of images are left out."""
    both = [at for at in range(labels_NL.shape[1]) if {0, 1} <= set(labels_NL[:, at].tolist())]
    each = [area_of(scores_NL[:, at], labels_NL[:, at]) for at in both]

    def statistic(weights: Array) -> Array:
        return np.asarray(np.mean([one(weights) for one in each], axis=0))

    return bootstrap.interval(statistic, len(labels_NL) if each else 0)


def area_of(scores: Scores, labels: Labels) -> Callable[[Array], Array]:
    """The area as a statistic of how often each image counts, [D, N] -> [D], for `Bootstrap.interval`.

    Images are taken in the order of their scores, equal scores side by side: memory is that of the weights.
    """
    known = np.flatnonzero(labels >= 0)
    order = known[np.argsort(scores[known], kind="stable")]
    starts = np.unique(scores[order], return_index=True)[1]
    positive = (labels[order] == 1).astype(np.float64)

    def statistic(weights: Array) -> Array:
        ordered = weights[:, order]
        p = np.add.reduceat(ordered * positive, starts, axis=1)
        n = np.add.reduceat(ordered * (1 - positive), starts, axis=1)
        below = np.cumsum(n, axis=1) - n
        pairs = p.sum(axis=1) * n.sum(axis=1)
        won = (p * (below + 0.5 * n)).sum(axis=1)
        return divided(won, pairs)

    return statistic


def macro_f1(logits_NL: Scores, labels_NL: Labels, bootstrap: Bootstrap) -> Estimate:
    """Mean over findings of F1 at a probability of one half; findings without positive images are left out."""
    said, known = logits_NL > 0, labels_NL >= 0
    kept = (labels_NL == 1).any(axis=0)
    right = (said & (labels_NL == 1))[:, kept].astype(float)
    either = ((said & known).astype(float) + (labels_NL == 1))[:, kept]

    def statistic(weights: Array) -> Array:
        under = weights @ either
        f1 = np.divide(2 * (weights @ right), under, out=np.zeros(under.shape), where=under > 0)
        return f1.mean(axis=1) if f1.shape[1] else np.full(len(f1), np.nan)

    return bootstrap.interval(statistic, len(labels_NL))


def label_table(images: Sequence[tuple[frozenset[str], frozenset[str]]], findings: Sequence[str]) -> Labels:
    """Positive and unknown names of each image -> [N, L] of 1, 0, -1."""
    rows = [
        [1 if name in positive else -1 if name in unknown else 0 for name in findings]
        for positive, unknown in images
    ]
    return np.asarray(rows, np.int64).reshape(len(images), len(findings))
