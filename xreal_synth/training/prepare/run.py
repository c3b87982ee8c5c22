"""From chosen films to image and mask files; what cannot be used is refused with its reason.

A run goes on where another stopped: what the journal names is not made again as long as its files have the same
content. What the source no longer has is taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from xreal_synth.anatomy.manifest import BadFilm, Fault, FilmBox, Refusal, placed
from xreal_synth.storage import LocalStore, Store
from xreal_synth.training.prepare.choose import Chosen, not_frontal, too_young
from xreal_synth.training.prepare.films import (
    MaskedFilm,
    ReadFilm,
    Reading,
    Shape,
    add_masks,
    check_mask,
    read_ahead,
)
from xreal_synth.training.prepare.found import Found, SourceFilm
from xreal_synth.training.prepare.grey import Square, look_of
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
    """How films are made: the square, the least certainty of a mask, the least age, threads, refused masks kept to be
    seen."""

    shape: Shape
    min_score: float = 0.0
    min_age: int = 0
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

    @property
    def score(self) -> float | None:
        return _score(self.chosen.film, self.done)


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
    """Make what the journal does not name yet, or names with another content; refusals and films left out are added
    to `found`."""
    outcome, maker = Outcome(), _Maker(out, found, making, journal)
    todo = [(one.film, _former(out, journal, one.film)) for one in chosen]
    name = segmenter.name if segmenter else ""
    for batch in _batches(read_ahead(source, todo, making.shape, name, making.workers)):
        read = [film for given, future in batch if (film := maker.read(given, future)) is not None]
        for masked in add_masks(read, segmenter) if read else ():
            maker.keep(masked)
        on_films(len(batch))
    outcome.films = list(maker.accepted(chosen))
    outcome.refused_masks = maker.refused_masks
    _tidy(out, journal, {film.key for film in found.films} - maker.lost)
    return outcome


def _former(out: LocalStore, journal: Journal, film: SourceFilm) -> str:
    """The content that the film was made of, "" if it is not there."""
    done = journal.done.get(film.key)
    whole = done is not None and out.exists(image_key(film.key)) and out.exists(mask_key(film.key))
    return done.content if done is not None and whole else ""


def _tidy(out: LocalStore, journal: Journal, keys: set[str]) -> None:
    """Takes away the files of films that the source has no longer."""
    gone = [key for key in journal.done if key not in keys]
    for key in gone:
        out.delete(image_key(key))
        out.delete(mask_key(key))
    journal.keep(keys)


def _score(film: SourceFilm, done: Done) -> float | None:
    return film.mask_score if film.mask else done.score


def _batches(films: Iterator[Reading]) -> Iterator[list[Reading]]:
    batch: list[Reading] = []
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
    lost: set[str] = field(default_factory=set)
    """Keys of films that could not be read: what was made of them once is no longer theirs."""

    def read(self, source: SourceFilm, future: Future[ReadFilm | None]) -> ReadFilm | None:
        """A film to be made; None for one that is made already, or cannot be."""
        try:
            return future.result()
        except BadFilm as bad:
            self.found.refused.append(bad.refusal(source.name))
            self.lost.add(source.key)
            return None

    def keep(self, film: MaskedFilm) -> None:
        key, read = film.source.key, film.read
        try:
            check_mask(film, self.making.min_score)
        except BadFilm as bad:
            refusal = bad.refusal(film.source.name)
            self.found.refused.append(refusal)
            self.lost.add(key)
            self.refused_masks.append(RefusedMask(film, refusal))
            self.refused_masks.sort(key=lambda one: one.film.score or 0.0)
            del self.refused_masks[self.making.kept_to_see :]
            return
        image, mask, digest = film.encoded()
        self.out.replace(image_key(key), image)
        self.out.replace(mask_key(key), mask)
        facts = read.facts
        self.journal.add(
            Done(
                key,
                read.width,
                read.height,
                digest,
                film.score,
                facts.view,
                facts.age,
                facts.sex,
                read.content,
                look_of(film.film),
            )
        )

    def accepted(self, chosen: Sequence[Chosen]) -> Iterator[Prepared]:
        """The chosen films that are done, in their order; what is wrong with others is accounted for."""
        first: dict[str, str] = {}
        for one in chosen:
            done = self.journal.done.get(one.film.key)
            if done is None or one.film.key in self.lost:
                continue
            reason = self._left_out(one.film, done)
            if reason:
                self.found.left_out[reason] += 1
                continue
            try:
                yield self._accepted(one, done, first)
            except BadFilm as bad:
                self.found.refused.append(bad.refusal(one.film.name))

    def _left_out(self, film: SourceFilm, done: Done) -> str:
        """By what the file says and the table does not."""
        view = not_frontal(done.view) if done.view and not film.view else ""
        return view or ("" if film.age else too_young(done.age, self.making.min_age))

    def _accepted(self, one: Chosen, done: Done, first: dict[str, str]) -> Prepared:
        """Raises BadFilm for the second of two with the same pixels, an unsure mask, a box beyond the film."""
        score, least = _score(one.film, done), self.making.min_score
        if score is not None and score < least:
            raise BadFilm(Fault.UNSURE, f"certainty {score:.3f}, wanted at least {least:g}")
        boxes = placed(one.film.boxes, done.width, done.height)
        twin = first.setdefault(done.sha256, one.film.name)
        if twin != one.film.name:
            raise BadFilm(Fault.DUPLICATE, f"the same pixels as {twin}")
        square = Square.of(done.width, done.height, self.making.shape.fit)
        return Prepared(one, done, square.boxes(boxes, done.width, done.height))
