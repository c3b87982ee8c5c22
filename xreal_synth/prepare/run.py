"""From chosen images to image and mask files; what cannot be used is refused with its reason.

A run goes on where another stopped: what the journal names is not made again as long as its files have the same
content. What the source no longer has is taken away. The journal has a line an image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from annotated_types import Ge
from pydantic import StringConstraints, TypeAdapter

from xreal_synth.dataset.png import encode_png
from xreal_synth.errors import TrainingError
from xreal_synth.images.manifest import BadImage, ImageBox, Refusal, RowFault, placed
from xreal_synth.opening import UnreadableError, parse_json, read_file
from xreal_synth.prepare.choose import Choice, left_out
from xreal_synth.prepare.found import Blank, FolderColumns, FoundImage, FoundImages, Kind
from xreal_synth.prepare.grey import Square, look_of
from xreal_synth.prepare.images import ReadImage, Shape, add_masks, check_mask, check_score, read_image
from xreal_synth.prepare.segmenters import Masker
from xreal_synth.storage import LocalStore, Store, sha256_bytes
from xreal_synth.store import in_order

JOURNAL: Final = "prepared.jsonl"
BATCH: Final = 8
MOST_REFUSED: Final = 24
OnImages = Callable[[int], None]
RefusedMask = tuple[ReadImage, Refusal]
"""An image whose mask was refused, for the review sheet."""


@dataclass(frozen=True, slots=True)
class PrepareTask:
    """A preparation asked for: a source (path or any fsspec URI), how its tables are read, what is taken and made.

    `tables` is where the tables lie if not with the images; `boxes` is a list that is read instead of the source's
    boxes. `segmenter` is `pspnet` or a bundle; `weights` the folder of PSPNet's weights. `shard_images` writes
    WebDataset tars too, with this many images each.
    """

    kind: Kind
    source: str
    out: Path
    shape: Shape
    choice: Choice = field(default_factory=Choice)
    tables: str | None = None
    columns: FolderColumns = field(default_factory=FolderColumns)
    boxes: str = ""
    encoding: str = "utf-8-sig"
    blank: Blank = "unknown"
    segmenter: str = "xreal-mini"
    weights: Path | None = None
    device: str = "cpu"
    min_score: float = 0.0
    workers: int = 2
    shard_images: int | None = None


def image_key(key: str) -> str:
    """Where a prepared image lies in the folder."""
    return f"images/{key}.png"


def mask_key(key: str) -> str:
    """Where its organ mask lies."""
    return f"masks/{key}.png"


@dataclass(frozen=True, slots=True)
class Done:
    """An image whose image and mask are written: its source's width and height, and the mask's certainty.

    `sha256` is of the image file: two images of one are the same image. `content` is of what it was made of, see
    `content_of`. `view`, `age` and `sex` are the image's own (DICOM). `look` is its small picture, see `grey.look_of`.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True}

    key: Annotated[str, StringConstraints(pattern=r"^[^/\\\x00]+$")]
    width: Annotated[int, Ge(1)]
    height: Annotated[int, Ge(1)]
    sha256: str
    score: float | None = None
    view: str = ""
    age: str = ""
    sex: str = ""
    content: str = ""
    look: str = ""


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image whose files are written; boxes as shares of its square."""

    image: FoundImage
    done: Done
    boxes: tuple[ImageBox, ...] = ()

    @property
    def score(self) -> float | None:
        """The segmenter's certainty of the mask, 0..1; None for a mask that was given without one."""
        return self.image.mask_score if self.image.mask else self.done.score


