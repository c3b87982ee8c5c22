"""Random changes of an organ mask: rotation, shift, scale, elastic bending, the lungs' and the heart's size.

All arithmetic is elementwise in float64 and rounds once, so that the same stream gives the same mask on
any machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from xreal_synth.anatomy.label_map import cardiothoracic_ratio
from xreal_synth.findings import AORTA, BACKGROUND, HEART, LUNGS
from xreal_synth.masks import Bools, bounding_box, scale_about
from xreal_synth.types import Mask

_KNOTS = 5
"""Control points a side of the elastic field: bends as broad as a lung, none as fine as a rib."""

LARGE_HEART = 0.55
"""The least cardiothoracic ratio of a heart that shows Cardiomegaly."""
NORMAL_HEART = 0.5
"""The largest ratio of one that does not; in between a radiologist cannot tell."""
SMALL_HEART = 0.4
HEART_ANCHOR = (0.15, 0.2)
"""What stays where it is when a heart is scaled to a ratio, in its box: close to the right border (the picture's
left) and the base."""
_FITS = 20

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Largest changes of a mask; each change is drawn uniformly within its range.

    rotate_deg: degrees either way. shift: share of the side, each axis either way. scale: e.g. 0.06 for
    0.94 to 1.06, about the image's centre. elastic: standard deviation of the control points'
    displacement, share of the side. heart_scale: lowest and highest factor about the heart's centre. lungs_scale:
    the same of the lungs, about the centre of both.
    """

    rotate_deg: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    elastic: float = 0.0
    heart_scale: tuple[float, float] = (1.0, 1.0)
    lungs_scale: tuple[float, float] | None = None


def augment(mask: Mask, rng: np.random.Generator, settings: Augmentation) -> Mask:
    """A changed copy, uint8 [H, H] -> uint8 [H, H]; the result still has to be validated.

    The stream is read the same whatever the settings, so switching one off leaves the others' draws; `lungs_scale`
    reads one number more, after all others.
    """
    angle, dx, dy, zoom, heart = rng.uniform(-1.0, 1.0, 5)
    knots = rng.standard_normal((2, _KNOTS, _KNOTS)).clip(-2.0, 2.0)
    low, high = settings.heart_scale
    heart_scale = low + (high - low) * (heart + 1.0) / 2.0
    if settings.rotate_deg or settings.shift or settings.scale or settings.elastic:
        offset = (settings.shift * dx, settings.shift * dy)
        mask = _warp(mask, settings.rotate_deg * angle, offset, 1.0 + settings.scale * zoom, settings.elastic * knots)
    if settings.lungs_scale is not None:
        mask = scale_lungs(mask, float(rng.uniform(*settings.lungs_scale)))
    return scale_heart(mask, (heart_scale, heart_scale))


def fit_heart(mask: Mask, *, large: bool) -> Mask:
    """The heart scaled, if it has to be, to a cardiothoracic ratio of at least LARGE_HEART, or at most NORMAL_HEART.

    Ratios that differ still do afterwards, so that hearts do not all have the bound's. A heart grows to the
    patient's left and somewhat downward, as a left ventricle does; its right border and its base hardly move.
    uint8 [H, W] -> the same.
    """
    ratio = cardiothoracic_ratio(mask)
    if not ratio or (ratio >= LARGE_HEART if large else ratio <= NORMAL_HEART):
        return mask
    wanted = LARGE_HEART + max(0.0, ratio - SMALL_HEART) / 2 if large else NORMAL_HEART - (ratio - NORMAL_HEART) / 5
    fitted, across = mask, wanted / ratio
    for _ in range(_FITS):
        fitted = scale_heart(mask, (across, 1.0 + (across - 1.0) / 2), HEART_ANCHOR)
        found = cardiothoracic_ratio(fitted)
        if found >= LARGE_HEART if large else found <= NORMAL_HEART:
            break
        across *= 1.02 if large else 0.98
    return fitted


def scale_heart(mask: Mask, scale: tuple[float, float], anchor: tuple[float, float] = (0.5, 0.5)) -> Mask:
    """The heart scaled by (x, y) about a point of its box. uint8 [H, W] -> the same."""
    return mask if scale == (1.0, 1.0) else _with_heart(mask, scale_about(mask == HEART, scale, anchor))


