"""Region maps of real images, which a denoiser learns the place of a finding from, and how often images are drawn.

Shapes: N images of S x S pixels, R findings with a map, m = SIDE the maps' side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from xreal_synth.findings import FINDINGS, NO_FINDING, REGIONS
from xreal_synth.images.manifest import ImageRow
from xreal_synth.training.settings import DrawSettings
from xreal_synth.types import Mask, NormBox

SIDE = 64
PLACELESS = frozenset({NO_FINDING, "Lung Opacity", "Support Devices"})
"""Labels that name nothing with a place of its own; "Lung Opacity" comes with the finding that it is the opacity of."""

Maps = npt.NDArray[np.uint8]


def region_maps(rows: Sequence[ImageRow], label_maps_NSS: Mask, findings: Sequence[str]) -> Maps:
    """uint8 [N, R + 1, m, m], 255 where a finding is; the last map is 255 where one is whose place is unknown.

    A finding that takes in a whole organ has that organ's region; any other its boxes.
    """
    maps = np.zeros((len(rows), len(findings) + 1, SIDE, SIDE), np.uint8)
    for row, label_map, found in zip(rows, label_maps_NSS, maps, strict=True):
        for name in set(row.labels) - PLACELESS | {box.name for box in row.boxes}:
            region = _region(row, label_map, name) if name in findings else None
            if region is None:
                found[-1] = 255
            else:
                found[findings.index(name)] = region
    return maps


def draw_weights(rows: Sequence[ImageRow], draw: DrawSettings, maps: Maps | None) -> npt.NDArray[np.float64]:
    """float64 [N]: how often each image is drawn, of mean 1."""
    boxed = np.zeros(len(rows), bool) if maps is None else maps[:, :-1].any(axis=(1, 2, 3))
    weights = np.array([max([1.0, *(draw.findings.get(name, 1.0) for name in row.labels)]) for row in rows])
    weights *= np.where(boxed, draw.boxed, 1.0)
    if draw.balance_view:
        shown = np.array([bool(set(row.labels) - PLACELESS) for row in rows])
        views = np.array([row.view for row in rows])
        for positive in (False, True):
            present = [view for view in ("PA", "AP") if ((shown == positive) & (views == view)).any()]
            total = weights[(shown == positive) & np.isin(views, present)].sum()
            for view in present:
                kind = (shown == positive) & (views == view)
                weights[kind] *= total / len(present) / weights[kind].sum()
    return np.asarray(weights / weights.mean())


def _region(row: ImageRow, label_map: Mask, name: str) -> Maps | None:
    """uint8 [m, m], or None where neither the finding's shape nor a box says where it is."""
    rule = REGIONS[FINDINGS[name].region]
    if rule.mask is not None and rule.side is not None:
        whole = Image.fromarray(rule.mask(label_map, rule.side, None).astype(np.uint8) * 255)
        return np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.BOX))
    boxes = [box.box for box in row.boxes if box.name == name]
    return np.maximum.reduce([box_map(box) for box in boxes]) if boxes else None


def box_map(box: NormBox) -> Maps:
    """uint8 [m, m]: 255 times the share of each cell that lies in a normalised xyxy box."""
    x0, y0, x1, y1 = (value * SIDE for value in box)
    cells = np.arange(SIDE)
    across = (np.minimum(cells + 1, x1) - np.maximum(cells, x0)).clip(0, 1)
    down = (np.minimum(cells + 1, y1) - np.maximum(cells, y0)).clip(0, 1)
    return np.asarray((255 * down[:, None] * across[None, :]).round().astype(np.uint8))
