"""Organ masks as files and as arrays uint8 [H, W]: codes, nearest-neighbour resize; boxes, areas, the heart's ratio."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from xreal_synth.errors import AnatomyError
from xreal_synth.findings import BACKGROUND, HEART, LEFT_LUNG, ORGANS, RIGHT_LUNG
from xreal_synth.masks import bounding_box
from xreal_synth.opening import MAX_IMAGE, UnreadableError, open_image, read_file
from xreal_synth.types import Mask, PixelBox

_Pixel = TypeVar("_Pixel", bound=np.generic)

CODES: tuple[int, ...] = (BACKGROUND, *ORGANS.values())
NAMES: dict[int, str] = {code: name.replace("_", " ") for name, code in ORGANS.items()}
LEGEND = ", ".join(f"{code} {name}" for code, name in ((BACKGROUND, "background"), *NAMES.items()))

_MODES = ("L", "P")


def read_mask(path: Path) -> Mask:
    """An organ mask from a one-channel 8-bit PNG -> uint8 [H, W], as stored.

    Raises AnatomyError naming the file if it cannot be read or has colours instead of codes. Codes and
    anatomy are checked by `validate.validate_mask`.
    """
    try:
        return decode_mask(read_file(path, MAX_IMAGE), str(path))
    except (OSError, UnreadableError) as error:
        raise _unreadable(str(path), error) from error


def decode_mask(data: bytes, where: str) -> Mask:
    """As `read_mask`, from the file's bytes; `where` names it in the error. uint8 [H, W]; raises AnatomyError."""
    try:
        with open_image(data) as image:
            mode = image.mode
            pixels = np.array(image) if mode in _MODES else None
    except UnreadableError as error:
        raise _unreadable(where, error) from error
    if pixels is None:
        raise AnatomyError(
            where=where,
            found=f"an image of mode {mode}",
            wanted=f"a one-channel 8-bit PNG of organ codes ({LEGEND})",
            hint="save the codes themselves, not their colours",
        )
    return pixels.astype(np.uint8)


def _unreadable(where: str, error: Exception) -> AnatomyError:
    return AnatomyError(
        where=where,
        found=f"the file cannot be read as an image ({error})",
        wanted="a one-channel 8-bit PNG of organ codes",
        hint="replace the file or take it out of the folder",
    )


def enlarged(mask: npt.NDArray[_Pixel], factor: int) -> npt.NDArray[_Pixel]:
    """Each pixel of [H, W] as a block of factor x factor."""
    return mask if factor == 1 else mask.repeat(factor, axis=0).repeat(factor, axis=1)


def resize_mask(mask: Mask, size: int) -> Mask:
    """Nearest neighbour, pixel centres aligned: uint8 [H, H] -> uint8 [size, size].

    Raises AnatomyError if the mask is not square: the image's proportions would change.
    """
    height, width = mask.shape
    if height != width:
        raise AnatomyError(
            found=f"a mask of {width}x{height} pixels",
            wanted="a square mask",
            hint="pad or crop the image and its mask to a square",
        )
    if height == size:
        return mask
    index = ((2 * np.arange(size) + 1) * height) // (2 * size)
    return np.ascontiguousarray(mask[index[:, None], index[None, :]])


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
