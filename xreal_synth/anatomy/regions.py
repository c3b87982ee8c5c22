"""Regions of placed findings: where each acts, the pathology mask, and the feather of a paste."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from xreal_synth.findings import FEATHER_SHARE as FEATHER_SHARE
from xreal_synth.findings import REGIONS
from xreal_synth.masks import bounding_box, boxes_region
from xreal_synth.types import Mask, PixelBox, PlacedFinding


def snap_outward(box: tuple[float, float, float, float], factor: int, size: int) -> PixelBox:
    """A box in pixels, grown to multiples of `factor` and cut to the image of `size` (a multiple too).

    A millionth of a pixel is no reason to grow: 0.55 * 320 stays 176.
    """
    x0, y0, x1, y1 = (round(v, 6) for v in box)
    left, top = (max(0, math.floor(v / factor) * factor) for v in (x0, y0))
    right, bottom = (min(size, math.ceil(v / factor) * factor) for v in (x1, y1))
    return left, top, right, bottom


def removed_region(box: PixelBox, factor: int, size: int) -> PixelBox:
    """The region in which a finding's box is painted over: on the latent grid, with a margin in which the paste reaches
    its full strength."""
    margin = FEATHER_SHARE * size
    x0, y0, x1, y1 = box
    return snap_outward((x0 - margin, y0 - margin, x1 + margin, y1 + margin), factor, size)


def region_mask(finding: PlacedFinding, anatomy: Mask) -> npt.NDArray[np.bool_]:
    """Where the finding acts -> bool [H, W]; never outside its snapped boxes."""
    region = boxes_region(finding.boxes, anatomy.shape)
    mask = REGIONS[finding.region].mask
    if mask is not None:
        region &= mask(anatomy, finding.side, finding.size)
    return region


def shown_area(finding: PlacedFinding, region: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Where a denoiser with region maps is told that a finding is, bool [H, W]: as it was trained, the whole boxes, or
    the whole organ that the finding takes in."""
    if not REGIONS[finding.region].drawn:
        return region
    return boxes_region(finding.boxes, region.shape)


def pathology_mask(regions: Sequence[npt.NDArray[np.bool_]], shape: tuple[int, ...]) -> Mask:
    """uint8 [H, W]: 0 none, i+1 = regions[i], bool [H, W]; where two overlap the later wins."""
    label_map = np.zeros(shape, dtype=np.uint8)
    for i, region in enumerate(regions):
        label_map[region] = i + 1
    return label_map


def feather(region: npt.NDArray[np.bool_], width_px: float) -> npt.NDArray[np.float32]:
    """Paste weights float32 [H, W] in 0..1: exactly 0 outside the region, rising smoothly to 1 inside.

    The rise takes `width_px` pixels from the border inward (smoothstep of the distance), or less in a
    region too thin for that, so that every region reaches 1 somewhere. Width 0 is the region itself.
    """
    alpha = np.zeros(region.shape, dtype=np.float32)
    box = bounding_box(region)
    if box is None:
        return alpha
    x0, y0, x1, y1 = max(0, box[0] - 1), max(0, box[1] - 1), box[2] + 1, box[3] + 1
    rimmed = np.pad(region[y0:y1, x0:x1], 1)  # the image's edge is a border like any other
    distance = ndimage.distance_transform_edt(rimmed)[1:-1, 1:-1]
    rise = min(width_px + 1.0, float(distance.max()))
    t = np.minimum(1.0, distance / rise)
    alpha[y0:y1, x0:x1] = t * t * (3.0 - 2.0 * t)
    return alpha
