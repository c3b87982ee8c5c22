"""A folder of the user's own films, to be edited: films, organ masks, labels, boxes, known by their content.

With a manifest.csv its rows are the films; without one, every PNG and JPEG in the folder, with the organ mask
of the same name in `masks/` where there is one. A film that is not square is padded with black, on both sides
alike, and then made smaller to the model's size (Lanczos); boxes and masks go with it. A film of the model's
size keeps its bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Final

import numpy as np
from PIL import Image

from xreal_synth.anatomy.codes import decode_mask, resize_mask
from xreal_synth.anatomy.film_boxes import BadBoxes, film_of, films_by_name, norm_box, read_entries
from xreal_synth.anatomy.film_files import FilmFiles, decode_film, shown_size
from xreal_synth.anatomy.manifest import MANIFEST, BadFilm, FilmBox, FilmRow, read_manifest
from xreal_synth.anatomy.validate import validate_mask
from xreal_synth.errors import AnatomyError, StorageError, TrainingError
from xreal_synth.opening import UnreadableError, open_image
from xreal_synth.storage import Store, open_store, sha256_bytes
from xreal_synth.types import Film, Mask, NormBox
from xreal_synth.vocab import FINDINGS

MASKS: Final = "masks"
SUFFIXES: Final = (".png", ".jpg", ".jpeg")
MOST_TOLD: Final = 20
_READERS: Final = 8
_MASKS_KEPT: Final = 256

_Boxes = tuple[FilmBox, ...]


@dataclass(frozen=True, slots=True)
class FolderSettings:
    """`boxes` and `places` are files in the folder, `splits` those of the manifest to take (all by default),
    `content` the digest that the films must have."""

    path: str
    boxes: str | None = None
    places: str | None = None
    splits: tuple[str, ...] | None = None
    content: str | None = None


@dataclass(frozen=True, slots=True)
class RealFilm:
    """A film of the folder as it lies there: width and height in pixels, hashes of film and mask ("" without
    one). Boxes are shares of the film padded to a square: its own findings, and places to paint into."""

    row: FilmRow
    size: tuple[int, int]
    sha256: str
    mask_sha256: str
    own: _Boxes = ()
    places: _Boxes = ()

    @property
    def id(self) -> str:
        return f"{self.row.shard}/{self.row.image}" if self.row.shard else self.row.image

    @property
    def patient(self) -> str:
        """Whose film it is: the manifest's patient, or the film itself."""
        return f"patient {self.row.patient}" if self.row.patient else f"film {self.id}"


