"""From chosen images to image and mask files; what cannot be used is refused with its reason.

A run goes on where another stopped: what the journal names is not made again as long as its files have the same
content. What the source no longer has is taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from xreal_synth.images.manifest import BadImage, ImageBox, Refusal, RowFault, placed
from xreal_synth.prepare.choose import ChosenImage, not_frontal, too_young
from xreal_synth.prepare.found import FoundImage, FoundImages
from xreal_synth.prepare.grey import Square, look_of
from xreal_synth.prepare.images import (
    MaskedImage,
    ReadImage,
    Reading,
    Shape,
    add_masks,
    check_mask,
    read_ahead,
)
from xreal_synth.prepare.journal import Done, PrepareJournal
from xreal_synth.prepare.segmenters import Masker
from xreal_synth.storage import LocalStore, Store

BATCH: Final = 8
OnImages = Callable[[int], None]


def image_key(key: str) -> str:
    """Where a prepared image lies in the folder."""
    return f"images/{key}.png"


def mask_key(key: str) -> str:
    """Where its organ mask lies."""
    return f"masks/{key}.png"


@dataclass(frozen=True, slots=True)
class Preparation:
    """Settings of prepared images: the square, the least certainty of a mask, the least age, threads, refused masks
    kept to be seen."""

    shape: Shape
    min_score: float = 0.0
    min_age: int = 0
    workers: int = 2
    kept_to_see: int = 24


@dataclass(frozen=True, slots=True, eq=False)
class RefusedMask:
    """An image whose mask was refused, for the review sheet."""

    image: MaskedImage
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image whose files are written, with its split; boxes as shares of its square."""

    chosen: ChosenImage
    done: Done
    boxes: tuple[ImageBox, ...] = ()

    @property
    def score(self) -> float | None:
        """The segmenter's certainty of the mask, 0..1; None for a mask that was given without one."""
        return _score(self.chosen.image, self.done)


@dataclass(slots=True)
class Outcome:
    """The outcome of a run: images in the source's order, and the refused masks with the lowest certainty."""

    images: list[PreparedImage] = field(default_factory=list)
    refused_masks: list[RefusedMask] = field(default_factory=list)


def generate_images(
    source: Store,
    out: LocalStore,
    chosen: Sequence[ChosenImage],
    found: FoundImages,
    making: Preparation,
    segmenter: Masker | None,
    journal: PrepareJournal,
    on_images: OnImages = lambda images: None,
) -> Outcome:
    """Make what the journal does not name yet, or names with another content; refusals and images left out are added
    to `found`."""
    outcome, maker = Outcome(), _ImagePreparer(out, found, making, journal)
    todo = [(one.image, _former(out, journal, one.image)) for one in chosen]
    name = segmenter.name if segmenter else ""
    for batch in _batches(read_ahead(source, todo, making.shape, name, making.workers)):
        read = [image for given, future in batch if (image := maker.read(given, future)) is not None]
        for masked in add_masks(read, segmenter) if read else ():
            maker.keep(masked)
        on_images(len(batch))
    outcome.images = list(maker.accepted(chosen))
    outcome.refused_masks = maker.refused_masks
    _tidy(out, journal, {image.key for image in found.images} - maker.lost)
    return outcome


def _former(out: LocalStore, journal: PrepareJournal, image: FoundImage) -> str:
    """The content that the image was made of, "" if it is not there."""
    done = journal.done.get(image.key)
    whole = done is not None and out.exists(image_key(image.key)) and out.exists(mask_key(image.key))
    return done.content if done is not None and whole else ""


def _tidy(out: LocalStore, journal: PrepareJournal, keys: set[str]) -> None:
    """Takes away the files of images that the source has no longer."""
    gone = [key for key in journal.done if key not in keys]
    for key in gone:
        out.delete(image_key(key))
        out.delete(mask_key(key))
    journal.keep(keys)


def _score(image: FoundImage, done: Done) -> float | None:
    return image.mask_score if image.mask else done.score


def _batches(images: Iterator[Reading]) -> Iterator[list[Reading]]:
    batch: list[Reading] = []
    for one in images:
        batch.append(one)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclass(slots=True)
class _ImagePreparer:
    """Writes images one by one, and accounts for those it cannot write."""

    out: LocalStore
    found: FoundImages
    making: Preparation
    journal: PrepareJournal
    refused_masks: list[RefusedMask] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    """Keys of images that could not be read: what was made of them once is no longer theirs."""

    def read(self, source: FoundImage, future: Future[ReadImage | None]) -> ReadImage | None:
        """An image to be made; None for one that is made already, or cannot be."""
        try:
            return future.result()
        except BadImage as bad:
            self.found.refused.append(bad.refusal(source.name))
            self.lost.add(source.key)
            return None

    def keep(self, image: MaskedImage) -> None:
        key, read = image.source.key, image.read
        try:
            check_mask(image, self.making.min_score)
        except BadImage as bad:
            refusal = bad.refusal(image.source.name)
            self.found.refused.append(refusal)
            self.lost.add(key)
            self.refused_masks.append(RefusedMask(image, refusal))
            self.refused_masks.sort(key=lambda one: one.image.score or 0.0)
            del self.refused_masks[self.making.kept_to_see :]
            return
        data, mask, digest = image.encoded()
        self.out.replace(image_key(key), data)
        self.out.replace(mask_key(key), mask)
        facts = read.facts
        self.journal.add(
            Done(
                key,
                read.width,
                read.height,
                digest,
                image.score,
                facts.view,
                facts.age,
                facts.sex,
                read.content,
                look_of(image.image),
            )
        )

    def accepted(self, chosen: Sequence[ChosenImage]) -> Iterator[PreparedImage]:
        """The chosen images that are done, in their order; what is wrong with others is accounted for."""
        first: dict[str, str] = {}
        for one in chosen:
            done = self.journal.done.get(one.image.key)
            if done is None or one.image.key in self.lost:
                continue
            reason = self._left_out(one.image, done)
            if reason:
                self.found.left_out[reason] += 1
                continue
            try:
                yield self._accepted(one, done, first)
            except BadImage as bad:
                self.found.refused.append(bad.refusal(one.image.name))

    def _left_out(self, image: FoundImage, done: Done) -> str:
        """By what the file says and the table does not."""
        view = not_frontal(done.view) if done.view and not image.view else ""
        return view or ("" if image.age else too_young(done.age, self.making.min_age))

    def _accepted(self, one: ChosenImage, done: Done, first: dict[str, str]) -> PreparedImage:
        """Raises BadImage for the second of two with the same pixels, an unsure mask, a box beyond the image."""
        score, least = _score(one.image, done), self.making.min_score
        if score is not None and score < least:
            raise BadImage(RowFault.UNSURE, f"certainty {score:.3f}, wanted at least {least:g}")
        boxes = placed(one.image.boxes, done.width, done.height)
        twin = first.setdefault(done.sha256, one.image.name)
        if twin != one.image.name:
            raise BadImage(RowFault.DUPLICATE, f"the same pixels as {twin}")
        square = Square.of(done.width, done.height, self.making.shape.fit)
        return PreparedImage(one, done, square.boxes(boxes, done.width, done.height))