@dataclass(slots=True)
class ImagePreparer:
    """Makes images and masks of a source's images, and accounts in `found` for those it cannot; `segmenter` draws the
    masks that are not given. What the journal names with the same content is not made again."""

    task: PrepareTask
    source: Store
    out: LocalStore
    found: FoundImages
    segmenter: Masker | None
    journal: PrepareJournal
    refused_masks: list[RefusedMask] = field(default_factory=list)
    """Those with the lowest certainty, lowest first."""
    lost: set[str] = field(default_factory=set)
    """Keys of images that are refused: what was made of them is deleted."""

    def prepare(self, images: Sequence[FoundImage], on_images: OnImages = lambda images: None) -> list[PreparedImage]:
        """The images that are made, in the source's order; files of any that `found` does not have are deleted."""
        looked = zip(images, in_order(self.read, images, self.task.workers), strict=True)
        while batch := list(islice(looked, BATCH)):
            for image, result in batch:
                if isinstance(result, BadImage):
                    self.refuse(image, result)
            for read in add_masks([one for _, one in batch if isinstance(one, ReadImage)], self.segmenter):
                self.keep(read)
            on_images(len(batch))
        prepared = list(self.accepted(images))
        keys = {image.key for image in self.found.images} - self.lost
        for key in self.journal.done.keys() - keys:
            self.out.delete(image_key(key))
            self.out.delete(mask_key(key))
        self.journal.keep(keys)
        return prepared

    def read(self, image: FoundImage) -> ReadImage | BadImage | None:
        """An image to be made, or why it cannot be; None for one that is made already."""
        done = self.journal.done.get(image.key)
        whole = done and self.out.exists(image_key(image.key)) and self.out.exists(mask_key(image.key))
        former = done.content if done and whole else ""
        segmenter = self.segmenter.name if self.segmenter else ""
        try:
            return read_image(self.source, image, self.task.shape, segmenter, former)
        except BadImage as bad:
            return bad

    def refuse(self, image: FoundImage, bad: BadImage) -> Refusal:
        """Notes an image of which nothing is kept."""
        refusal = bad.refusal(image.name)
        self.found.refused.append(refusal)
        self.lost.add(image.key)
        return refusal

    def keep(self, read: ReadImage) -> None:
        """Writes image and mask and notes them as done, if the mask is one."""
        try:
            check_mask(read, self.task.min_score)
        except BadImage as bad:
            self.refused_masks.append((read, self.refuse(read.source, bad)))
            self.refused_masks.sort(key=lambda one: one[0].score or 0.0)
            del self.refused_masks[MOST_REFUSED:]
            return
        key, facts = read.source.key, read.facts
        assert read.mask is not None
        data = encode_png(read.image)
        self.out.replace(image_key(key), data)
        self.out.replace(mask_key(key), encode_png(read.mask))
        self.journal.add(
            Done(
                key, read.width, read.height, sha256_bytes(data), read.score, facts.view, facts.age, facts.sex,
                read.content, look_of(read.image),
            )
        )  # fmt: skip

    def accepted(self, images: Sequence[FoundImage]) -> Iterator[PreparedImage]:
        """The images that are done, in their order; what is wrong with others is accounted for."""
        first: dict[str, str] = {}
        for image in images:
            done = self.journal.done.get(image.key)
            if done is None or image.key in self.lost:
                continue
            view, age = "" if image.view else done.view, "" if image.age else done.age  # what the file alone says
            if reason := left_out(view, age, self.task.choice, frontal=True):
                self.found.left_out[reason] += 1
                continue
            try:
                prepared = self._accepted(image, done, first)
            except BadImage as bad:
                self.found.refused.append(bad.refusal(image.name))
                self.lost.add(image.key)
                continue
            yield prepared

    def _accepted(self, image: FoundImage, done: Done, first: dict[str, str]) -> PreparedImage:
        """Raises BadImage for the second of two with the same pixels, an unsure mask, a box beyond the image."""
        prepared = PreparedImage(image, done)
        check_score(prepared.score, self.task.min_score)
        boxes = placed(image.boxes, done.width, done.height)
        twin = first.setdefault(done.sha256, image.name)
        if twin != image.name:
            raise BadImage(RowFault.DUPLICATE, f"the same pixels as {twin}")
        square = Square.of(done.width, done.height, self.task.shape.fit)
        return replace(prepared, boxes=square.boxes(boxes, done.width, done.height))


class PrepareJournal:
    """Images done in `folder`, read when opened and appended to; a last line that was cut off does not count.

    A line that is damaged does not count either: `damaged` counts them, and their images are made again. Raises
    TrainingError if the folder holds images prepared with other settings, or with settings that cannot be read, or
    anything else.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.done: dict[str, Done] = {}
        self.damaged = 0
        self._folder, self._settings = folder, settings
        path, lines = folder / JOURNAL, list[bytes]()
        if path.exists():
            whole, torn = _checked(path, settings)
            lines = whole.split(b"\n") if whole else []
            if torn:
                os.truncate(path, len(whole) + bool(whole))
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise TrainingError(
                found=f"{folder} holds something else than prepared images",
                wanted="a new or empty folder, or one that prepare was stopped in",
                hint="give another --out",
            )
        folder.mkdir(parents=True, exist_ok=True)
        for line in lines[1:]:
            try:
                done = TypeAdapter(Done).validate_json(line)
            except ValueError:
                self.damaged += 1
            else:
                self.done[done.key] = done
        self._file = path.open("a", encoding="utf-8")
        if not lines:
            self._write({"settings": settings})

    def add(self, done: Done) -> None:
        """Notes a finished image, written through before it returns."""
        self._write(asdict(done))
        self.done[done.key] = done

    def keep(self, keys: Collection[str]) -> None:
        """Forgets all others; the file is replaced whole."""
        self.done = {key: done for key, done in self.done.items() if key in keys}
        lines = [{"settings": self._settings}, *map(asdict, self.done.values())]
        LocalStore(self._folder).replace(JOURNAL, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def close(self) -> None:
        """Closes the file; what was added stays."""
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def _checked(path: Path, settings: dict[str, Any]) -> tuple[bytes, bytes]:
    """The whole lines of a journal of these settings, and what is left of one that was cut off."""
    try:
        whole, _, torn = read_file(path).rpartition(b"\n")
        former = parse_json(whole.partition(b"\n")[0])["settings"] if whole else settings
        changed = [name for name in settings if former.get(name) != settings[name]]
    except (UnreadableError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            where=str(path),
            found=f"what was prepared here cannot be read: its first line holds no settings ({error})",
            wanted="the settings of these images in its first line, and then a line an image",
            hint="give another --out, or empty the folder to prepare all images again",
        ) from error
    if changed:
        reported = "; ".join(f"{name} {former.get(name)!r}, now {settings[name]!r}" for name in sorted(changed))
        raise TrainingError(
            where=str(path.parent),
            found=f"images prepared with other settings: {reported}",
            wanted="the same settings, so that all images are made alike",
            hint="give the former settings, or another --out",
        )
    return whole, torn
