"""From chosen images to image and mask files; what cannot be used is refused with its reason.

A run goes on where another stopped: what the journal names is not made again as long as its files have the same
content. What the source no longer has is taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Final

from xreal_synth.dataset.png import encode_png
from xreal_synth.images.manifest import BadImage, ImageBox, Refusal, RowFault, placed
from xreal_synth.prepare.choose import Choice, left_out
from xreal_synth.prepare.found import Blank, FolderColumns, FoundImage, FoundImages, Kind
from xreal_synth.prepare.grey import Square, look_of
from xreal_synth.prepare.images import ReadImage, Shape, add_masks, check_mask, check_score, read_image
from xreal_synth.prepare.journal import Done, PrepareJournal
from xreal_synth.prepare.segmenters import Masker
from xreal_synth.storage import LocalStore, Store, sha256_bytes
from xreal_synth.store import in_order

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
class PreparedImage:
    """An image whose files are written; boxes as shares of its square."""

    image: FoundImage
    done: Done
    boxes: tuple[ImageBox, ...] = ()

    @property
    def score(self) -> float | None:
        """The segmenter's certainty of the mask, 0..1; None for a mask that was given without one."""
        return self.image.mask_score if self.image.mask else self.done.score


def generate_images(
    task: PrepareTask,
    source: Store,
    out: LocalStore,
    images: Sequence[FoundImage],
    found: FoundImages,
    segmenter: Masker | None,
    journal: PrepareJournal,
    on_images: OnImages = lambda images: None,
) -> tuple[list[PreparedImage], list[RefusedMask]]:
    """Make what the journal does not name yet, or names with another content; refusals and images left out are added
    to `found`. The images in the source's order, and the refused masks with the lowest certainty."""
    preparer = _ImagePreparer(task, source, out, found, segmenter.name if segmenter else "", journal)
    looked = zip(images, in_order(preparer.read, images, task.workers), strict=True)
    while batch := list(islice(looked, BATCH)):
        for image, result in batch:
            if isinstance(result, BadImage):
                preparer.refuse(image, result)
        for read in add_masks([one for _, one in batch if isinstance(one, ReadImage)], segmenter):
            preparer.keep(read)
        on_images(len(batch))
    prepared = list(preparer.accepted(images))
    keys = {image.key for image in found.images} - preparer.lost
    for key in journal.done.keys() - keys:
        out.delete(image_key(key))
        out.delete(mask_key(key))
    journal.keep(keys)
    return prepared, preparer.refused_masks


@dataclass(slots=True)
class _ImagePreparer:
    """Reads and writes images one by one, and accounts for those it cannot."""

    task: PrepareTask
    source: Store
    out: LocalStore
    found: FoundImages
    segmenter: str
    journal: PrepareJournal
    refused_masks: list[RefusedMask] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    """Keys of images that could not be read: what was made of them once is no longer theirs."""

    def read(self, image: FoundImage) -> ReadImage | BadImage | None:
        """An image to be made, or why it cannot be; None for one that is made already."""
        done = self.journal.done.get(image.key)
        whole = done and self.out.exists(image_key(image.key)) and self.out.exists(mask_key(image.key))
        former = done.content if done and whole else ""
        try:
            return read_image(self.source, image, self.task.shape, self.segmenter, former)
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
            with self.found.refusing(image.name):
                yield self._accepted(image, done, first)

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
