"""Sets of films as rows: what the judges saw of each film, whose it is, what it shows. Films are not kept.

Shapes: N films, L names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from xreal_synth.evaluation.diversity import FilmPairs
from xreal_synth.evaluation.findings import Labels
from xreal_synth.evaluation.inception import InceptionFeatures
from xreal_synth.evaluation.intervals import Array, Bootstrap
from xreal_synth.evaluation.judging import Judges
from xreal_synth.evaluation.looks import Looks, look
from xreal_synth.types import Film, Mask
from xreal_synth.vocab import NO_FINDING, TXRV18

NAMES: Final = (*TXRV18, NO_FINDING)


@dataclass(frozen=True, slots=True, eq=False)
class SeenFilm:
    """A film on its way to the judges.

    `mask` is what it was made from or is outlined by, None where there is none. `group` says which films are
    resampled together: the patient of a real film, of a made one its group, or whose mask or film it came from.
    `positive` and `unknown` are names of NAMES; `paired` is MS-SSIM to its real film, NaN without one.
    """

    film: Film
    mask: Mask | None
    group: str
    positive: frozenset[str]
    unknown: frozenset[str]
    paired: float = float("nan")
    flagged: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class FilmSet:
    """N films: `labels` [N, L] over NAMES (1, 0, -1 unknown), `paired` [N], `flagged` [N], `inception`
    [N, 2048] or [N, 0]; `pairs` are of films of one finding."""

    looks: Looks
    groups: npt.NDArray[np.str_]
    labels: Labels
    paired: Array
    flagged: npt.NDArray[np.bool_]
    inception: npt.NDArray[np.float32]
    pairs: FilmPairs

    def __len__(self) -> int:
        return len(self.groups)

    def rows(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> FilmSet:
        """Some of the films; the pairs stay those of all."""
        return FilmSet(
            self.looks.rows(chosen), self.groups[chosen], self.labels[chosen], self.paired[chosen],
            self.flagged[chosen], self.inception[chosen], self.pairs,
        )  # fmt: skip

    def showing(self, finding: str) -> FilmSet:
        """The films whose label for it is 1."""
        return self.rows(self.label(finding) == 1)

    def label(self, finding: str) -> Labels:
        """[N] of 1, 0, -1."""
        return np.asarray(self.labels[:, NAMES.index(finding)])

    def bootstrap(self) -> Bootstrap:
        return Bootstrap(list(self.groups))

    def at_most(self, films: int, seed: int) -> FilmSet:
        """Whole groups in a random order until so many films are reached; all films if there are no more."""
        if len(self) <= films:
            return self
        names, of_film = np.unique(self.groups, return_inverse=True)
        place = np.argsort(np.random.default_rng(seed).permutation(len(names)))[of_film]
        return self.rows(np.sort(np.argsort(place, kind="stable")[:films]))


@dataclass(slots=True)
class _Kept:
    """What is kept of each film beside the judges' looks."""

    inception: InceptionFeatures | None
    diversity: bool
    pairs: FilmPairs = field(default_factory=FilmPairs)
    groups: list[str] = field(default_factory=list)
    labels: list[list[int]] = field(default_factory=list)
    paired: list[float] = field(default_factory=list)
    flagged: list[bool] = field(default_factory=list)

    def passing(self, films: Iterable[SeenFilm]) -> Iterator[tuple[Film, Mask | None]]:
        for seen in films:
            self.groups.append(seen.group)
            self.labels.append([1 if n in seen.positive else -1 if n in seen.unknown else 0 for n in NAMES])
            self.paired.append(seen.paired)
            self.flagged.append(seen.flagged)
            if self.inception is not None:
                self.inception.add(seen.film)
            if self.diversity:
                self.pairs.add(seen.film, seen.group, sorted(seen.positive))
            yield seen.film, seen.mask


def look_at(
    judges: Judges,
    films: Iterable[SeenFilm],
    *,
    inception: InceptionFeatures | None = None,
    diversity: bool = True,
    on_film: Callable[[int], None] = lambda films: None,
) -> FilmSet:
    """Looks at every film once, in a stream; with `diversity` also at pairs of films of one finding."""
    kept = _Kept(inception, diversity)
    looks = look(judges, kept.passing(films), on_film, thumbs=False)
    count = len(kept.groups)
    return FilmSet(
        looks=looks,
        groups=np.asarray(kept.groups, dtype=str),
        labels=np.asarray(kept.labels, np.int64).reshape(count, len(NAMES)),
        paired=np.asarray(kept.paired, np.float64),
        flagged=np.asarray(kept.flagged, bool),
        inception=np.empty((count, 0), np.float32) if inception is None else inception.take(),
        pairs=kept.pairs,
    )
