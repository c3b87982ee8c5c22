"""The files of a manifest's rows, from a folder or from tars: images and organ masks, checked."""

from __future__ import annotations

import io
import tarfile
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xreal_synth.anatomy.label_map import decode_mask
from xreal_synth.anatomy.validate import SwappedLungsError, WrongCodeError, validate_sides
from xreal_synth.errors import AnatomyError, StorageError
from xreal_synth.images.manifest import BadImage, ImageRow, RowFault
from xreal_synth.opening import MAX_IMAGE, UnreadableError, open_image, open_tar
from xreal_synth.storage import LocalStore, Store
from xreal_synth.types import GreyImage, Mask

if TYPE_CHECKING:
    from PIL.Image import Image

LEAST_CONTRAST = 8
"""Grey levels between the darkest and the brightest pixel; below, an image has one colour."""

MOST_CHROMA = 12.0
"""Mean difference of an image's colour channels in grey levels; above, it is a coloured picture."""

_OPEN_TARS = 2
_ORIENTATION = 0x0112
_LYING = (5, 6, 7, 8)
"""Values of EXIF's orientation that change the sides."""
_EIGHT_BIT = ("1", "L", "LA", "P", "RGB", "RGBA")
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""Pillow's modes of more than 8 bits."""


class ImageFiles:
    """Reads the files that rows name below a data folder; may be shared by threads.

    Nothing is ever unpacked to a disk: a tar's members are read by the name that the manifest gives, and the
    tars read last stay open.
    """

    def __init__(self, data: Store) -> None:
        self._data = data
        self._tars: dict[str, tarfile.TarFile] = {}
        self._lock = threading.Lock()

    def pair(self, row: ImageRow) -> tuple[bytes, bytes]:
        """The bytes of image and mask; raises BadImage if one cannot be read."""
        return self.read(row.shard, row.image), self.read(row.shard, row.mask)

    def read(self, shard: str, name: str) -> bytes:
        """The bytes of a file, or of a member of the tar `shard`; raises BadImage."""
        try:
            return self._member(shard, name) if shard else self._data.read_bytes(name, MAX_IMAGE)
        except (StorageError, KeyError, tarfile.TarError, OSError) as error:
            reason = error.found if isinstance(error, StorageError) else f"{shard}: {error}"
            raise BadImage(RowFault.MISSING, reason) from error

    def close(self) -> None:
        """Closes the tars that were opened."""
        for tar in self._tars.values():
            tar.close()
        self._tars.clear()

    def _member(self, shard: str, name: str) -> bytes:
        with self._lock:
            if shard not in self._tars:
                while len(self._tars) >= _OPEN_TARS:
                    self._tars.pop(next(iter(self._tars))).close()
                self._tars[shard] = self._tar(shard)
            tar = self._tars[shard]
            member = tar.getmember(name)
            if not member.isreg() or member.size > MAX_IMAGE:
                raise KeyError(f"{name!r} is no plain file of at most {MAX_IMAGE} bytes")
            file = tar.extractfile(member)
            assert file is not None
            return file.read()

    def _tar(self, shard: str) -> tarfile.TarFile:
        if isinstance(self._data, LocalStore):
            return open_tar(self._data.open(shard))
        return open_tar(io.BytesIO(self._data.read_bytes(shard)))


@dataclass(frozen=True, slots=True, eq=False)
class ImagePair:
    """An image uint8 [S, S] and its organ mask uint8 [S, S]."""

    image: GreyImage
    mask: Mask


def checked_pair(encoded: bytes, mask: bytes, where: str = "mask") -> ImagePair:
    """Image and mask from their files' bytes; raises BadImage for anything that no network can learn from.

    The mask must have the image's size, known codes, both lungs and the heart, and lungs on the right sides;
    `where` names it.
    """
    image = decode_image(encoded)
    if image.shape[0] != image.shape[1]:
        raise BadImage(RowFault.SHAPE, f"image is {image.shape}, wanted a square")
    check_contrast(image)
    try:
        label_map = decode_mask(mask, where)
    except AnatomyError as error:
        raise BadImage(RowFault.MASK_UNREADABLE, error.found) from error
    if label_map.shape != image.shape:
        raise BadImage(RowFault.MASK_SHAPE, f"{where} is {label_map.shape}, image is {image.shape}")
    try:
        validate_sides(label_map, where)
    except AnatomyError as error:
        raise BadImage(mask_fault(error), f"{where}: {error.found}") from error
    return ImagePair(image, label_map)


def mask_fault(error: AnatomyError) -> RowFault:
    """The kind of fault of a mask that did not validate."""
    if isinstance(error, WrongCodeError):
        return RowFault.MASK_CODE
    return RowFault.SWAPPED if isinstance(error, SwappedLungsError) else RowFault.ANATOMY


def decode_image(data: bytes) -> GreyImage:
    """An image file's bytes -> grey levels uint8 [H, W]; raises BadImage unless it has 8 bits and no colours."""
    try:
        with open_image(data) as encoded:
            mode = encoded.mode
            pixels = upright(encoded).convert("RGB") if mode == "P" else upright(encoded)
    except UnreadableError as error:
        raise BadImage(RowFault.UNREADABLE, str(error)) from error
    if mode not in (*_EIGHT_BIT, *DEEP):
        raise BadImage(RowFault.COLOURED, f"an image of the colour space {mode}, wanted grey")
    if mode in DEEP:
        raise BadImage(RowFault.UNREADABLE, f"an image of mode {mode}, wanted 8 bits (xreal-synth prepare makes them)")
    if pixels.mode in ("RGB", "RGBA"):
        channels = np.asarray(pixels.convert("RGB"), np.int16)
        chroma = float(np.abs(np.diff(channels, axis=2)).mean())
        if chroma > MOST_CHROMA:
            raise BadImage(RowFault.COLOURED, f"colour channels differ by {chroma:.0f} grey levels on average")
    return np.asarray(pixels.convert("L"))


def upright(encoded: Image) -> Image:
    """The image as it is meant to be seen, by the orientation that its camera or scanner noted; raises
    UnreadableError for one of several frames."""
    from PIL import ImageOps

    if (frames := getattr(encoded, "n_frames", 1)) > 1:
        raise UnreadableError(f"an image of {frames} frames, wanted one")
    return ImageOps.exif_transpose(encoded)


def shown_size(encoded: Image) -> tuple[int, int]:
    """Width and height as `upright` gives them, from the header alone."""
    width, height = encoded.size
    if encoded.format == "PNG" and "exif" not in encoded.info:  # looking for it further would decode the image
        return width, height
    return (height, width) if encoded.getexif().get(_ORIENTATION, 1) in _LYING else (width, height)


def check_contrast(image: GreyImage) -> None:
    """Raises BadImage if the image has only one colour. It is uint8 [H, W]."""
    if int(image.max()) - int(image.min()) < LEAST_CONTRAST:
        raise BadImage(RowFault.ONE_COLOUR, "image has only one colour")