def scale_lungs(mask: Mask, scale: float) -> Mask:
    """Both lungs scaled about the centre of their box, and the aorta with them; the heart keeps its place between them
    and its size. Lungs that would grow out of the picture are moved in, as far as they fit. uint8 [H, H] -> the same.
    """
    lungs, heart = bounding_box(np.isin(mask, LUNGS)), mask == HEART
    box = bounding_box(heart)
    if scale == 1.0 or lungs is None or box is None:
        return mask
    side, offsets, moves = mask.shape[0], [], []
    for axis in (0, 1):
        centre, half = (lungs[axis] + lungs[axis + 2]) / 2, scale * (lungs[axis + 2] - lungs[axis]) / 2
        to = min(max(centre, half), side - half) if 2 * half <= side else side / 2
        offsets.append((to - side / 2 - scale * (centre - side / 2)) / side)
        moves.append(round(to - centre + (scale - 1.0) * ((box[axis] + box[axis + 2]) / 2 - centre)))
    scaled = _warp(mask, 0.0, (offsets[0], offsets[1]), scale, np.zeros((2, _KNOTS, _KNOTS)))
    return _with_heart(scaled, ndimage.shift(heart.view(np.uint8), moves[::-1], order=0).astype(bool))


def _with_heart(mask: Mask, new: Bools) -> Mask:
    """Another heart in place of the mask's, painted over the lungs, under the aorta.

    Pixels a smaller heart gives up go to the nearest of its neighbours, lung or background. uint8 [H, W] -> the same.
    """
    old = mask == HEART
    result = mask.copy()
    given_up = old & ~new
    if given_up.any():
        window = tuple(
            slice(max(0, part.start - 2), part.stop + 2) for part in ndimage.find_objects(old.view(np.uint8))[0]
        )
        beneath = np.where(mask == AORTA, BACKGROUND, mask)[window]
        _, (rows, columns) = ndimage.distance_transform_edt(old[window], return_indices=True)
        result[window] = np.where(given_up[window], beneath[rows, columns], result[window])
    result[new & (mask != AORTA)] = HEART
    return result


def _warp(mask: Mask, degrees: float, offset: tuple[float, float], zoom: float, knots: _Array) -> Mask:
    """Pull-back by nearest neighbour: each output pixel takes the code where it came from.

    offset and knots [2, K, K] (x, y) are shares of the side. Outside the image lies background.
    """
    side = mask.shape[0]
    axis = (np.arange(side) + 0.5) / side - 0.5
    cos, sin = (round(f(math.radians(degrees)), 9) / zoom for f in (math.cos, math.sin))
    x, y = (axis - offset[0])[None, :], (axis - offset[1])[:, None]
    source_x, source_y = cos * x + sin * y, cos * y - sin * x
    if knots.any():
        basis = _spline_basis(side)
        source_x = source_x + _bend(basis, knots[0])
        source_y = source_y + _bend(basis, knots[1])
    columns = np.floor((source_x + 0.5) * side).astype(np.int32)
    rows = np.floor((source_y + 0.5) * side).astype(np.int32)
    inside = (columns >= 0) & (columns < side) & (rows >= 0) & (rows < side)
    flat = rows.clip(0, side - 1) * side + columns.clip(0, side - 1)
    return np.where(inside, mask.ravel()[flat], np.uint8(BACKGROUND))


def _spline_basis(side: int) -> _Array:
    """Uniform cubic B-spline weights [K, side] of the K control points along one axis."""
    position = (np.arange(side) + 0.5) / side * (_KNOTS - 3)
    t = np.abs(position[None, :] - (np.arange(_KNOTS)[:, None] - 1.0))
    inner = 2.0 / 3.0 - t * t + t * t * t / 2.0
    outer = (2.0 - t) * (2.0 - t) * (2.0 - t) / 6.0
    return np.asarray(np.where(t < 1.0, inner, np.where(t < 2.0, outer, 0.0)))


def _bend(basis: _Array, knots: _Array) -> _Array:
    """Displacement [side, side] of control points [K, K] (rows are y); no BLAS: the sum's order is fixed."""
    along_x = [_ordered_sum(knots[row], basis) for row in range(_KNOTS)]
    field: _Array = basis[0][:, None] * along_x[0][None, :]
    for row in range(1, _KNOTS):
        field += basis[row][:, None] * along_x[row][None, :]
    return field


def _ordered_sum(weights: _Array, terms: _Array) -> _Array:
    total = weights[0] * terms[0]
    for weight, term in zip(weights[1:], terms[1:], strict=True):
        total = total + weight * term
    return np.asarray(total, dtype=np.float64)
