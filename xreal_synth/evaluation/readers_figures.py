"""Figures of readers' answers on real and synthetic images: mean ranks, differences, agreement, guesses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from xreal_synth.escaping import markdown_row
from xreal_synth.evaluation.agreement import ordinal_alpha, weighted_kappa
from xreal_synth.evaluation.intervals import Array, Bootstrap, Estimate, figure, unknown
from xreal_synth.evaluation.readers import GUESS, RANKS, REAL, Kit
from xreal_synth.evaluation.readers_files import Reading


@dataclass(frozen=True, slots=True)
class Ranks:
    """One question, ranks 1 to 5; intervals resample images, readers stay.

    `means` and `by_reader` are mean ranks by kind of image (repeats left out), `differences` each synthetic kind's
    mean less the real images'. `kappas` are quadratic weighted kappas of two readers, `alpha` is Krippendorff's
    ordinal alpha of all. `again` is the share of repeated images that got the same rank, by reader, and `again_one`
    of those that got it within one.
    """

    means: dict[str, Estimate]
    differences: dict[str, Estimate]
    by_reader: dict[int, dict[str, Estimate]]
    kappas: dict[str, Estimate]
    alpha: Estimate
    again: dict[int, Estimate]
    again_one: dict[int, Estimate]


@dataclass(frozen=True, slots=True)
class Guesses:
    """Shares of images whose kind was guessed right: all readers, each; and how often each kind was called real.

    One half is chance.
    """

    right: Estimate
    by_reader: dict[int, Estimate]
    called_real: dict[str, Estimate]


@dataclass(frozen=True, slots=True)
class Analysis:
    """All figures; `images` by kind, without repeats."""

    study: str
    readers: tuple[int, ...]
    images: dict[str, int]
    ranks: dict[str, Ranks]
    guesses: Guesses | None


def analyse(kit: Kit, readings: Sequence[Reading]) -> Analysis:
    """Figures of these readers, who may be fewer than the kit was made for."""
    arms = np.asarray([image.arm for image in kit.images])
    bootstrap = Bootstrap([f"{image.arm}/{image.group}" for image in kit.images])
    return Analysis(
        study=kit.study,
        readers=tuple(one.reader for one in readings),
        images={arm: int((arms == arm).sum()) for arm in dict.fromkeys(arms.tolist())},
        ranks={question: _ranks(kit, readings, question, arms, bootstrap) for question in RANKS},
        guesses=_guesses(kit, readings, arms, bootstrap) if kit.guess else None,
    )


def _ranks(
    kit: Kit, readings: Sequence[Reading], question: str, arms: npt.NDArray[np.str_], bootstrap: Bootstrap
) -> Ranks:
    first = np.stack([_given(kit, one, question, repeat=False) for one in readings])
    again = {one.reader: _given(kit, one, question, repeat=True) for one in readings}
    kinds = list(dict.fromkeys(arms.tolist()))
    means = first.mean(axis=0)
    numbers = [one.reader for one in readings]
    repeated = {
        reader: first[at][~np.isnan(again[reader])] - again[reader][~np.isnan(again[reader])]
        for at, reader in enumerate(numbers)
    }
    return Ranks(
        means={kind: bootstrap.mean(np.where(arms == kind, means, np.nan)) for kind in kinds},
        differences={
            kind: _difference(means, arms == kind, arms == REAL, bootstrap) for kind in kinds if kind != REAL
        },
        by_reader={
            reader: {kind: bootstrap.mean(np.where(arms == kind, first[at], np.nan)) for kind in kinds}
            for at, reader in enumerate(numbers)
        },
        kappas={
            f"{numbers[a]} and {numbers[b]}": bootstrap.interval(
                weighted_kappa(first[a].astype(np.int64), first[b].astype(np.int64)), len(arms)
            )
            for a, b in combinations(range(len(numbers)), 2)
        },
        alpha=bootstrap.interval(ordinal_alpha(first), len(arms)) if len(numbers) > 1 else unknown(),
        again={reader: figure((apart == 0).tolist()) for reader, apart in repeated.items()},
        again_one={reader: figure((np.abs(apart) <= 1).tolist()) for reader, apart in repeated.items()},
    )


def _guesses(
    kit: Kit, readings: Sequence[Reading], arms: npt.NDArray[np.str_], bootstrap: Bootstrap
) -> Guesses:
    said_real = np.stack([_given(kit, one, GUESS, repeat=False) for one in readings])
    right = (said_real == 1) == (arms == REAL)
    return Guesses(
        right=bootstrap.mean(right.mean(axis=0)),
        by_reader={one.reader: bootstrap.mean(right[at]) for at, one in enumerate(readings)},
        called_real={
            kind: bootstrap.mean(np.where(arms == kind, said_real.mean(axis=0), np.nan))
            for kind in dict.fromkeys(arms.tolist())
        },
    )


def _given(kit: Kit, reading: Reading, question: str, *, repeat: bool) -> npt.NDArray[np.float64]:
    """A reader's answers by image [F] (of a guess 1 for real), NaN for images without such a showing."""
    found = np.full(len(kit.images), np.nan)
    for showing in kit.readers[reading.reader]:
        if showing.repeat == repeat:
            value = reading.answers[showing.name][question]
            found[showing.image] = value == REAL if question == GUESS else value
    return found


