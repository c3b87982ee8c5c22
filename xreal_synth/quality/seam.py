"""Seams: steps in the image along a region's border that its healthy twin does not have there."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy import ndimage

from xreal_synth.findings import FEATHER_SHARE
from xreal_synth.masks import bounding_box
from xreal_synth.quality.checks import CheckEntry, JudgedImage, NetworkReadings, Score

FLOOR: Final = 2.0
"""Grey levels that a step in the twin counts at least: a smooth twin makes no seam of a faint step."""


def measure(image: JudgedImage, seen: NetworkReadings) -> dict[str, float]:
    """`energy`: the mean step across a line over the twin's across the same line, the largest of the lines from the
    region's border to the feather's width inside; nothing without twin, region or border."""
    box = None if image.region is None else bounding_box(image.region)
    if image.twin is None or image.region is None or box is None:
        return {}
    y, x = (slice(max(0, low - 1), high + 1) for low, high in ((box[1], box[3]), (box[0], box[2])))
    depth = ndimage.distance_transform_edt(image.region[y, x])
    both = np.stack([image.image[y, x], image.twin[y, x]]).astype(np.float64)
    steps = [np.abs(np.diff(both, axis=axis)) for axis in (1, 2)]
    found, deepest = [], float(depth.max())
    for at in range(round(FEATHER_SHARE * image.image.shape[0]) + 1):
        if at >= deepest:
            break
        lines = [np.diff(depth > at, axis=axis) for axis in (0, 1)]
        across = np.concatenate([own[:, line] for own, line in zip(steps, lines, strict=True)], axis=1)
        if across.size:
            found.append(float(across[0].mean()) / max(FLOOR, float(across[1].mean())))
    return {"energy": max(found)} if found else {}


CHECK: Final = CheckEntry(
    name="seam", rank=1, about="Steps along the border of what was painted; needs nothing.", measure=measure,
    scores={
        "energy": Score(
            False, "steps across the region's border, times the twin's",
            "Largest step across the border over the healthy twin's across the same line.", 2.2, 1.9, (0, None),
        ),
    },
)  # fmt: skip
