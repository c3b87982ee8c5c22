"""Measures of an organ mask: boxes, areas, the cardiothoracic ratio."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from xreal_synth.findings import HEART, LEFT_LUNG, RIGHT_LUNG
from xreal_synth.masks import bounding_box
from xreal_synth.types import Mask, PixelBox


def organ_boxes(mask: Mask) -> tuple[PixelBox | None, ...]:
    """Half-open xyxy boxes by code - 1; None where the organ is missing. Of a mask uint8 [H, W]."""
    slices = ndimage.find_objects(mask, max_label=4)
    return tuple(None if s is None else (s[1].start, s[0].start, s[1].stop, s[0].stop) for s in slices)


def organ_areas(mask: Mask) -> tuple[int, ...]:
    """Pixels by code: index 0 is the background, 1..4 the organs. Of a mask uint8 [H, W]."""
    return tuple(int(count) for count in np.bincount(mask.ravel(), minlength=5)[:5])


def organ_box(mask: Mask, code: int) -> PixelBox:
    """The half-open xyxy pixel box of an organ that is known to be there. Of a mask uint8 [H, W]."""
    box = bounding_box(mask == code)
    assert box is not None, f"no organ of code {code}: masks are validated before they are measured"
    return box


def cardiothoracic_ratio(mask: Mask) -> float:
    """Widest extent of the heart over the widest extent of the chest, both horizontal.

    The chest's width is the largest distance in one row between the outer borders of the lungs; where no
    row holds both lungs, the width of the box round both. Of a mask uint8 [H, W]; 0..1.
    """
    boxes = organ_boxes(mask)
    heart = boxes[HEART - 1]
    if heart is None:
        return 0.0
    left, right = boxes[LEFT_LUNG - 1], boxes[RIGHT_LUNG - 1]
    assert left is not None, "a validated mask has a left lung"
    assert right is not None, "a validated mask has a right lung"
    y0, y1 = max(left[1], right[1]), min(left[3], right[3])
    rows = (mask[y0:y1] == LEFT_LUNG) | (mask[y0:y1] == RIGHT_LUNG)
    if rows.size:
        width = mask.shape[1]
        extent = width - rows.argmax(axis=1) - rows[:, ::-1].argmax(axis=1)
        chest = int(extent[rows.any(axis=1)].max())
    else:
        chest = max(left[2], right[2]) - min(left[0], right[0])
    return (heart[2] - heart[0]) / chest
