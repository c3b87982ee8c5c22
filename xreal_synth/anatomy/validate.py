"""Is this array an organ mask the models were trained for? Every mask passes here before it is used.

The ranges are those of the 890 shared masks with a certainty of at least 0.9, widened (their extremes
stand beside each limit); they tell a mask of a frontal chest X-ray from a mistake, not a healthy chest
from a sick one.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from xreal_synth.anatomy.label_map import CODES, LEGEND, NAMES, organ_areas
from xreal_synth.errors import AnatomyError
from xreal_synth.findings import AORTA, HEART, LEFT_LUNG, ORGANS, RIGHT_LUNG
from xreal_synth.types import Mask, PixelBox

MIN_SIZE = 32

AREA_RANGES: dict[int, tuple[float, float]] = {
    LEFT_LUNG: (0.015, 0.30),  # met: 0.028 .. 0.209
    RIGHT_LUNG: (0.015, 0.30),  # met: 0.045 .. 0.222
    HEART: (0.012, 0.24),  # met: 0.023 .. 0.164
    AORTA: (0.0005, 0.04),  # met: 0.002 .. 0.020, or none at all
}
"""Organ area over image area. The aorta alone may be missing: its knob is not seen on every image."""

LUNG_RATIO = (0.2, 4.0)  # left over right area, met: 0.29 .. 2.31
LUNG_DISTANCE = 0.4  # of the chest's width between the lungs' centres, met: 0.50 ..
HEART_ACROSS = (0.2, 0.95)  # centre, 0 right lung's centre .. 1 left lung's, met: 0.31 .. 0.84
HEART_DOWN = (0.4, 1.0)  # centre in the lungs' box, met: 0.53 .. 0.89
HEART_IN_CHEST = 0.6  # share of the heart's box in the lungs' box, met: 0.74 ..
AORTA_ACROSS = (0.25, 0.9)  # centre in the lungs' box, met: 0.46 .. 0.73
AORTA_DOWN = (0.05, 0.75)  # met: 0.20 .. 0.47
LARGEST_PART = 0.97  # of an organ in one piece, met: 0.9996 ..


class WrongCodeError(AnatomyError):
    """A mask with codes that are no organ's."""


class SwappedLungsError(AnatomyError):
    """A mask whose left lung lies on the picture's left."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """One organ: pixels, centre (x, y) and half-open box in pixels, share of its largest piece."""

    area: int
    centre: tuple[float, float]
    box: PixelBox
    largest_part: float


def validate_mask(mask: Mask, where: str) -> None:
    """Passes an organ mask uint8 [H, H] of a frontal chest X-ray; `where` names it in the error.

    Raises AnatomyError at the first thing wrong, from coarse to fine: array, codes, organs present,
    laterality, areas, pieces, the heart's and the aorta's place.
    """
    _check_array(mask, where)
    shapes = _shapes(mask)
    _check_present(shapes, where)
    _check_sides(shapes[LEFT_LUNG].centre[0], shapes[RIGHT_LUNG].centre[0], where)
    for what, value, (low, high) in _measures(shapes, mask.size):
        if not low <= value <= high:
            raise AnatomyError(
                where=where,
                found=f"{what} is {value:.3g}",
                wanted=f"{low:g} to {high:g}",
                hint="look at the mask beside its image, and draw it again",
            )


def validate_sides(mask: Mask, where: str) -> None:
    """Passes a mask that may show a sick chest in any shape: only its array, codes, lungs and heart count.

    Raises AnatomyError like `validate_mask`, for the first three of its checks. The mask is uint8 [H, W].
    """
    _check_array(mask, where)
    _check_present([code for code, area in enumerate(organ_areas(mask)) if area], where)
    _check_sides(_middle(mask, LEFT_LUNG), _middle(mask, RIGHT_LUNG), where)


def _middle(mask: Mask, code: int) -> float:
    """An organ's centre, in pixels from the left."""
    columns = (mask == code).sum(axis=0)
    return float(columns @ np.arange(columns.size)) / float(columns.sum())


