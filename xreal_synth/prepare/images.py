"""One image from its source to image and mask: read, made square, segmented, checked, written."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from xreal_synth.anatomy.label_map import decode_mask
from xreal_synth.anatomy.validate import validate_mask, validate_sides
from xreal_synth.dataset.png import encode_png
from xreal_synth.errors import AnatomyError, StorageError
from xreal_synth.images.files import check_contrast, mask_fault
from xreal_synth.images.manifest import BadImage, RowFault
from xreal_synth.opening import MAX_IMAGE
from xreal_synth.prepare.dicom import Facts, decode_dicom, is_dicom
from xreal_synth.prepare.found import FoundImage
from xreal_synth.prepare.grey import Fit, Square, decode_picture
from xreal_synth.prepare.segmenters import Drawn, Masker
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
    """An image uint8 [S, S] ready to be segmented; width and height of its source, what its file says of it, its own
    mask, and the sha256 of what it was read from."""

    source: FoundImage
    image: GreyImage
    width: int
    height: int
    facts: Facts
    mask: Mask | None = None
    content: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class MaskedImage:
    """An image with the mask drawn for it or given; `score` is None where nothing says how certain it is."""

    read: ReadImage
    mask: Mask
    score: float | None

    @property
    def source(self) -> FoundImage:
        """The image's row as it was found."""
        return self.read.source

    @property
    def image(self) -> GreyImage:
        """The prepared image, uint8 [S, S]."""
        return self.read.image

    def encoded(self) -> tuple[bytes, bytes, str]:
        """The image's and the mask's PNG, and the image's sha256."""
        image = encode_png(self.image)
        return image, encode_png(self.mask), sha256_bytes(image)


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
    return ReadImage(source, made, width, height, facts, mask, content)


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
        raise BadImage(RowFault.MASK_SHAPE, f"mask {name} is {_sides(mask.shape)}, image is {_sides(image)}")
    return Square.of(width, height, shape.fit).mask(mask, shape.size)


def _sides(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


Reading = tuple[FoundImage, Future[ReadImage | None]]


def read_ahead(
    store: Store, sources: Iterable[tuple[FoundImage, str]], shape: Shape, segmenter: str, workers: int
) -> Iterator[Reading]:
    """Every image and its former content, in order, read and made square in threads that run ahead."""
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Reading] = deque()
        try:
            for source, former in sources:
                ahead.append((source, pool.submit(read_image, store, source, shape, segmenter, former)))
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
    score = round(drawn.score, 3) if drawn is not None else read.source.mask_score
    return MaskedImage(read, mask, score)


def check_mask(image: MaskedImage, min_score: float) -> None:
    """Raises BadImage unless the mask is that of a frontal chest X-ray and the segmenter is sure enough of it.

    A mask that was given may show a sick chest in any shape: it passes where training takes it.
    """
    try:
        validate = validate_sides if image.source.mask else validate_mask
        validate(np.ascontiguousarray(image.mask), image.source.key)
    except AnatomyError as error:
        raise BadImage(mask_fault(error), error.found) from error
    if image.score is not None and image.score < min_score:
        raise BadImage(RowFault.UNSURE, f"certainty {image.score:.3f}, wanted at least {min_score:g}")