class FilmFolder:
    """The films by number, in the order of their ids; `content` is the digest of everything about them.

    Raises AnatomyError with everything that is wrong with the folder, `size` being the model's image size.
    Every file is read once and hashed (about a second for 1 GB on one core).
    """

    source_name = "images"

    def __init__(self, settings: FolderSettings, size: int) -> None:
        self._where = settings.path
        store = open_store(settings.path)
        self._files = FilmFiles(store)
        problems: list[str] = []
        rows = _rows(store, settings, problems)
        found = _inspected(self._files, rows, size, problems)
        self.notes: tuple[str, ...] = ()
        self.films = self._boxed(store, settings, found, problems)
        if problems:
            raise _everything(settings.path, problems)
        self.content = _content(self.films)
        if settings.content is not None and settings.content != self.content:
            raise AnatomyError(
                where=settings.path, found=f"films with the digest {self.content[:12]}",
                wanted=f"{settings.content[:12]}: the same films, masks, labels and boxes as before",
                mend="put the folder back as it was, or give another place with --output and start anew",
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.films)

    def film(self, number: int, size: int) -> Film:
        """The film uint8 [size, size]. Raises AnatomyError if it cannot be read or is no longer the same."""
        film = self.films[number]
        return resize_film(padded(self._decoded(film), 0), size)

    def mask(self, number: int, size: int) -> Mask | None:
        """The film's validated organ mask uint8 [size, size], None without one. Raises AnatomyError."""
        return self._mask(number, size) if self.films[number].row.mask else None

    def _decoded(self, film: RealFilm) -> Film:
        try:
            return decode_film(self._read(film.row.shard, film.row.image, film.sha256))
        except BadFilm as bad:
            raise AnatomyError(where=film.id, found=bad.reason, wanted="a grey film of 8 bits") from bad

    @lru_cache(maxsize=_MASKS_KEPT)  # noqa: B019 (a run has one folder, and keeps it)
    def _mask(self, number: int, size: int) -> Mask:
        film = self.films[number]
        try:
            mask = decode_mask(self._read(film.row.shard, film.row.mask, film.mask_sha256), film.row.mask)
        except BadFilm as bad:
            raise AnatomyError(where=film.row.mask, found=bad.reason) from bad
        (width, height), (rows, columns) = film.size, mask.shape
        if rows * width != columns * height:
            raise AnatomyError(
                where=film.row.mask, found=f"a mask of {columns} x {rows} pixels",
                wanted=f"the proportions of its film, {width} x {height}",
            )  # fmt: skip
        mask = resize_mask(padded(mask, 0), size)
        validate_mask(mask, film.row.mask)
        mask.flags.writeable = False
        return mask

    def _read(self, shard: str, name: str, sha256: str) -> bytes:
        data = self._files.read(shard, name)
        if sha256_bytes(data) != sha256:
            raise AnatomyError(
                where=name, found="the file has changed since the run began",
                wanted=f"sha256 {sha256[:12]}", mend="put it back, or start anew in another place",
            )  # fmt: skip
        return data

    def _boxed(
        self, store: Store, settings: FolderSettings, found: list[RealFilm], problems: list[str]
    ) -> tuple[RealFilm, ...]:
        """The films with their boxes, ordered by id."""
        own, places = (
            self._table(store, name, found, problems) for name in (settings.boxes, settings.places)
        )
        films = []
        for film in sorted(found, key=lambda one: one.id):
            given = film.row.boxes if settings.boxes is None else own.get(film.id, ())
            films.append(
                RealFilm(
                    film.row,
                    film.size,
                    film.sha256,
                    film.mask_sha256,
                    own=_squared(given, film.size),
                    places=_squared(places.get(film.id, ()), film.size),
                )
            )
        odd = {box.name for film in films for box in film.places if _organ(box.name)}
        problems += [f"{settings.places}: {name} takes in an organ and has no place" for name in sorted(odd)]
        return tuple(films)

    def _table(
        self, store: Store, name: str | None, films: Sequence[RealFilm], problems: list[str]
    ) -> dict[str, _Boxes]:
        """The boxes of a file by film; those of films that are not here are noted."""
        if name is None:
            return {}
        try:
            entries = read_entries(store.read_bytes(name), name)
        except (BadBoxes, StorageError) as error:
            problems += error.problems if isinstance(error, BadBoxes) else [f"{name}: {error.found}"]
            return {}
        by_id, names = {film.id: film for film in films}, films_by_name(film.id for film in films)
        boxes: dict[str, _Boxes] = {}
        elsewhere = 0
        for entry in entries:
            film = film_of(entry.film, names)
            if film is None:
                elsewhere += 1
                continue
            box = norm_box(entry, by_id[film].size)
            if isinstance(box, str):
                problems.append(box)
            else:
                boxes[film] = (*boxes.get(film, ()), FilmBox(entry.finding, box))
        if elsewhere == len(entries):
            problems.append(f"{name}: none of its {elsewhere} boxes is of a film in the folder")
        elif elsewhere:
            self.notes += (f"{name}: {elsewhere} of {len(entries)} boxes are of films that are not used",)
        return boxes


def padded(pixels: Film, value: int) -> Film:
    """uint8 [H, W] -> the square uint8 [S, S] with it in the middle, S the longer side."""
    height, width = pixels.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    if height == width:
        return pixels
    return np.pad(pixels, ((top, side - height - top), (left, side - width - left)), constant_values=value)


def resize_film(film: Film, size: int) -> Film:
    """uint8 [S, S] -> uint8 [size, size], Lanczos without aliasing; a film of that size stays as it is."""
    if film.shape[0] == size:
        return film
    return np.asarray(Image.fromarray(film).resize((size, size), Image.Resampling.LANCZOS))


