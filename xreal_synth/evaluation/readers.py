"""A blind reading of real and synthetic images, as in the paper (section on qualitative evaluation).

The paper's two radiologists, each alone and blind to where an image came from, ranked real and generated images from 1
(lowest) to 5 (highest) for anatomy, for realism of the pathology, and for image quality. Here each reader gets one
page with the images in an order of their own, under names that say nothing; some images come twice, to see whether the
reader agrees with themselves. Real and synthetic images are drawn with the same findings in the same numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from xreal_synth.errors import DatasetError
from xreal_synth.seeds import stream

REAL: Final = "real"
RANKS: Final = ("anatomy", "pathology", "quality")
GUESS: Final = "guess"
GUESSES: Final = ("real", "synthetic")
RANK: Final = range(1, 6)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that could be shown.

    `arm` is "real" or the dataset's name, `source` its file in the manifest or its KEY, `group` its patient or
    anatomy, `findings` what it is labelled with or was asked for, sorted.
    """

    arm: str
    source: str
    group: str
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Showing:
    """An image on a reader's page: its name there, which of the images it is, and whether it comes again."""

    name: str
    image: int
    repeat: bool


@dataclass(frozen=True, slots=True)
class Kit:
    """A study: its images, and for each reader what is shown in which order. `guess` asks real or synthetic too."""

    study: str
    seed: int
    guess: bool
    images: tuple[Candidate, ...]
    readers: dict[int, tuple[Showing, ...]]

    @property
    def questions(self) -> tuple[str, ...]:
        """What readers are asked of an image: three ranks, and with `guess` whether it is real."""
        return (*RANKS, GUESS) if self.guess else RANKS


def choose_images(arms: Mapping[str, Sequence[Candidate]], images: int, seed: int) -> list[Candidate]:
    """As many images of each arm, `images` in all, with the same findings in the same numbers, one of a group at most.

    Sets of findings that an arm lacks are left out; the rest come as often as among the synthetic images, as far as
    every arm has as many. Raises DatasetError where there are too few.
    """
    each, over = divmod(images, len(arms))
    if over or not each:
        raise DatasetError(
            found=f"{images} images for {len(arms)} kinds ({', '.join(arms)})",
            wanted="as many images of each kind",
            hint=f"give --images {len(arms) * max(1, each)} or another multiple of {len(arms)}",
        )
    pools = {arm: _pool(found, seed, arm) for arm, found in arms.items()}
    rooms = {
        kind: min(len(pool.get(kind, ())) for pool in pools.values())
        for kind in sorted({kind for pool in pools.values() for kind in pool})
    }
    wanted = Counter(one.findings for arm, found in arms.items() if arm != REAL for one in found)
    share = _shares(each, rooms, wanted, arms)
    return [image for pool in pools.values() for kind, count in share.items() for image in pool[kind][:count]]


def make_kit(
    images: Sequence[Candidate], readers: int, repeats: int, seed: int, *, guess: bool = False
) -> Kit:
    """Each reader's own order and names; the first `repeats` of it come a second time, in its second half.

    Raises DatasetError where they would be more than a quarter of the images.
    """
    if not 0 <= repeats <= len(images) // 4:
        raise DatasetError(
            found=f"{repeats} repeats of {len(images)} images",
            wanted=f"at most {len(images) // 4}, a quarter, so that others lie between",
            hint="lower --repeats",
        )
    study = stream(seed, 0, 0, "rows", "readers", "study").bytes(6).hex()
    orders = {reader: _showings(len(images), repeats, seed, reader) for reader in range(1, readers + 1)}
    return Kit(study, seed, guess, tuple(images), orders)


def _pool(images: Sequence[Candidate], seed: int, arm: str) -> dict[tuple[str, ...], list[Candidate]]:
    """Images of an arm by their findings, in a random order, the first of each group alone."""
    order = stream(seed, 0, 0, "rows", "readers", arm).permutation(len(images))
    found: dict[tuple[str, ...], list[Candidate]] = {}
    seen = set()
    for image in (images[at] for at in order):
        if image.group not in seen:
            seen.add(image.group)
            found.setdefault(image.findings, []).append(image)
    return found


def _shares(
    each: int,
    rooms: Mapping[tuple[str, ...], int],
    wanted: Mapping[tuple[str, ...], int],
    arms: Mapping[str, object],
) -> dict[tuple[str, ...], int]:
    """How many images of each set of findings an arm shows: one after another to the one furthest behind."""
    if sum(rooms.values()) < each:
        reported = ", ".join(f"{words(kind)} {room}" for kind, room in rooms.items() if room) or "none"
        raise DatasetError(
            found=f"images that each of {', '.join(arms)} has, of patients or anatomies of their own: {reported}",
            wanted=f"{each} of each kind",
            hint="lower --images, or give more images or others",
        )
    total = sum(count for kind, count in wanted.items() if rooms.get(kind))
    given = dict.fromkeys(rooms, 0)
    for _ in range(each):
        open_kinds = [kind for kind, room in rooms.items() if given[kind] < room]
        behind = max(open_kinds, key=lambda kind: (wanted[kind] / total * each - given[kind], kind))
        given[behind] += 1
    return {kind: count for kind, count in given.items() if count}


def words(findings: Sequence[str]) -> str:
    """`Effusion, Pneumonia`, or `no finding`."""
    return ", ".join(findings) or "no finding"


def _showings(images: int, repeats: int, seed: int, reader: int) -> tuple[Showing, ...]:
    """A random order; its first `repeats` images come again, shuffled among those of its second half."""
    rng = stream(seed, reader, 0, "rows", "readers", "order")
    first = [(int(at), False) for at in rng.permutation(images)]
    half = images // 2
    later = [*first[half:], *((at, True) for at, _ in first[:repeats])]
    order = [*first[:half], *(later[at] for at in rng.permutation(len(later)))]
    names = _names(len(order), rng)
    return tuple(Showing(name, at, repeat) for name, (at, repeat) in zip(names, order, strict=True))


def _names(count: int, rng: np.random.Generator) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        name = rng.bytes(4).hex()
        if name not in found:
            found.append(name)
    return found
