"""A folder of the user's own images, to be edited: images, organ masks, labels, boxes, known by their content.

With a manifest.csv its rows are the images; without one, every PNG and JPEG in the folder, with the organ mask
of the same name in `masks/` where there is one. An image that is not square is padded with black, on both sides
alike, and then made smaller to the model's size (Lanczos); boxes and masks go with it. An image of the model's
size keeps its bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Final

import numpy as np
from PIL import Image

from xreal_synth.anatomy.label_map import decode_mask, resize_mask
from xreal_synth.anatomy.validate import validate_mask
from xreal_synth.errors import AnatomyError, StorageError, TrainingError
from xreal_synth.findings import FINDINGS, takes_box
from xreal_synth.images.boxes import BadBoxes, boxes_by_image, norm_box, read_entries
from xreal_synth.images.files import ImageFiles, check_contrast, decode_image, shown_size
from xreal_synth.images.manifest import MANIFEST, BadImage, ImageBox, ImageRow, read_manifest
from xreal_synth.opening import UnreadableError, open_image
from xreal_synth.recipe.findings import ImagesFolder
from xreal_synth.storage import Store, open_store, sha256_bytes
from xreal_synth.types import GreyImage, Mask, NormBox

MASKS: Final = "masks"
SUFFIXES: Final = (".png", ".jpg", ".jpeg")
MOST_REPORTED: Final = 20
ADULT: Final = 18
_READERS: Final = 8
_MASKS_KEPT: Final = 256

_Boxes = tuple[ImageBox, ...]


@dataclass(frozen=True, slots=True)
class RealImage:
    """An image of the folder as it lies there: width and height in pixels, hashes of image and mask ("" without
    one). Boxes are shares of the image padded to a square: its existing findings, and places to paint into."""

    row: ImageRow
    size: tuple[int, int]
    sha256: str
    mask_sha256: str
    own: _Boxes = ()
    places: _Boxes = ()

    @property
    def id(self) -> str:
        """The image's name in its folder, `TAR/NAME` in a folder of tars."""
        return f"{self.row.shard}/{self.row.image}" if self.row.shard else self.row.image

    @property
    def patient(self) -> str:
        """Whose image it is: the manifest's patient, or the image itself."""
        return f"patient {self.row.patient}" if self.row.patient else f"image {self.id}"