def _rows(store: Store, settings: FolderSettings, problems: list[str]) -> list[FilmRow]:
    if store.local_path is not None and not store.local_path.is_dir():
        raise AnatomyError(
            where=settings.path, found="no such folder", wanted="a folder of films",
            mend="set anatomy.source.images.path to it (a relative one starts at the current folder)",
        )  # fmt: skip
    if not store.exists(MANIFEST):
        if settings.splits is not None:
            problems.append(f"splits {', '.join(settings.splits)} without a {MANIFEST} that tells them")
        rows = list(_listed(store))
    else:
        try:
            manifest = read_manifest(store, ("image",), settings.splits)
        except TrainingError as error:
            raise AnatomyError(
                where=settings.path, found=error.found, wanted=error.wanted, mend=error.mend
            ) from error
        problems += [f"{refusal.file}: {refusal.reason}" for refusal in manifest.refused]
        rows = list(manifest.rows)
    if not rows and not problems:
        raise AnatomyError(
            where=settings.path,
            found="no films" + (f" of split {', '.join(settings.splits)}" if settings.splits else ""),
            wanted=f"PNGs or JPEGs, or a {MANIFEST} that names them",
        )
    return rows


def _listed(store: Store) -> Iterator[FilmRow]:
    masks = set(store.list(MASKS))
    for key in store.list(""):
        if PurePosixPath(key).suffix.lower() in SUFFIXES:
            mask = f"{MASKS}/{PurePosixPath(key).stem}.png"
            yield FilmRow(image=key, mask=mask if mask in masks else "")


def _inspected(files: FilmFiles, rows: Sequence[FilmRow], size: int, problems: list[str]) -> list[RealFilm]:
    with ThreadPoolExecutor(_READERS) as readers:
        looked = list(readers.map(lambda row: _look(files, row, size), rows))
    problems += [problem for problem in looked if isinstance(problem, str)]
    return [film for film in looked if isinstance(film, RealFilm)]


def _look(files: FilmFiles, row: FilmRow, size: int) -> RealFilm | str:
    """The film's hash and the size in its header, or what is wrong with it."""
    try:
        data = files.read(row.shard, row.image)
        mask = sha256_bytes(files.read(row.shard, row.mask)) if row.mask else ""
        with open_image(data) as image:
            shape, mode = shown_size(image), image.mode
    except BadFilm as bad:
        return f"{row.image}: {bad.reason}"
    except UnreadableError as error:
        return f"{row.image}: cannot be read as an image ({error})"
    if mode[0] in "IF":
        return f"{row.image}: an image of mode {mode}, wanted 8 bits (xreal-synth prepare makes them)"
    if max(shape) < size:
        return f"{row.image}: {shape[0]} x {shape[1]} pixels, wanted at least {size} on the longer side"
    return RealFilm(row, shape, sha256_bytes(data), mask)


def _squared(boxes: Sequence[FilmBox], size: tuple[int, int]) -> _Boxes:
    """Boxes as shares of the film -> as shares of the padded square."""
    side = max(size)
    (width, height), left, top = size, (side - size[0]) // 2, (side - size[1]) // 2

    def squared(box: NormBox) -> NormBox:
        x0, y0, x1, y1 = box
        return (
            (x0 * width + left) / side, (y0 * height + top) / side,
            (x1 * width + left) / side, (y1 * height + top) / side,
        )  # fmt: skip

    return tuple(FilmBox(box.name, squared(box.box)) for box in boxes)


def _organ(name: str) -> bool:
    return name in FINDINGS and FINDINGS[name].region != "box"


def _content(films: Sequence[RealFilm]) -> str:
    """sha256 over what decides films and labels: names, bytes, labels and boxes; not patients or splits."""
    told = [
        [
            film.id, film.sha256, film.mask_sha256, sorted(film.row.labels),
            *([[box.name, *box.box] for box in boxes] for boxes in (film.own, film.places)),
        ]
        for film in films
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(told, separators=(",", ":")).encode()).hexdigest()


def _everything(where: str, problems: Sequence[str]) -> AnatomyError:
    told = [f"\n    {problem}" for problem in problems[:MOST_TOLD]]
    if len(problems) > MOST_TOLD:
        told.append(f"\n    and {len(problems) - MOST_TOLD} more")
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return AnatomyError(
        where=where, found=f"{count} with the films:{''.join(told)}",
        mend="correct these, or take the films out of the folder or the manifest",
    )  # fmt: skip
