"""One film from its source to image and mask: read, made square, segmented, checked, written."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from xreal_synth.anatomy.codes import decode_mask
from xreal_synth.anatomy.film_files import check_contrast, mask_fault
from xreal_synth.anatomy.manifest import BadFilm, Fault
from xreal_synth.anatomy.validate import validate_mask, validate_sides
from xreal_synth.errors import AnatomyError, StorageError
from xreal_synth.shards.png import encode_png
from xreal_synth.storage import Store
from xreal_synth.training.prepare.dicom import decode_dicom, is_dicom
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
    """A film uint8 [S, S] ready to be segmented; width and height of its source, its own view and mask."""

    source: SourceFilm
    film: Film
    width: int
    height: int
    view: str = ""
    mask: Mask | None = None


@dataclass(frozen=True, slots=True, eq=False)
class MaskedFilm:
    """A film uint8 [S, S] with the mask drawn for it; `score` is None for a mask that was given."""

    source: SourceFilm
    film: Film
    width: int
    height: int
    view: str
    mask: Mask
    score: float | None

    def encoded(self) -> tuple[bytes, bytes, str]:
        """The image's and the mask's PNG, and the image's sha256."""
        image = encode_png(self.film)
        return image, encode_png(self.mask), hashlib.sha256(image).hexdigest()


def read_film(store: Store, source: SourceFilm, shape: Shape) -> ReadFilm:
    """Raises BadFilm for a film that is missing, unreadable, too small or of one colour."""
    data = _first(store, source.files)
    film, view = decode_dicom(data) if is_dicom(data) else (decode_picture(data), "")
    height, width = film.shape
    square = Square.of(width, height, shape.fit)
    if square.side < shape.size and not shape.enlarge:
        raise BadFilm(
            Fault.SHAPE,
            f"film is {width} x {height}, wanted at least {shape.size} (--enlarge or a lower --size takes it)",
        )
    made = square.film(film, shape.size)
    check_contrast(made)
    mask = _given_mask(store, source, (height, width), shape) if source.mask else None
    return ReadFilm(source, made, width, height, view, mask)


def _first(store: Store, names: Sequence[str]) -> bytes:
    for name in names:
        if store.exists(name):
            try:
                return store.read_bytes(name)
            except (StorageError, OSError) as error:
                raise BadFilm(Fault.UNREADABLE, str(error)) from error
    raise BadFilm(Fault.MISSING, f"no {' or '.join(names)}")


def _given_mask(store: Store, source: SourceFilm, film: tuple[int, int], shape: Shape) -> Mask:
    """The film's own mask, of the film's size or of another with its proportions."""
    try:
        mask = decode_mask(_first(store, (source.mask,)), source.mask)
    except AnatomyError as error:
        raise BadFilm(Fault.MASK_UNREADABLE, f"{source.mask}: {error.found}") from error
    height, width = mask.shape
    if height * film[1] != width * film[0]:
        raise BadFilm(Fault.MASK_SHAPE, f"mask {source.mask} is {_sides(mask.shape)}, film is {_sides(film)}")
    return Square.of(width, height, shape.fit).mask(mask, shape.size)


def _sides(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def read_ahead(
    store: Store, sources: Sequence[SourceFilm], shape: Shape, workers: int
) -> Iterator[tuple[SourceFilm, Future[ReadFilm]]]:
    """Every film in order, read and made square in threads that run ahead."""
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[SourceFilm, Future[ReadFilm]]] = deque()
        try:
            for source in sources:
                ahead.append((source, pool.submit(read_film, store, source, shape)))
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
    return MaskedFilm(read.source, read.film, read.width, read.height, read.view, mask, score)


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
