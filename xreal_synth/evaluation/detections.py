"""Boxes from a detector's maps, and how well they stand beside real boxes: pointing game and average precision.

Shapes: N images, L findings, m the side of a map, M boxes found, D draws of a bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch.nn import functional

from xreal_synth.evaluation.findings import Labels
from xreal_synth.evaluation.intervals import Array
from xreal_synth.evaluation.places import PEAK_SIDE, hit_table
from xreal_synth.evaluation.utility import Boxes
from xreal_synth.types import NormBox

SHARE_OF_PEAK: Final = 0.5
"""A box is drawn round connected cells of at least this share of the map's highest probability: relative, so that a
detector whose probabilities are off, as after training on synthetic images, is judged by its places alone."""

LEAST_OVERLAP: Final = 0.25
"""Intersection over union from which a box is found. Maps have some ten cells a side and readers' boxes are rough:
usual thresholds are .1 to .7 on NIH's boxes, .4 upwards on RSNA's."""

IMAGE, FINDING, SCORE, PEAK = range(4)
"""Columns of the boxes found; the box itself, normalised xyxy, stands in the last four."""


def boxes_found(maps_NLmm: npt.NDArray[np.float64]) -> Array:
    """Maps of logits -> boxes [M, 8]: image, finding, highest probability, its cell (places.PEAK_SIDE), the box.

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


def pointing_of(found_M8: Array, finding: int, boxes: Sequence[Boxes]) -> Callable[[Array], Array]:
    """The share of images with boxes of the finding whose map peaks in one, as a statistic [D, N] -> [D]."""
    own = found_M8[found_M8[:, FINDING] == finding]
    own = own[np.argsort(own[:, SCORE], kind="stable")]
    peaks = np.zeros((len(boxes), 1), np.int64)
    peaks[own[:, IMAGE].astype(int), 0] = own[:, PEAK]
    hits = hit_table(peaks, [[of_image[finding]] for of_image in boxes])[:, 0]
    known = (~np.isnan(hits)).astype(np.float64)
    filled = np.where(known > 0, hits, 0.0)
    return lambda weights: _share(weights @ filled, weights @ known)


def precision_of(
    found_M8: Array, finding: int, labels_N: Labels, boxes: Sequence[Boxes]
) -> Callable[[Array], Array]:
    """Average precision of the finding's boxes, best first, as a statistic [D, N] -> [D].

    The mean over real boxes of the precision down to the box that finds it, 0 for those never found. A real box is
    found once. Images whose label, or the finding's place, is not known are left out.
    """
    rows = found_M8[(found_M8[:, FINDING] == finding) & (labels_N[found_M8[:, IMAGE].astype(int)] >= 0)]
    rows = rows[np.argsort(-rows[:, SCORE], kind="stable")]
    of_image = rows[:, IMAGE].astype(int)
    left = [list(image[finding]) for image in boxes]
    hits = np.asarray(
        [_take(tuple(row[4:]), left[at]) for row, at in zip(rows, of_image, strict=True)], float
    )
    wanted = np.asarray([len(image[finding]) for image in boxes], np.float64) * (labels_N >= 0)

    def statistic(weights: Array) -> Array:
        each = weights[:, of_image]
        right = each * hits
        precision = _share(right.cumsum(axis=1), each.cumsum(axis=1))
        return _share(np.where(right > 0, right * precision, 0.0).sum(axis=1), weights @ wanted)

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


def _share(over: Array, under: Array) -> Array:
    return np.asarray(np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0))
