"""One image from its source to image and mask: read, made square, segmented, checked, written."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from xreal_synth.anatomy.label_map import decode_mask
from xreal_synth.anatomy.validate import validate_mask
from xreal_synth.dataset.png import encode_png
from xreal_synth.errors import AnatomyError, StorageError
from xreal_synth.images.files import check_contrast, mask_fault
from xreal_synth.images.manifest import BadImage, RowFault
from xreal_synth.prepare.dicom import decode_dicom, is_dicom
from xreal_synth.prepare.found import FoundImage
from xreal_synth.prepare.grey import Fit, Square, decode_picture
from xreal_synth.prepare.segmenters import Drawn, Masker
from xreal_synth.storage import Store
from xreal_synth.types import GreyImage, Mask


@dataclass(frozen=True, slots=True)
class Shape:
    """The square that images are made: its side, and what happens to the rest of an oblong image."""

    size: int
    fit: Fit


@dataclass(frozen=True, slots=True, eq=False)
class ReadImage:
    """An image uint8 [S, S] ready to be segmented; width and height of its source, its own view and mask."""

    source: FoundImage
    image: GreyImage
    width: int
    height: int
    view: str = ""
    mask: Mask | None = None


@dataclass(frozen=True, slots=True, eq=False)
class MaskedImage:
    """An image uint8 [S, S] with the mask drawn for it; `score` is None for a mask that was given."""

    source: FoundImage
    image: GreyImage
    width: int
    height: int
    view: str
    mask: Mask
    score: float | None

    def encoded(self) -> tuple[bytes, bytes, str]:
        """The image's and the mask's PNG, and the image's sha256."""
        image = encode_png(self.image)
        return image, encode_png(self.mask), hashlib.sha256(image).hexdigest()


def read_image(store: Store, source: FoundImage, shape: Shape) -> ReadImage:
    """Raises BadImage for an image that is missing, unreadable, too small or of one colour."""
    data = _first(store, source.files)
    image, view = decode_dicom(data) if is_dicom(data) else (decode_picture(data), "")
    height, width = image.shape
    square = Square.of(width, height, shape.fit)
    if square.side < shape.size:
        raise BadImage(
            RowFault.SHAPE,
            f"image is {width} x {height}, wanted at least {shape.size} (a lower --size takes it)",
        )
    made = square.image(image, shape.size)
    check_contrast(made)
    mask = _given_mask(store, source, (height, width), square, shape.size) if source.mask else None
    return ReadImage(source, made, width, height, view, mask)


def _first(store: Store, names: Sequence[str]) -> bytes:
    for name in names:
        if store.exists(name):
            try:
                return store.read_bytes(name)
            except (StorageError, OSError) as error:
                raise BadImage(RowFault.UNREADABLE, str(error)) from error
    raise BadImage(RowFault.MISSING, f"no {' or '.join(names)}")


def _given_mask(store: Store, source: FoundImage, shape: tuple[int, int], square: Square, size: int) -> Mask:
    try:
        mask = decode_mask(_first(store, (source.mask,)), source.mask)
    except AnatomyError as error:
        raise BadImage(RowFault.MASK_UNREADABLE, f"{source.mask}: {error.found}") from error
    if mask.shape != shape:
        raise BadImage(
            RowFault.MASK_SHAPE, f"mask {source.mask} is {_sides(mask.shape)}, image is {_sides(shape)}"
        )
    return square.mask(mask, size)


def _sides(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def read_ahead(
    store: Store, sources: Sequence[FoundImage], shape: Shape, workers: int
) -> Iterator[tuple[FoundImage, Future[ReadImage]]]:
    """Every image in order, read and made square in threads that run ahead."""
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[FoundImage, Future[ReadImage]]] = deque()
        try:
            for source in sources:
                ahead.append((source, pool.submit(read_image, store, source, shape)))
                if len(ahead) >= 4 * workers:
                    yield ahead.popleft()
            while ahead:
                yield ahead.popleft()
        finally:
            for _, future in ahead:
                future.cancel()


def add_masks(images: Sequence[ReadImage], segmenter: Masker | None) -> list[MaskedImage]:
    """The images with the masks they came with, or the segmenter's."""
    drawn: list[Drawn | None] = [None] * len(images)
    blank = [at for at, image in enumerate(images) if image.mask is None]
    if blank:
        assert segmenter is not None, "images without a mask need a segmenter"
        for at, found in zip(blank, segmenter.draw([images[at].image for at in blank]), strict=True):
            drawn[at] = found
    return [_masked(image, found) for image, found in zip(images, drawn, strict=True)]


def _masked(read: ReadImage, drawn: Drawn | None) -> MaskedImage:
    mask = drawn.mask if drawn is not None else read.mask
    assert mask is not None
    score = round(drawn.score, 3) if drawn is not None else None
    return MaskedImage(read.source, read.image, read.width, read.height, read.view, mask, score)


def check_mask(image: MaskedImage, min_score: float) -> None:
    """Raises BadImage unless the mask is that of a frontal chest X-ray and the segmenter is sure enough of it."""
    try:
        validate_mask(np.ascontiguousarray(image.mask), image.source.key)
    except AnatomyError as error:
        raise BadImage(mask_fault(error), error.found) from error
    if image.score is not None and image.score < min_score:
        raise BadImage(RowFault.UNSURE, f"certainty {image.score:.3f}, wanted at least {min_score:g}")
