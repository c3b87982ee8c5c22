"""Where a placed finding acts: its region, the pathology mask, and the feather of a paste."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from xreal_synth.anatomy.measure import bounding_box
from xreal_synth.types import Mask, PixelBox, PlacedFinding, Region
from xreal_synth.vocab import HEART, LEFT_LUNG, RIGHT_LUNG

HEART_REGION_SCALE = 1.2
"""The heart's region is the heart this much larger, room for its border to move outward: NIH's Cardiomegaly
boxes are 1.30 times as wide and 1.13 times as high as the shared masks' mean heart."""

FEATHER_SHARE = 1 / 32
"""Width of a paste's feather over the film's side: 8 pixels at 256."""

LUNGS_MARGIN = FEATHER_SHARE
"""The lungs' region is both lungs with a margin of this share of the film's side: the paste fades within the
region, so without room around the lungs a rim of the healthy twin's air would be left at their border."""


HEAL_MARGIN = FEATHER_SHARE
"""A real film's own box is painted over with a margin of this share of the film's side, so that the paste has
reached its full strength at the box's border."""


def snap_outward(box: tuple[float, float, float, float], factor: int, size: int) -> PixelBox:
    """A box in pixels, grown to multiples of `factor` and cut to the image of `size` (a multiple too).

    A millionth of a pixel is no reason to grow: 0.55 * 320 stays 176.
    """
    x0, y0, x1, y1 = (round(v, 6) for v in box)
    left, top = (max(0, math.floor(v / factor) * factor) for v in (x0, y0))
    right, bottom = (min(size, math.ceil(v / factor) * factor) for v in (x1, y1))
    return left, top, right, bottom


def healed_region(box: PixelBox, factor: int, size: int) -> PixelBox:
    """The region in which a finding's box is painted over: with its margin, on the latent grid."""
    margin = HEAL_MARGIN * size
    x0, y0, x1, y1 = box
    return snap_outward((x0 - margin, y0 - margin, x1 + margin, y1 + margin), factor, size)


def scale_about_centre(organ: npt.NDArray[np.bool_], scale: float) -> npt.NDArray[np.bool_]:
    """The organ bool [H, W] scaled about its box's centre, nearest neighbour, cut to the image."""
    box = bounding_box(organ)
    if box is None or scale == 1.0:
        return organ
    height, width = organ.shape
    x = _source_index(width, (box[0] + box[2]) / 2, scale)
    y = _source_index(height, (box[1] + box[3]) / 2, scale)
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None, :]
    scaled = organ[y.clip(0, height - 1)[:, None], x.clip(0, width - 1)[None, :]]
    return np.asarray(scaled & inside)


def organ_region(region: Region, anatomy: Mask) -> npt.NDArray[np.bool_]:
    """The shape-rule regions "heart" and "lungs" on an anatomy -> bool [H, W]."""
    assert region != "box", "a box region needs its boxes"
    if region == "heart":
        return scale_about_centre(anatomy == HEART, HEART_REGION_SCALE)
    lungs = (anatomy == LEFT_LUNG) | (anatomy == RIGHT_LUNG)
    away = ndimage.distance_transform_edt(~lungs)
    return np.asarray(away <= LUNGS_MARGIN * anatomy.shape[0])


def region_mask(finding: PlacedFinding, anatomy: Mask) -> npt.NDArray[np.bool_]:
    """Where the finding acts -> bool [H, W]; never outside its snapped boxes."""
    region = np.zeros(anatomy.shape, dtype=bool)
    for x0, y0, x1, y1 in finding.boxes:
        region[y0:y1, x0:x1] = True
    if finding.region != "box":
        region &= organ_region(finding.region, anatomy)
    return region


def shown_area(finding: PlacedFinding, region: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Where a denoiser with region maps is told that a finding is, bool [H, W]: as it was trained, the whole boxes, or
    the organ whose shape the finding has."""
    if finding.region != "box":
        return region
    area = np.zeros_like(region)
    for x0, y0, x1, y1 in finding.boxes:
        area[y0:y1, x0:x1] = True
    return area


def pathology_mask(findings: Sequence[PlacedFinding], anatomy: Mask) -> Mask:
    """uint8 [H, W]: 0 none, i+1 = findings[i]; where two overlap the later wins."""
    codes = np.zeros(anatomy.shape, dtype=np.uint8)
    for i, finding in enumerate(findings):
        codes[region_mask(finding, anatomy)] = i + 1
    return codes


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
    distance = ndimage.distance_transform_edt(_rimmed(region[y0:y1, x0:x1]))[1:-1, 1:-1]
    rise = min(width_px + 1.0, float(distance.max()))
    t = np.minimum(1.0, distance / rise)
    alpha[y0:y1, x0:x1] = t * t * (3.0 - 2.0 * t)
    return alpha


def _rimmed(region: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """One pixel of False all round: the image's edge is a border like any other."""
    return np.pad(region, 1)


def _source_index(length: int, centre: float, scale: float) -> npt.NDArray[np.int64]:
    """For each of `length` output pixels the input pixel it comes from (may lie outside)."""
    position = (np.arange(length) + 0.5 - centre) / scale + centre
    return np.asarray(np.floor(position), dtype=np.int64)
