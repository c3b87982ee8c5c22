"""Do images show the findings they were asked for, and where? What an evaluator classifier says beside real images;
peaks and boxes of a locator's or a detector's maps, beside the boxes asked for or real ones.

Shapes: N images, L findings, m the side of a map, M boxes found, D draws of a bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch.nn import functional

from xreal_synth.dataset.meta import norm_box
from xreal_synth.evaluation.cases import Case
from xreal_synth.evaluation.intervals import Array, Bootstrap, Estimate, Statistic, divided, mean_of
from xreal_synth.types import NormBox

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


def finding_figures(
    cases: Sequence[Case],
    known: Sequence[str],
    judged: Sequence[str],
    logits: tuple[Array, Array, Array],
    bootstrap: Bootstrap,
) -> tuple[dict[str, FindingFigures], Estimate, Estimate]:
    """Figures of each finding that the bundle (`known`) and the evaluators (`judged`) know; and macro-F1 over these, on
    generated and on real images.

    `logits` [N, L] are the evaluators' on the generated images, their healthy twins and the real images. An image that
    was given no finding is its own twin.
    """
    names = [name for name in known if name in judged]
    columns = [judged.index(name) for name in names]
    labels = label_table([(frozenset(case.row.labels), frozenset(case.row.unknown)) for case in cases], names)
    asked = label_table([(c.asked, frozenset(c.unplaced) | frozenset(c.row.unknown)) for c in cases], names)
    given = np.asarray([bool(case.findings) for case in cases])
    made, twins, real = (one[:, columns] for one in logits)
    change, found = made - twins, {}
    for at, name in enumerate(names):
        shown, rises = asked[:, at] == 1, (change[:, at] > 0).astype(float)
        found[name] = FindingFigures(
            positives=int(shown.sum()),
            auc=area(made[:, at], asked[:, at], bootstrap),
            auc_real=area(real[:, at], labels[:, at], bootstrap),
            rises=bootstrap.mean(np.where(shown, rises, np.nan)),
            rises_unasked=bootstrap.mean(np.where((asked[:, at] == 0) & given, rises, np.nan)),
            change=bootstrap.mean(np.where(shown, change[:, at], np.nan)),
        )
    return found, macro_f1(made, asked, bootstrap), macro_f1(real, labels, bootstrap)


def area(scores: Array, labels: Labels, bootstrap: Bootstrap) -> Estimate:
    """Area under the ROC curve: the chance that a positive image scores above a negative one, ties half."""
    positive, negative = int((labels == 1).sum()), int((labels == 0).sum())
    return bootstrap.interval(area_of(scores, labels), min(positive, negative) and positive + negative)


def macro_area(scores_NL: Array, labels_NL: Labels, bootstrap: Bootstrap) -> Estimate:
    """Mean over findings of the area under the ROC curve; findings without both kinds of images are left out."""
    both = [at for at in range(labels_NL.shape[1]) if {0, 1} <= set(labels_NL[:, at].tolist())]
    each = [area_of(scores_NL[:, at], labels_NL[:, at]) for at in both]

    def statistic(weights: Array) -> Array:
        return np.asarray(np.mean([one(weights) for one in each], axis=0))

    return bootstrap.interval(statistic, len(labels_NL) if each else 0)


def area_of(scores: Array, labels: Labels) -> Statistic:
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


def macro_f1(logits_NL: Array, labels_NL: Labels, bootstrap: Bootstrap) -> Estimate:
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
        [1 if name in positive else -1 if name in unknown else 0 for name in findings] for positive, unknown in images
    ]
    return np.asarray(rows, np.int64).reshape(len(images), len(findings))


PEAK_SIDE: Final = 64
"""A peak is one of PEAK_SIDE x PEAK_SIDE cells, numbered row by row."""

Peaks = npt.NDArray[np.int64]
Boxes = tuple[tuple[NormBox, ...], ...]
"""Of one image: the boxes of each finding."""


@dataclass(frozen=True, slots=True)
class PlaceFigures:
    """Shares of images whose map of a finding has its peak inside a box of that finding (the pointing game).

    `asked` of generated images, in the boxes asked for; `twin` of their healthy twins, in the same boxes: what the
    usual place of the finding is worth; `real` of real images, in their radiologists' boxes.
    """

    asked: Estimate
    twin: Estimate
    real: Estimate


def place_figures(
    cases: Sequence[Case],
    known: Sequence[str],
    placed: Sequence[str],
    peaks: tuple[Peaks, Peaks, Peaks],
    size: int,
    bootstrap: Bootstrap,
) -> tuple[dict[str, PlaceFigures], PlaceFigures | None]:
    """Figures of each finding that the bundle (`known`) and the locator (`placed`) know, and their mean over those
    that have all three; None where none has.

    `peaks` are those of the generated, twin and real images [N, L]; boxes asked for are in pixels of images of `size`.
    """
    findings = [name for name in known if name in placed]
    columns = [placed.index(name) for name in findings]
    asked = [
        [
            [norm_box(box, (size, size)) for one in case.findings if one.name == name for box in one.boxes]
            for name in findings
        ]
        for case in cases
    ]
    real = [[[box.box for box in case.row.boxes if box.name == name] for name in findings] for case in cases]
    hits = [hit_table(one[:, columns], boxes) for one, boxes in zip(peaks, (asked, asked, real), strict=True)]
    found = {name: PlaceFigures(*(bootstrap.mean(table[:, at]) for table in hits)) for at, name in enumerate(findings)}
    whole = [at for at in range(len(findings)) if all((~np.isnan(table[:, at])).any() for table in hits)]
    mean = PlaceFigures(*(mean_share(table[:, whole], bootstrap) for table in hits)) if whole else None
    return found, mean


def hit_table(peaks_NL: Peaks, boxes: Sequence[Sequence[Sequence[NormBox]]]) -> Array:
    """[N, L]: 1 where the peak's cell touches one of the finding's boxes on the image, 0 elsewhere, NaN without box.

    Such a cell reaches as far as the usual tolerance of the pointing game, 15 pixels in 1024.
    """
    table = np.full(peaks_NL.shape, np.nan)
    for image, of_image in enumerate(boxes):
        for finding, own in enumerate(of_image):
            if own:
                row, column = divmod(int(peaks_NL[image, finding]), PEAK_SIDE)
                x0, y0, x1, y1 = np.asarray(own).T * PEAK_SIDE
                inside = (x0 < column + 1) & (x1 > column) & (y0 < row + 1) & (y1 > row)
                table[image, finding] = inside.any()
    return table


def mean_share(hits_NL: Array, bootstrap: Bootstrap) -> Estimate:
    """Mean over findings of the mean over images, NaN left out, on the same draws of patients."""
    each = mean_of(hits_NL)
    known = int((~np.isnan(hits_NL)).any(axis=1).sum())
    return bootstrap.interval(lambda weights: np.asarray(each(weights).mean(axis=1)), known)


SHARE_OF_PEAK: Final = 0.5
"""A box is drawn round connected cells of at least this share of the map's highest probability: relative, so that a
detector whose probabilities are off, as after training on synthetic images, is judged by its places alone."""

LEAST_OVERLAP: Final = 0.25
"""Intersection over union from which a box is found. Maps have some ten cells a side and readers' boxes are rough:
usual thresholds are .1 to .7 on NIH's boxes, .4 upwards on RSNA's."""

IMAGE, FINDING, SCORE, PEAK = range(4)
"""Columns of the boxes found; the box itself, normalised xyxy, stands in the last four."""


def boxes_found(maps_NLmm: npt.NDArray[np.float64]) -> Array:
    """Maps of logits -> boxes [M, 8]: image, finding, highest probability, its cell (of PEAK_SIDE), the box.

    Every map gives one box or more; the map's own peak is that of its box with the highest probability.
    """
    fine = functional.interpolate(
        torch.from_numpy(maps_NLmm), size=(PEAK_SIDE, PEAK_SIDE), mode="bicubic", align_corners=False
    )
    found = []
    for image, maps in enumerate(fine.sigmoid().numpy()):
        for finding, chances in enumerate(maps):
            parts, _ = ndimage.label(chances >= SHARE_OF_PEAK * chances.max())
            for number, (down, across) in enumerate(ndimage.find_objects(parts), start=1):
                peak = int(np.where(parts == number, chances, -1).argmax())
                box = [end / PEAK_SIDE for end in (across.start, down.start, across.stop, down.stop)]
                found.append([image, finding, float(chances.flat[peak]), peak, *box])
    return np.asarray(found, np.float64)


def pointing_of(found_M8: Array, finding: int, boxes: Sequence[Boxes]) -> Statistic:
    """The share of images with boxes of the finding whose map peaks in one, as a statistic [D, N] -> [D]."""
    own = found_M8[found_M8[:, FINDING] == finding]
    own = own[np.argsort(own[:, SCORE], kind="stable")]
    peaks = np.zeros((len(boxes), 1), np.int64)
    peaks[own[:, IMAGE].astype(int), 0] = own[:, PEAK]
    return mean_of(hit_table(peaks, [[of_image[finding]] for of_image in boxes])[:, 0])


def precision_of(found_M8: Array, finding: int, labels_N: Labels, boxes: Sequence[Boxes]) -> Statistic:
    """Average precision of the finding's boxes, best first, as a statistic [D, N] -> [D].

    The mean over real boxes of the precision down to the box that finds it, 0 for those never found. A real box is
    found once. Images whose label, or the finding's place, is not known are left out.
    """
    rows = found_M8[(found_M8[:, FINDING] == finding) & (labels_N[found_M8[:, IMAGE].astype(int)] >= 0)]
    rows = rows[np.argsort(-rows[:, SCORE], kind="stable")]
    of_image = rows[:, IMAGE].astype(int)
    left = [list(image[finding]) for image in boxes]
    hits = np.asarray([_take(tuple(row[4:]), left[at]) for row, at in zip(rows, of_image, strict=True)], float)
    wanted = np.asarray([len(image[finding]) for image in boxes], np.float64) * (labels_N >= 0)

    def statistic(weights: Array) -> Array:
        each = weights[:, of_image]
        right = each * hits
        precision = divided(right.cumsum(axis=1), each.cumsum(axis=1))
        return divided(np.where(right > 0, right * precision, 0.0).sum(axis=1), weights @ wanted)

    return statistic


def overlap(one: NormBox, other: NormBox) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both) if both else 0.0


def _take(box: NormBox, left: list[NormBox]) -> bool:
    """Whether the box finds one of those left, which is then taken away."""
    best = max(left, key=lambda real: overlap(box, real), default=None)
    if best is None or overlap(box, best) < LEAST_OVERLAP:
        return False
    left.remove(best)
    return True