def _difference(
    means: npt.NDArray[np.float64],
    made: npt.NDArray[np.bool_],
    real: npt.NDArray[np.bool_],
    bootstrap: Bootstrap,
) -> Estimate:
    def statistic(weights: Array) -> Array:
        sums = [(weights @ np.where(part, means, 0.0), weights @ part) for part in (made, real)]
        shares = [np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0) for a, b in sums]
        return np.asarray(shares[0] - shares[1])

    return bootstrap.interval(statistic, int((made | real).sum()))


def tables_of(analysis: Analysis) -> str:
    """Markdown: mean ranks, then agreement, then guesses."""
    kinds = list(analysis.images)
    made = [kind for kind in kinds if kind != REAL]
    counted = ", ".join(f"{count} {kind}" for kind, count in analysis.images.items())
    reported = f"{len(analysis.readers)} readers, images: {counted}; ranks 1 to 5, mean [95% over images]"
    lines = [reported, "", _line(["rank", *kinds, *(f"{kind} less real" for kind in made)])]
    lines.append(_line(["---"] * (1 + len(kinds) + len(made))))
    for question, ranks in analysis.ranks.items():
        cells = [_cell(ranks.means[kind]) for kind in kinds]
        lines.append(_line([question, *cells, *(_cell(ranks.differences[kind], "+.2f") for kind in made)]))
        for reader, own in ranks.by_reader.items():
            lines.append(
                _line([f"reader {reader}", *(_cell(own[kind]) for kind in kinds), *([""] * len(made))])
            )
    lines += ["", _line(["agreement", *analysis.ranks]), _line(["---"] * (1 + len(analysis.ranks)))]
    lines.append(_line(["Krippendorff's alpha, ordinal", *(_cell(r.alpha) for r in analysis.ranks.values())]))
    for pair in next(iter(analysis.ranks.values())).kappas:
        cells = [_cell(ranks.kappas[pair]) for ranks in analysis.ranks.values()]
        lines.append(_line([f"quadratic weighted kappa, readers {pair}", *cells]))
    for reader in analysis.readers:
        cells = [f"{_cell(r.again[reader])}; {_cell(r.again_one[reader])}" for r in analysis.ranks.values()]
        lines.append(_line([f"reader {reader}, again the same rank; within one", *cells]))
    if analysis.guesses is not None:
        guesses = analysis.guesses
        lines += ["", _line(["real or synthetic?", "share"]), _line(["---", "---"])]
        lines.append(_line(["guessed right (one half is chance)", _cell(guesses.right)]))
        lines += [_line([f"reader {reader}", _cell(one)]) for reader, one in guesses.by_reader.items()]
        lines += [
            _line([f"{kind} images called real", _cell(one)]) for kind, one in guesses.called_real.items()
        ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return markdown_row(cells)


def _cell(figure: Estimate, form: str = ".2f") -> str:
    if not figure.known:
        return "not known"
    return f"{figure.value:{form}} [{figure.ci_low:{form}}, {figure.ci_high:{form}}]"
