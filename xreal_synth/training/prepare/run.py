"""From chosen films to image and mask files; what cannot be used is refused with its reason.

A stopped run goes on where it was: what the journal names is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from xreal_synth.anatomy.manifest import BadFilm, Fault, FilmBox, Refusal, placed
from xreal_synth.storage import LocalStore, Store
from xreal_synth.training.prepare.choose import Chosen, not_frontal
from xreal_synth.training.prepare.films import (
    MaskedFilm,
    ReadFilm,
    Shape,
    add_masks,
    check_mask,
    read_ahead,
)
from xreal_synth.training.prepare.found import Found, SourceFilm
from xreal_synth.training.prepare.grey import Square
from xreal_synth.training.prepare.journal import Done, Journal
from xreal_synth.training.prepare.segmenters import Segmenter

BATCH: Final = 8
OnFilms = Callable[[int], None]


def image_key(key: str) -> str:
    return f"images/{key}.png"


def mask_key(key: str) -> str:
    return f"masks/{key}.png"


@dataclass(frozen=True, slots=True)
class Making:
    """How films are made: the square, the least certainty of a mask, threads, refused masks kept to be seen."""

    shape: Shape
    min_score: float = 0.0
    workers: int = 2
    kept_to_see: int = 24


@dataclass(frozen=True, slots=True, eq=False)
class RefusedMask:
    """A film whose mask was refused, for the review sheet."""

    film: MaskedFilm
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Prepared:
    """A film whose files are written, with its split; boxes as shares of its square."""

    chosen: Chosen
    done: Done
    boxes: tuple[FilmBox, ...] = ()


@dataclass(slots=True)
class Outcome:
    """What a run made: films in the source's order, and the refused masks with the lowest certainty."""

    films: list[Prepared] = field(default_factory=list)
    refused_masks: list[RefusedMask] = field(default_factory=list)


def make_films(
    source: Store,
    out: LocalStore,
    chosen: Sequence[Chosen],
    found: Found,
    making: Making,
    segmenter: Segmenter | None,
    journal: Journal,
    on_films: OnFilms = lambda films: None,
) -> Outcome:
    """Make what the journal does not name yet; refusals and films left out are added to `found`."""
    outcome, maker = Outcome(), _Maker(out, found, making, journal)
    todo = [one.film for one in chosen if not _is_done(out, journal, one.film)]
    on_films(len(chosen) - len(todo))
    for batch in _batches(read_ahead(source, todo, making.shape, making.workers)):
        read = [film for given, future in batch if (film := maker.read(given, future)) is not None]
        for masked in add_masks(read, segmenter) if read else ():
            maker.keep(masked)
        on_films(len(batch))
    outcome.films = list(maker.accepted(chosen))
    outcome.refused_masks = maker.refused_masks
    return outcome


def _is_done(out: LocalStore, journal: Journal, film: SourceFilm) -> bool:
    return film.key in journal.done and out.exists(image_key(film.key)) and out.exists(mask_key(film.key))


def _batches(
    films: Iterator[tuple[SourceFilm, Future[ReadFilm]]],
) -> Iterator[list[tuple[SourceFilm, Future[ReadFilm]]]]:
    batch: list[tuple[SourceFilm, Future[ReadFilm]]] = []
    for one in films:
        batch.append(one)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclass(slots=True)
class _Maker:
    """Writes films one by one, and accounts for those it cannot write."""

    out: LocalStore
    found: Found
    making: Making
    journal: Journal
    refused_masks: list[RefusedMask] = field(default_factory=list)
    made: set[str] = field(default_factory=set)

    def read(self, source: SourceFilm, future: Future[ReadFilm]) -> ReadFilm | None:
        try:
            film = future.result()
        except BadFilm as bad:
            self.found.refused.append(bad.refusal(source.name))
            return None
        reason = not_frontal(film.view) if film.view and not source.view else ""
        if reason:
            self.found.left_out[reason] += 1
            return None
        return film

    def keep(self, film: MaskedFilm) -> None:
        try:
            check_mask(film, self.making.min_score)
        except BadFilm as bad:
            refusal = bad.refusal(film.source.name)
            self.found.refused.append(refusal)
            self.refused_masks.append(RefusedMask(film, refusal))
            self.refused_masks.sort(key=lambda one: one.film.score or 0.0)
            del self.refused_masks[self.making.kept_to_see :]
            return
        image, mask, digest = film.encoded()
        self.out.replace(image_key(film.source.key), image)
        self.out.replace(mask_key(film.source.key), mask)
        self.journal.add(Done(film.source.key, film.width, film.height, digest, film.score, film.view))
        self.made.add(film.source.key)

    def accepted(self, chosen: Sequence[Chosen]) -> Iterator[Prepared]:
        """The chosen films that are done, in their order; the second of two with the same pixels is refused."""
        first: dict[str, str] = {}
        for one in chosen:
            done = self.journal.done.get(one.film.key)
            if done is None:
                continue
            twin = first.setdefault(done.sha256, one.film.key)
            if twin != one.film.key:
                self.found.refuse(one.film.name, Fault.DUPLICATE, f"the same pixels as {twin}")
            elif done.score is not None and done.score < self.making.min_score:
                self.found.refuse(
                    one.film.name,
                    Fault.UNSURE,
                    f"certainty {done.score:.3f}, wanted at least {self.making.min_score:g}",
                )
            else:
                try:
                    boxes = placed(one.film.boxes, done.width, done.height)
                except BadFilm as bad:
                    self.found.refused.append(bad.refusal(one.film.name))
                    continue
                square = Square.of(done.width, done.height, self.making.shape.fit)
                yield Prepared(one, done, square.boxes(boxes, done.width, done.height))
