"""Boolean masks [H, W]: their box, their scaling, their distance from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from xreal_synth.types import PixelBox

Bools = npt.NDArray[np.bool_]


def bounding_box(region: Bools) -> PixelBox | None:
    """The half-open xyxy box of the True pixels of bool [H, W]; None if there are none."""
    ys = np.flatnonzero(region.any(axis=1))
    if not ys.size:
        return None
    xs = np.flatnonzero(region[ys[0] : ys[-1] + 1].any(axis=0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def boxes_region(boxes: Iterable[PixelBox], shape: tuple[int, ...]) -> Bools:
    """bool [H, W], True inside these half-open xyxy boxes."""
    region = np.zeros(shape, dtype=bool)
    for x0, y0, x1, y1 in boxes:
        region[y0:y1, x0:x1] = True
    return region


def scale_about(organ: Bools, scale: tuple[float, float], anchor: tuple[float, float] = (0.5, 0.5)) -> Bools:
    """The organ bool [H, W] scaled by (x, y) about a point, nearest neighbour, cut to the image.

    The point is given as shares of the organ's box: its centre, where none is given.
    """
    box = bounding_box(organ)
    if box is None or scale == (1.0, 1.0):
        return organ
    height, width = organ.shape
    x = _source_index(width, box[0] + anchor[0] * (box[2] - box[0]), scale[0])
    y = _source_index(height, box[1] + anchor[1] * (box[3] - box[1]), scale[1])
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None, :]
    scaled = organ[y.clip(0, height - 1)[:, None], x.clip(0, width - 1)[None, :]]
    return np.asarray(scaled & inside)


def _source_index(length: int, centre: float, scale: float) -> npt.NDArray[np.int64]:
    """For each of `length` output pixels the input pixel it comes from (may lie outside)."""
    position = (np.arange(length) + 0.5 - centre) / scale + centre
    return np.asarray(np.floor(position), dtype=np.int64)
