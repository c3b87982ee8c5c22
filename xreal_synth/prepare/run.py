"""From chosen images to image and mask files; what cannot be used is refused with its reason.

A stopped run goes on where it was: what the journal names is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from xreal_synth.images.manifest import BadImage, Refusal, RowFault
from xreal_synth.prepare.choose import ChosenImage, not_frontal
from xreal_synth.prepare.found import FoundImage, FoundImages
from xreal_synth.prepare.images import (
    MaskedImage,
    ReadImage,
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
    return f"images/{key}.png"


def mask_key(key: str) -> str:
    return f"masks/{key}.png"


@dataclass(frozen=True, slots=True)
class Preparation:
    """How images are made: the square, the least certainty of a mask, threads, refused masks kept to be seen."""

    shape: Shape
    min_score: float = 0.0
    workers: int = 2
    kept_to_see: int = 24


@dataclass(frozen=True, slots=True, eq=False)
class RefusedMask:
    """An image whose mask was refused, for the review sheet."""

    image: MaskedImage
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image whose files are written, with its split."""

    chosen: ChosenImage
    done: Done


@dataclass(slots=True)
class Outcome:
    """What a run made: images in the source's order, and the refused masks with the lowest certainty."""

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
    """Make what the journal does not name yet; refusals and images left out are added to `found`."""
    outcome, maker = Outcome(), _ImagePreparer(out, found, making, journal)
    todo = [one.image for one in chosen if not _is_done(out, journal, one.image)]
    on_images(len(chosen) - len(todo))
    for batch in _batches(read_ahead(source, todo, making.shape, making.workers)):
        read = [image for given, future in batch if (image := maker.read(given, future)) is not None]
        for masked in add_masks(read, segmenter) if read else ():
            maker.keep(masked)
        on_images(len(batch))
    outcome.images = list(maker.accepted(chosen))
    outcome.refused_masks = maker.refused_masks
    return outcome


def _is_done(out: LocalStore, journal: PrepareJournal, image: FoundImage) -> bool:
    return image.key in journal.done and out.exists(image_key(image.key)) and out.exists(mask_key(image.key))


def _batches(
    images: Iterator[tuple[FoundImage, Future[ReadImage]]],
) -> Iterator[list[tuple[FoundImage, Future[ReadImage]]]]:
    batch: list[tuple[FoundImage, Future[ReadImage]]] = []
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
    made: set[str] = field(default_factory=set)

    def read(self, source: FoundImage, future: Future[ReadImage]) -> ReadImage | None:
        try:
            image = future.result()
        except BadImage as bad:
            self.found.refused.append(bad.refusal(source.name))
            return None
        reason = not_frontal(image.view) if image.view and not source.view else ""
        if reason:
            self.found.left_out[reason] += 1
            return None
        return image

    def keep(self, image: MaskedImage) -> None:
        try:
            check_mask(image, self.making.min_score)
        except BadImage as bad:
            refusal = bad.refusal(image.source.name)
            self.found.refused.append(refusal)
            self.refused_masks.append(RefusedMask(image, refusal))
            self.refused_masks.sort(key=lambda one: one.image.score or 0.0)
            del self.refused_masks[self.making.kept_to_see :]
            return
        data, mask, digest = image.encoded()
        self.out.replace(image_key(image.source.key), data)
        self.out.replace(mask_key(image.source.key), mask)
        self.journal.add(Done(image.source.key, image.width, image.height, digest, image.score, image.view))
        self.made.add(image.source.key)

    def accepted(self, chosen: Sequence[ChosenImage]) -> Iterator[PreparedImage]:
        """The chosen images that are done, in their order; the second of two with the same pixels is refused."""
        first: dict[str, str] = {}
        for one in chosen:
            done = self.journal.done.get(one.image.key)
            if done is None:
                continue
            twin = first.setdefault(done.sha256, one.image.key)
            if twin != one.image.key:
                self.found.refuse(one.image.name, RowFault.DUPLICATE, f"the same pixels as {twin}")
            elif done.score is not None and done.score < self.making.min_score:
                self.found.refuse(
                    one.image.name,
                    RowFault.UNSURE,
                    f"certainty {done.score:.3f}, wanted at least {self.making.min_score:g}",
                )
            else:
                yield PreparedImage(one, done)
