"""Organ masks as files and as arrays: codes, square uint8 [H, W], nearest-neighbour resize."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from xreal_synth.errors import AnatomyError
from xreal_synth.findings import BACKGROUND, ORGANS
from xreal_synth.opening import MAX_IMAGE, UnreadableError, open_image, read_file
from xreal_synth.types import Mask

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