class ImageFolder:
    """The images by number, in the order of their ids; `content` is the digest of everything about them.

    Raises AnatomyError with everything that is wrong with the folder, `size` being the model's image size.
    Every file is read once and hashed (about a second for 1 GB on one core).
    """

    source_name = "images"

    def __init__(self, settings: ImagesFolder, size: int) -> None:
        self._where = settings.path
        store = open_store(settings.path)
        self._files = ImageFiles(store)
        problems: list[str] = []
        rows = image_rows(store, settings.path, settings.splits, problems)
        self.notes: tuple[str, ...] = ()
        minors = [] if settings.splits is not None else [row for row in rows if _minor(row)]
        if minors:
            rows = [row for row in rows if not _minor(row)]
            self.notes = (f"{settings.path}: {len(minors)} images of minors are left out; `splits` takes them",)
        with ThreadPoolExecutor(_READERS) as readers:
            looked = list(readers.map(lambda row: _look(self._files, row, size), rows))
        problems += [problem for problem in looked if isinstance(problem, str)]
        found = [image for image in looked if isinstance(image, RealImage)]
        self.images = self._boxed(store, settings, found, problems)
        if problems:
            raise _everything(settings.path, problems)
        self.content = _content(self.images)
        if settings.content is not None and settings.content != self.content:
            raise AnatomyError(
                where=settings.path, found=f"images with the digest {self.content[:12]}",
                wanted=f"{settings.content[:12]}: the same images, masks, labels and boxes as before",
                hint="put the folder back as it was, or give another place with --output and start anew",
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.images)

    def image(self, number: int, size: int) -> GreyImage:
        """The image uint8 [size, size]. Raises AnatomyError if it cannot be read or is no longer the same."""
        image = self.images[number]
        try:
            decoded = decode_image(self._read(image.row.shard, image.row.image, image.sha256))
            check_contrast(decoded)
        except BadImage as bad:
            raise AnatomyError(where=image.id, found=bad.reason, wanted="a grey image of 8 bits") from bad
        return resize_image(padded(decoded), size)

    def mask(self, number: int, size: int) -> Mask | None:
        """The image's validated organ mask uint8 [size, size], None without one. Raises AnatomyError."""
        return self._mask(number, size) if self.images[number].row.mask else None

    @lru_cache(maxsize=_MASKS_KEPT)  # noqa: B019 (a run has one folder, and keeps it)
    def _mask(self, number: int, size: int) -> Mask:
        image = self.images[number]
        try:
            mask = decode_mask(self._read(image.row.shard, image.row.mask, image.mask_sha256), image.row.mask)
        except BadImage as bad:
            raise AnatomyError(where=image.row.mask, found=bad.reason) from bad
        (width, height), (rows, columns) = image.size, mask.shape
        if rows * width != columns * height:
            raise AnatomyError(
                where=image.row.mask, found=f"a mask of {columns} x {rows} pixels",
                wanted=f"the proportions of its image, {width} x {height}",
            )  # fmt: skip
        mask = resize_mask(padded(mask), size)
        validate_mask(mask, image.row.mask)
        mask.flags.writeable = False
        return mask

    def _read(self, shard: str, name: str, sha256: str) -> bytes:
        data = self._files.read(shard, name)
        if sha256_bytes(data) != sha256:
            raise AnatomyError(
                where=name, found="the file has changed since the run began",
                wanted=f"sha256 {sha256[:12]}", hint="put it back, or start anew in another place",
            )  # fmt: skip
        return data

    def _boxed(
        self, store: Store, settings: ImagesFolder, found: list[RealImage], problems: list[str]
    ) -> tuple[RealImage, ...]:
        """The images with their boxes, ordered by id."""
        own, places = (self._table(store, name, found, problems) for name in (settings.boxes, settings.places))
        images = []
        for image in sorted(found, key=lambda one: one.id):
            given = image.row.boxes if settings.boxes is None else own.get(image.id, ())
            marked = _squared(places.get(image.id, ()), image.size)
            images.append(replace(image, own=_squared(given, image.size), places=marked))
        placed = {box.name for image in images for box in image.places}
        odd = {name for name in placed if name in FINDINGS and not takes_box(name)}
        problems += [f"{settings.places}: {name} takes in an organ and has no place" for name in sorted(odd)]
        return tuple(images)

    def _table(
        self, store: Store, name: str | None, images: Sequence[RealImage], problems: list[str]
    ) -> dict[str, _Boxes]:
        """The boxes of a file by image; those of images that are not here are noted."""
        if name is None:
            return {}
        try:
            entries = read_entries(store.read_bytes(name), name)
        except (BadBoxes, StorageError) as error:
            problems += error.problems if isinstance(error, BadBoxes) else [f"{name}: {error.found}"]
            return {}
        sizes = {image.id: image.size for image in images}
        found, elsewhere = boxes_by_image(entries, sizes)
        boxes: dict[str, _Boxes] = {}
        for image, own in found.items():
            placed = [(entry.finding, norm_box(entry, sizes[image])) for entry in own]
            problems += [box for _, box in placed if isinstance(box, str)]
            boxes[image] = tuple(ImageBox(name, box) for name, box in placed if not isinstance(box, str))
        if elsewhere == len(entries):
            problems.append(f"{name}: none of its {elsewhere} boxes is of an image in the folder")
        elif elsewhere:
            self.notes += (f"{name}: {elsewhere} of {len(entries)} boxes are of images that are not used",)
        return boxes


def padded(pixels: GreyImage) -> GreyImage:
    """uint8 [H, W] -> the square uint8 [S, S] with it in the middle of 0, S the longer side."""
    height, width = pixels.shape
    if height == width:
        return pixels
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(pixels, ((top, side - height - top), (left, side - width - left)))


def resize_image(image: GreyImage, size: int) -> GreyImage:
    """uint8 [S, S] -> uint8 [size, size], Lanczos without aliasing; an image of that size stays as it is."""
    if image.shape[0] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))


