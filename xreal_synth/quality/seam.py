"""Seams: steps in the image along a region's border that its healthy twin does not have there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from xreal_synth.findings import FEATHER_SHARE
from xreal_synth.masks import bounding_box
from xreal_synth.quality.checks import CheckEntry, JudgedImage, NetworkReadings, Region, Score
from xreal_synth.types import GreyImage

Steps = npt.NDArray[np.float64]

FLOOR: Final = 2.0
"""Grey levels that a step in the twin counts at least: a smooth twin makes no seam of a faint step."""


def measure(image: JudgedImage, seen: NetworkReadings) -> dict[str, float]:
    """`energy`: the step across the region's border over the twin's there; nothing without twin or region."""
    if image.region is None or image.twin is None:
        return {}
    energy = seam_energy(image.image, image.twin, image.region)
    return {} if energy is None else {"energy": energy}


def seam_energy(image: GreyImage, twin: GreyImage, region: Region) -> float | None:
    """Mean step across a line over the twin's across the same line, the largest of the lines from
    the border to the feather's width inside; None for a region without a border.
    Images uint8 [H, W], the region bool [H, W].
    """
    box = bounding_box(region)
    if box is None:
        return None
    y, x = (slice(max(0, low - 1), high + 1) for low, high in ((box[1], box[3]), (box[0], box[2])))
    inside = region[y, x]
    depth = ndimage.distance_transform_edt(inside)
    width = round(FEATHER_SHARE * image.shape[0])
    deepest = float(depth.max())
    pairs = [(axis, _steps(image[y, x], axis), _steps(twin[y, x], axis)) for axis in (0, 1)]
    ratios = [_ratio(pairs, depth > at) for at in range(width + 1) if at < deepest]
    found = [ratio for ratio in ratios if ratio is not None]
    return max(found) if found else None


def _ratio(pairs: Sequence[tuple[int, Steps, Steps]], inside: Region) -> float | None:
    """Of one line, the border of `inside`; by axis the steps of the image and of the twin."""
    steps, twins = [], []
    for axis, own, other in pairs:
        across = np.diff(inside, axis=axis)
        steps.append(own[across])
        twins.append(other[across])
    if not sum(len(part) for part in steps):
        return None
    return _mean(steps) / max(FLOOR, _mean(twins))


def _steps(image: GreyImage, axis: int) -> Steps:
    return np.diff(image.astype(np.float64), axis=axis)


def _mean(steps: Sequence[Steps]) -> float:
    return float(np.abs(np.concatenate(steps)).mean())


CHECK: Final = CheckEntry(
    name="seam", rank=1, about="Steps along the border of what was painted; needs nothing.", measure=measure,
    scores={
        "energy": Score(
            False, "steps across the region's border, times the twin's",
            "Largest step across the border over the healthy twin's across the same line.", 2.2, 1.9, (0, None),
        ),
    },
)  # fmt: skip
