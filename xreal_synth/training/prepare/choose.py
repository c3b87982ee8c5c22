"""Which of a source's films are prepared, and in which split; everything else is counted with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from xreal_synth.anatomy.manifest import SEPARATE_SPLITS, Fault
from xreal_synth.errors import TrainingError
from xreal_synth.training.prepare.found import FRONTAL, Found, SourceFilm, hashed_key
from xreal_synth.training.prepare.splits import Shares, split_of

OFFICIAL: Final = "official"
NO_VIEW: Final = "view not given"
_NAMES = {"valid": "val", "validate": "val", "validation": "val"}

SplitRule = Shares | Literal["official"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which films are taken.

    `splits` are shares by hash of the patient, or "official" for the source's own. Films of patients younger than
    `min_age` are left out where the age is known; so are films without a view, unless `any_view`. `limit` takes
    the first films only.
    """

    splits: SplitRule = field(default_factory=Shares)
    min_age: int = 18
    any_view: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A film to prepare and its split."""

    film: SourceFilm
    split: str


def choose(found: Found, choice: Choice) -> list[Chosen]:
    """The films to prepare, in the source's order; adds to `found` what is refused or left out, and why, and leaves
    it the films that would be prepared without a limit.

    Raises TrainingError if official splits are asked of a source without.
    """
    official = choice.splits == OFFICIAL
    if official and found.films and not any(film.split for film in found.films):
        raise TrainingError(
            found="--splits official, and this source gives no splits",
            wanted="shares, or the source's split lists beside its tables",
            mend="e.g. --splits 0.8/0.2; for a folder name the column with --split-column",
        )
    found.films = _distinct(found)
    kept = []
    for film in found.films:
        reason = _left_out(film, choice)
        if reason:
            found.left_out[reason] += 1
        else:
            kept.append(film)
    chosen = _official(kept, found) if official else _shared(kept, choice.splits)
    found.films = [one.film for one in chosen]
    return chosen[: choice.limit]


def _distinct(found: Found) -> list[SourceFilm]:
    """The films with a key each. Rows of one film that agree are one; of those that do not, none is taken."""
    rows: dict[tuple[str, ...], list[SourceFilm]] = {}
    for film in found.films:
        rows.setdefault(film.files, []).append(film)
    kept = []
    for films in rows.values():
        if any(film != films[0] for film in films):
            found.refuse(films[0].name, Fault.CONTRADICTION, f"its {len(films)} rows do not say the same")
        else:
            kept.append(films[0])
    keys = Counter(film.key.casefold() for film in kept)
    return [
        replace(film, key=hashed_key(film.key, film.name)) if keys[film.key.casefold()] > 1 else film
        for film in kept
    ]


def not_frontal(view: str) -> str:
    """Why a film of this view is left out; "" for a frontal film."""
    if view in FRONTAL:
        return ""
    return f"view {view}" if view else NO_VIEW


def _left_out(film: SourceFilm, choice: Choice) -> str:
    reason = not_frontal(film.view)
    if reason and not ((choice.any_view or film.frontal) and not film.view):
        return reason
    return too_young(film.age, choice.min_age)


def too_young(age: str, least: int) -> str:
    """Why a film of a patient of this age is left out; "" for one old enough, or of unknown age."""
    return f"younger than {least}" if age and int(age) < least else ""


def _shared(films: Sequence[SourceFilm], splits: SplitRule) -> list[Chosen]:
    assert isinstance(splits, Shares)
    return [Chosen(film, split_of(film.patient, splits)) for film in films]


def _official(films: Sequence[SourceFilm], found: Found) -> list[Chosen]:
    splits: dict[str, set[str]] = {}
    for film in films:
        splits.setdefault(film.patient, set()).add(_NAMES.get(film.split, film.split))
    chosen = []
    for film in films:
        split = _NAMES.get(film.split, film.split)
        if split not in SEPARATE_SPLITS:
            found.refuse(
                film.name, Fault.BAD_VALUE, f"split is {split!r}, wanted one of {', '.join(SEPARATE_SPLITS)}"
            )
        elif len(own := splits[film.patient] & set(SEPARATE_SPLITS)) > 1:
            found.refuse(
                film.name,
                Fault.TWO_SPLITS,
                f"patient {film.patient} is in two splits: {', '.join(sorted(own))}",
            )
        else:
            chosen.append(Chosen(film, split))
    return chosen