def _check_array(mask: Mask, where: str) -> None:
    if mask.ndim != 2 or mask.dtype != np.uint8 or mask.shape[0] != mask.shape[1]:
        size = "x".join(map(str, mask.shape[::-1]))
        raise AnatomyError(
            where=where,
            found=f"a {mask.dtype} mask of {size}",
            wanted="a square mask of 8-bit codes, one number per pixel",
            hint="pad or crop the image and its mask to a square",
        )
    if mask.shape[0] < MIN_SIZE:
        raise AnatomyError(where=where, found=f"a mask of {mask.shape[0]} pixels a side", wanted=f"at least {MIN_SIZE}")
    counts = np.bincount(mask.ravel())
    foreign = [int(code) for code in np.flatnonzero(counts) if code not in CODES]
    if foreign:
        shown = ", ".join(map(str, foreign[:8])) + (", ..." if len(foreign) > 8 else "")
        raise WrongCodeError(
            where=where,
            found=f"code {shown} in the mask ({int(counts[foreign].sum())} pixels)",
            wanted=LEGEND,
            hint="map your organ numbers to these codes (drop other organs to 0) and save without smoothing",
        )


def _shapes(mask: Mask) -> dict[int, _Shape]:
    areas = organ_areas(mask)
    found = {}
    for code, part in zip(ORGANS.values(), ndimage.find_objects(mask, max_label=4), strict=True):
        if part is None:
            continue
        region = mask[part] == code
        labels, pieces = ndimage.label(region)
        largest = int(np.bincount(labels.ravel())[1:].max()) if pieces > 1 else areas[code]
        rows, columns = region.sum(axis=1), region.sum(axis=0)
        y = part[0].start + float(rows @ np.arange(rows.size)) / areas[code] + 0.5
        x = part[1].start + float(columns @ np.arange(columns.size)) / areas[code] + 0.5
        box = (part[1].start, part[0].start, part[1].stop, part[0].stop)
        found[code] = _Shape(areas[code], (x, y), box, largest / areas[code])
    return found


def _check_present(label_map: Container[int], where: str) -> None:
    missing = [NAMES[code] for code in (LEFT_LUNG, RIGHT_LUNG, HEART) if code not in label_map]
    if missing:
        raise AnatomyError(
            where=where,
            found=f"no {' and no '.join(missing)} in the mask",
            wanted="both lungs and the heart (the aorta may be missing)",
            hint="complete the mask",
        )


def _check_sides(left: float, right: float, where: str) -> None:
    if left <= right:
        raise SwappedLungsError(
            where=where,
            found=f"the lungs are swapped: code {LEFT_LUNG} (left lung) lies on the picture's left",
            wanted="the patient's left lung in the right half of the picture",
            hint=f"swap codes {LEFT_LUNG} and {RIGHT_LUNG}, or mirror image and mask",
        )


def _measures(shapes: dict[int, _Shape], pixels: int) -> Iterator[tuple[str, float, tuple[float, float]]]:
    """What is measured of a mask's organs, from coarse to fine, with its value and the range in which it must lie."""
    left, right, heart = shapes[LEFT_LUNG], shapes[RIGHT_LUNG], shapes[HEART]
    x0, y0 = min(left.box[0], right.box[0]), min(left.box[1], right.box[1])
    x1, y1 = max(left.box[2], right.box[2]), max(left.box[3], right.box[3])
    apart = left.centre[0] - right.centre[0]
    yield ("distance between the lungs' centres over the chest's width", apart / (x1 - x0), (LUNG_DISTANCE, 1.0))
    for code, shape in shapes.items():
        yield f"{NAMES[code]}'s area over the image's", shape.area / pixels, AREA_RANGES[code]
    yield "left lung's area over the right lung's", left.area / right.area, LUNG_RATIO
    for code, shape in shapes.items():
        yield f"share of the {NAMES[code]} in one piece", shape.largest_part, (LARGEST_PART, 1.0)
    across = (heart.centre[0] - right.centre[0]) / apart
    yield "heart's centre from the right lung's centre (0) to the left's (1)", across, HEART_ACROSS
    down = (heart.centre[1] - y0) / (y1 - y0)
    yield "heart's centre in the lungs' height (0 top, 1 bottom)", down, HEART_DOWN
    width = max(0, min(heart.box[2], x1) - max(heart.box[0], x0))
    height = max(0, min(heart.box[3], y1) - max(heart.box[1], y0))
    inside = width * height / ((heart.box[2] - heart.box[0]) * (heart.box[3] - heart.box[1]))
    yield "share of the heart's box in the box of both lungs", inside, (HEART_IN_CHEST, 1.0)
    if (aorta := shapes.get(AORTA)) is not None:
        across, down = (aorta.centre[0] - x0) / (x1 - x0), (aorta.centre[1] - y0) / (y1 - y0)
        yield "aorta's centre in the chest's width (0 right lung's side, 1 left's)", across, AORTA_ACROSS
        yield "aorta's centre in the lungs' height (0 top, 1 bottom)", down, AORTA_DOWN
