"""8-bit grey PNGs: fixed encoder settings going out, checked coming in."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image

from xreal_synth.errors import DatasetError
from xreal_synth.opening import UnreadableError, open_image

MAX_SIDE = 8192
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """uint8 [H, W] => PNG bytes, the same bytes for the same pixels and zlib."""
    assert image.dtype == np.uint8
    assert image.ndim == 2
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", compress_level=1, optimize=False)
    return buffer.getvalue()


def decode_png(data: bytes, where: str) -> npt.NDArray[np.uint8]:
    """PNG bytes => uint8 [H, W]; raises DatasetError unless they are one whole 8-bit grey image.

    Every chunk's checksum is tested, which Pillow leaves out for pixel data, and nothing larger than
    MAX_SIDE on a side is unpacked.
    """
    width, height = _checked_header(data, where)
    try:
        with open_image(data, ("PNG",)) as image:
            pixels = np.array(image, dtype=np.uint8)
    except UnreadableError as error:
        raise _bad(where, f"cannot be decoded ({error})") from error
    if pixels.shape != (height, width):
        raise _bad(where, f"decodes to shape {pixels.shape}")
    return pixels


def _checked_header(data: bytes, where: str) -> tuple[int, int]:
    if not data.startswith(_SIGNATURE):
        raise _bad(where, "no PNG signature")
    kinds, position = [], len(_SIGNATURE)
    while position < len(data):
        if position + 12 > len(data):
            raise _bad(where, "cut off within a chunk")
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 12 + length
        if end > len(data):
            raise _bad(where, "cut off within a chunk")
        if zlib.crc32(data[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise _bad(where, "a chunk does not match its checksum")
        kinds.append(data[position + 4 : position + 8])
        position = end
    if len(kinds) < 3 or kinds[0] != b"IHDR" or kinds[-1] != b"IEND" or b"IDAT" not in kinds:
        raise _bad(where, "not a whole PNG")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    if depth != 8 or colour != 0:
        raise _bad(where, f"{depth} bits, colour type {colour}")
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise _bad(where, f"{width} x {height} pixels")
    return width, height


def _bad(where: str, found: str) -> DatasetError:
    return DatasetError(where=where, found=found, wanted=f"an 8-bit grey PNG of at most {MAX_SIDE} pixels on a side")
