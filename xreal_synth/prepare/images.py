"""One image from its source to image and mask: read, made square, segmented, checked, written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from xreal_synth.anatomy.label_map import decode_mask
from xreal_synth.anatomy.validate import validate_mask, validate_sides
from xreal_synth.errors import AnatomyError, StorageError
from xreal_synth.images.files import check_contrast, mask_fault
from xreal_synth.images.manifest import BadImage, RowFault
from xreal_synth.opening import MAX_IMAGE
from xreal_synth.prepare.found import FoundImage
from xreal_synth.prepare.grey import Facts, Fit, Square, decode_dicom, decode_picture, is_dicom
from xreal_synth.prepare.segmenters import Masker
from xreal_synth.storage import Store, sha256_bytes
from xreal_synth.types import GreyImage, Mask


@dataclass(frozen=True, slots=True)
class Shape:
    """The square that images are made: its side, what happens to the rest of an oblong image, and whether smaller
    images are enlarged to it."""

    size: int
    fit: Fit
    enlarge: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ReadImage:
    """An image uint8 [S, S]; width and height of its source, what its file says of it, the sha256 of what it was read
    from, and its own mask, or the one drawn for it. `score` is None where nothing says how certain that is."""

    source: FoundImage
    image: GreyImage
    width: int
    height: int
    facts: Facts
    mask: Mask | None
    score: float | None
    content: str


def content_of(image: bytes, mask: bytes, segmenter: str) -> str:
    """The sha256 of what an image is made of: the files of image and mask, or who draws the mask."""
    return sha256_bytes(f"{sha256_bytes(image)} {sha256_bytes(mask) if mask else segmenter}".encode())


def read_image(
    store: Store, source: FoundImage, shape: Shape, segmenter: str = "", former: str = ""
) -> ReadImage | None:
    """The image, or None if its content is the `former`. Raises BadImage for one that is missing, unreadable, too
    small or of one colour."""
    data = _first(store, source.files)
    mask_data = _first(store, (source.mask,)) if source.mask else b""
    content = content_of(data, mask_data, segmenter)
    if content == former:
        return None
    image, facts = decode_dicom(data) if is_dicom(data) else (decode_picture(data), Facts())
    height, width = image.shape
    square = Square.of(width, height, shape.fit)
    if square.side < shape.size and not shape.enlarge:
        raise BadImage(
            RowFault.SHAPE,
            f"image is {width} x {height}, wanted at least {shape.size} (--enlarge or a lower --size takes it)",
        )
    made = square.image(image, shape.size)
    check_contrast(made)
    mask = _given_mask(mask_data, source.mask, (height, width), shape) if source.mask else None
    return ReadImage(source, made, width, height, facts, mask, source.mask_score, content)


def _first(store: Store, names: Sequence[str]) -> bytes:
    for name in names:
        try:
            if store.exists(name):
                return store.read_bytes(name, MAX_IMAGE)
        except (StorageError, OSError) as error:
            raise BadImage(
                RowFault.UNREADABLE, error.found if isinstance(error, StorageError) else str(error)
            ) from error
    reported = f"{', '.join(names[:3])} and so on" if len(names) > 4 else " or ".join(names)
    raise BadImage(RowFault.MISSING, f"no {reported}")


def _given_mask(data: bytes, name: str, image: tuple[int, int], shape: Shape) -> Mask:
    """The image's own mask, of the image's size or of another with its proportions."""
    try:
        mask = decode_mask(data, name)
    except AnatomyError as error:
        raise BadImage(RowFault.MASK_UNREADABLE, f"{name}: {error.found}") from error
    height, width = mask.shape
    if height * image[1] != width * image[0]:
        raise BadImage(RowFault.MASK_SHAPE, f"mask {name} is {width} x {height}, image is {image[1]} x {image[0]}")
    return Square.of(width, height, shape.fit).mask(mask, shape.size)


def add_masks(images: Sequence[ReadImage], segmenter: Masker | None) -> list[ReadImage]:
    """The images with the masks they came with, or the segmenter's."""
    blank = [image for image in images if image.mask is None]
    if not blank:
        return list(images)
    assert segmenter is not None, "images without a mask need a segmenter"
    drawn = segmenter.draw([image.image for image in blank])
    masked = {
        id(image): replace(image, mask=own.mask, score=round(own.score, 3))
        for image, own in zip(blank, drawn, strict=True)
    }
    return [masked.get(id(image), image) for image in images]


def check_mask(image: ReadImage, min_score: float) -> None:
    """Raises BadImage unless the mask is that of a frontal chest X-ray and the segmenter is sure enough of it.

    A mask that was given may show a sick chest in any shape: it passes where training takes it.
    """
    try:
        validate = validate_sides if image.source.mask else validate_mask
        validate(np.ascontiguousarray(image.mask), image.source.key)
    except AnatomyError as error:
        raise BadImage(mask_fault(error), error.found) from error
    check_score(image.score, min_score)


def check_score(score: float | None, least: float) -> None:
    """Raises BadImage for a mask that is less certain than `least`."""
    if score is not None and score < least:
        raise BadImage(RowFault.UNSURE, f"certainty {score:.3f}, wanted at least {least:g}")
