"""One film from its source to image and mask: read, made square, segmented, checked, written."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from xreal_synth.anatomy.codes import decode_mask
from xreal_synth.anatomy.film_files import check_contrast, mask_fault
from xreal_synth.anatomy.manifest import BadFilm, Fault
from xreal_synth.anatomy.validate import validate_mask, validate_sides
from xreal_synth.errors import AnatomyError, StorageError
from xreal_synth.opening import MAX_IMAGE
from xreal_synth.shards.png import encode_png
from xreal_synth.storage import Store, sha256_bytes
from xreal_synth.training.prepare.dicom import Facts, decode_dicom, is_dicom
from xreal_synth.training.prepare.found import SourceFilm
from xreal_synth.training.prepare.grey import Fit, Square, decode_picture
from xreal_synth.training.prepare.segmenters import Drawn, Segmenter
from xreal_synth.types import Film, Mask


@dataclass(frozen=True, slots=True)
class Shape:
    """The square that films are made: its side, what happens to the rest of an oblong film, and whether smaller
    films are enlarged to it."""

    size: int
    fit: Fit
    enlarge: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ReadFilm:
    """A film uint8 [S, S] ready to be segmented; width and height of its source, what its file says of it, its own
    mask, and the sha256 of what it was read from."""

    source: SourceFilm
    film: Film
    width: int
    height: int
    facts: Facts
    mask: Mask | None = None
    content: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class MaskedFilm:
    """A film with the mask drawn for it or given; `score` is None where nothing says how certain it is."""

    read: ReadFilm
    mask: Mask
    score: float | None

    @property
    def source(self) -> SourceFilm:
        return self.read.source

    @property
    def film(self) -> Film:
        return self.read.film

    def encoded(self) -> tuple[bytes, bytes, str]:
        """The image's and the mask's PNG, and the image's sha256."""
        image = encode_png(self.film)
        return image, encode_png(self.mask), sha256_bytes(image)


def content_of(image: bytes, mask: bytes, segmenter: str) -> str:
    """The sha256 of what a film is made of: the files of image and mask, or who draws the mask."""
    return sha256_bytes(f"{sha256_bytes(image)} {sha256_bytes(mask) if mask else segmenter}".encode())


def read_film(
    store: Store, source: SourceFilm, shape: Shape, segmenter: str = "", former: str = ""
) -> ReadFilm | None:
    """The film, or None if its content is the `former`. Raises BadFilm for one that is missing, unreadable, too
    small or of one colour."""
    data = _first(store, source.files)
    mask_data = _first(store, (source.mask,)) if source.mask else b""
    content = content_of(data, mask_data, segmenter)
    if content == former:
        return None
    film, facts = decode_dicom(data) if is_dicom(data) else (decode_picture(data), Facts())
    height, width = film.shape
    square = Square.of(width, height, shape.fit)
    if square.side < shape.size and not shape.enlarge:
        raise BadFilm(
            Fault.SHAPE,
            f"film is {width} x {height}, wanted at least {shape.size} (--enlarge or a lower --size takes it)",
        )
    made = square.film(film, shape.size)
    check_contrast(made)
    mask = _given_mask(mask_data, source.mask, (height, width), shape) if source.mask else None
    return ReadFilm(source, made, width, height, facts, mask, content)


def _first(store: Store, names: Sequence[str]) -> bytes:
    for name in names:
        try:
            if store.exists(name):
                return store.read_bytes(name, MAX_IMAGE)
        except (StorageError, OSError) as error:
            raise BadFilm(
                Fault.UNREADABLE, error.found if isinstance(error, StorageError) else str(error)
            ) from error
    told = f"{', '.join(names[:3])} and so on" if len(names) > 4 else " or ".join(names)
    raise BadFilm(Fault.MISSING, f"no {told}")


def _given_mask(data: bytes, name: str, film: tuple[int, int], shape: Shape) -> Mask:
    """The film's own mask, of the film's size or of another with its proportions."""
    try:
        mask = decode_mask(data, name)
    except AnatomyError as error:
        raise BadFilm(Fault.MASK_UNREADABLE, f"{name}: {error.found}") from error
    height, width = mask.shape
    if height * film[1] != width * film[0]:
        raise BadFilm(Fault.MASK_SHAPE, f"mask {name} is {_sides(mask.shape)}, film is {_sides(film)}")
    return Square.of(width, height, shape.fit).mask(mask, shape.size)


def _sides(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


Reading = tuple[SourceFilm, Future[ReadFilm | None]]


def read_ahead(
    store: Store, sources: Iterable[tuple[SourceFilm, str]], shape: Shape, segmenter: str, workers: int
) -> Iterator[Reading]:
    """Every film and its former content, in order, read and made square in threads that run ahead."""
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Reading] = deque()
        try:
            for source, former in sources:
                ahead.append((source, pool.submit(read_film, store, source, shape, segmenter, former)))
                if len(ahead) >= 4 * workers:
                    yield ahead.popleft()
            while ahead:
                yield ahead.popleft()
        finally:
            for _, future in ahead:
                future.cancel()


def add_masks(films: Sequence[ReadFilm], segmenter: Segmenter | None) -> list[MaskedFilm]:
    """The films with the masks they came with, or the segmenter's."""
    drawn: list[Drawn | None] = [None] * len(films)
    blank = [at for at, film in enumerate(films) if film.mask is None]
    if blank:
        assert segmenter is not None, "films without a mask need a segmenter"
        for at, found in zip(blank, segmenter.draw([films[at].film for at in blank]), strict=True):
            drawn[at] = found
    return [_masked(film, found) for film, found in zip(films, drawn, strict=True)]


def _masked(read: ReadFilm, drawn: Drawn | None) -> MaskedFilm:
    mask = drawn.mask if drawn is not None else read.mask
    assert mask is not None
    score = round(drawn.score, 3) if drawn is not None else read.source.mask_score
    return MaskedFilm(read, mask, score)


def check_mask(film: MaskedFilm, min_score: float) -> None:
    """Raises BadFilm unless the mask is that of a frontal chest film and the segmenter is sure enough of it.

    A mask that was given may show a sick chest in any shape: it passes where training takes it.
    """
    try:
        validate = validate_sides if film.source.mask else validate_mask
        validate(np.ascontiguousarray(film.mask), film.source.key)
    except AnatomyError as error:
        raise BadFilm(mask_fault(error), error.found) from error
    if film.score is not None and film.score < min_score:
        raise BadFilm(Fault.UNSURE, f"certainty {film.score:.3f}, wanted at least {min_score:g}")