def image_rows(store: Store, where: str, splits: tuple[str, ...] | None, problems: list[str]) -> list[ImageRow]:
    """The manifest's rows, of these splits, or without one the images of the folder `where`; what is wrong with rows
    goes to `problems`.

    Raises AnatomyError: no folder, no images, a manifest that cannot be read.
    """
    if store.local_path is not None and not store.local_path.is_dir():
        raise AnatomyError(
            where=where, found="no such folder", wanted="a folder of images",
            hint="set anatomy.source.images.path to it (a relative one starts at the current folder)",
        )  # fmt: skip
    if not store.exists(MANIFEST):
        if splits is not None:
            problems.append(f"splits {', '.join(splits)} without a {MANIFEST} that tells them")
        rows = list(_listed(store))
    else:
        try:
            manifest = read_manifest(store, ("image",), splits)
        except TrainingError as error:
            raise AnatomyError(where=where, found=error.found, wanted=error.wanted, hint=error.hint) from error
        problems += [f"{refusal.file}: {refusal.reason}" for refusal in manifest.refused]
        rows = list(manifest.rows)
    if not rows and not problems:
        raise AnatomyError(
            where=where, found="no images" + (f" of split {', '.join(splits)}" if splits else ""),
            wanted=f"PNGs or JPEGs, or a {MANIFEST} that names them",
        )  # fmt: skip
    return rows


def _minor(row: ImageRow) -> bool:
    """Of a patient under 18, by the manifest's split or age."""
    return row.split == "minor" or (row.age.isdecimal() and int(row.age) < ADULT)


def _listed(store: Store) -> Iterator[ImageRow]:
    masks = set(store.list(MASKS))
    for key in store.list(""):
        if PurePosixPath(key).suffix.lower() in SUFFIXES:
            mask = f"{MASKS}/{PurePosixPath(key).stem}.png"
            yield ImageRow(image=key, mask=mask if mask in masks else "")


def _look(files: ImageFiles, row: ImageRow, size: int) -> RealImage | str:
    """The image's hash and the size in its header, or what is wrong with it."""
    try:
        data = files.read(row.shard, row.image)
        mask = sha256_bytes(files.read(row.shard, row.mask)) if row.mask else ""
        with open_image(data) as image:
            shape, mode = shown_size(image), image.mode
    except BadImage as bad:
        return f"{row.image}: {bad.reason}"
    except UnreadableError as error:
        return f"{row.image}: cannot be read as an image ({error})"
    if mode[0] in "IF":
        return f"{row.image}: an image of mode {mode}, wanted 8 bits (xreal-synth prepare makes them)"
    if max(shape) < size:
        return f"{row.image}: {shape[0]} x {shape[1]} pixels, wanted at least {size} on the longer side"
    return RealImage(row, shape, sha256_bytes(data), mask)


def _squared(boxes: Sequence[ImageBox], size: tuple[int, int]) -> _Boxes:
    """Boxes as shares of the image -> as shares of the padded square."""
    side = max(size)
    (width, height), left, top = size, (side - size[0]) // 2, (side - size[1]) // 2

    def squared(box: NormBox) -> NormBox:
        x0, y0, x1, y1 = box
        return (
            (x0 * width + left) / side, (y0 * height + top) / side,
            (x1 * width + left) / side, (y1 * height + top) / side,
        )  # fmt: skip

    return tuple(ImageBox(box.name, squared(box.box)) for box in boxes)


def _content(images: Sequence[RealImage]) -> str:
    """sha256 over what decides images and labels: names, bytes, labels and boxes; not patients or splits."""
    reported = [
        [
            image.id, image.sha256, image.mask_sha256, sorted(image.row.labels),
            *([[box.name, *box.box] for box in boxes] for boxes in (image.own, image.places)),
        ]
        for image in images
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(reported, separators=(",", ":")).encode()).hexdigest()


def _everything(where: str, problems: Sequence[str]) -> AnatomyError:
    reported = [f"\n    {problem}" for problem in problems[:MOST_REPORTED]]
    if len(problems) > MOST_REPORTED:
        reported.append(f"\n    and {len(problems) - MOST_REPORTED} more")
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return AnatomyError(
        where=where, found=f"{count} with the images:{''.join(reported)}",
        hint="correct these, or take the images out of the folder or the manifest",
    )  # fmt: skip
