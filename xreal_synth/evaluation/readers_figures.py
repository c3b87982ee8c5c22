"""Figures of readers' answers on real and synthetic images: mean ranks, differences, agreement, guesses.

Shapes: F images, R readers, C = 5 ranks, D draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from xreal_synth.escaping import markdown_table
from xreal_synth.evaluation.intervals import Array, Bootstrap, Estimate, Statistic, divided, figure, mean_of, unknown
from xreal_synth.evaluation.readers import GUESS, RANKS, REAL, Answers, Kit

_RANKS: Final = 5


def weighted_kappa(first_F: npt.NDArray[np.int64], second_F: npt.NDArray[np.int64]) -> Statistic:
    """Cohen's kappa with quadratic weights of two readers' ranks; weights [D, F] -> [D].

    1 - sum (a - b)^2 over the images, by the same sum over all pairs of an image of the one reader and of the other,
    for as many: what chance gives. NaN where that is 0 (both gave one and the same rank throughout).
    """

    def statistic(weights: Array) -> Array:
        means = (weights @ first_F) * (weights @ second_F) / weights.sum(axis=1)
        chance = weights @ (first_F**2 + second_F**2) - 2 * means
        return 1 - divided(weights @ ((first_F - second_F) ** 2).astype(np.float64), chance)

    return statistic


def ordinal_alpha(ranks_RF: npt.NDArray[np.float64]) -> Statistic:
    """Krippendorff's alpha for ordinal data; NaN in `ranks_RF` [R, F] is a missing rank; weights [D, F] -> [D].

    1 - (n - 1) sum o d / sum n n d over pairs of ranks c < k: o are coincidences, each image's pairs divided by its
    ranks less one; n how often each rank stands in a pair; d(c, k) = (n_c / 2 + n_(c+1) + .. + n_k / 2)^2
    (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011). NaN where all ranks are the same.
    """
    given = np.stack([(ranks_RF == rank).sum(axis=0) for rank in range(1, _RANKS + 1)], axis=1).astype(float)
    count = given.sum(axis=1)
    pairs = given[:, :, None] * given[:, None, :] - given[:, :, None] * np.eye(_RANKS)
    paired = count > 1
    coincidences = np.where(paired[:, None, None], pairs / np.maximum(count - 1, 1)[:, None, None], 0.0)

    def statistic(weights: Array) -> Array:
        observed = np.tensordot(weights, coincidences, axes=1)
        n = observed.sum(axis=2)
        total = n.sum(axis=1)
        upto = np.cumsum(n, axis=1) - n / 2
        apart = (upto[:, :, None] - upto[:, None, :]) ** 2
        chance = n[:, :, None] * n[:, None, :] * apart
        return 1 - divided((total - 1) * (observed * apart).sum(axis=(1, 2)), chance.sum(axis=(1, 2)))

    return statistic


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


def analyse(kit: Kit, answers: Mapping[int, Answers]) -> Analysis:
    """Figures of these readers, who may be fewer than the kit was made for."""
    arms = np.asarray([image.arm for image in kit.images])
    bootstrap = Bootstrap([f"{image.arm}/{image.group}" for image in kit.images])
    return Analysis(
        study=kit.study,
        readers=tuple(answers),
        images={arm: int((arms == arm).sum()) for arm in dict.fromkeys(arms.tolist())},
        ranks={question: _ranks(kit, answers, question, arms, bootstrap) for question in RANKS},
        guesses=_guesses(kit, answers, arms, bootstrap) if kit.guess else None,
    )


def _ranks(
    kit: Kit, answers: Mapping[int, Answers], question: str, arms: npt.NDArray[np.str_], bootstrap: Bootstrap
) -> Ranks:
    first = dict(zip(answers, _given(kit, answers, question, repeat=False), strict=True))
    again = zip(answers, _given(kit, answers, question, repeat=True), strict=True)
    apart = {reader: np.abs(first[reader] - own)[~np.isnan(own)] for reader, own in again}
    all_RF = np.stack(list(first.values()))
    of_kind = {kind: mean_of(np.where(arms == kind, all_RF.mean(axis=0), np.nan)) for kind in set(arms)}

    def difference(kind: str) -> Estimate:
        def statistic(weights: Array) -> Array:
            return np.asarray(of_kind[kind](weights) - of_kind[REAL](weights))

        return bootstrap.interval(statistic, int(np.isin(arms, (kind, REAL)).sum()))

    return Ranks(
        means=_by_kind(all_RF.mean(axis=0), arms, bootstrap),
        differences={kind: difference(kind) for kind in dict.fromkeys(arms.tolist()) if kind != REAL},
        by_reader={reader: _by_kind(own, arms, bootstrap) for reader, own in first.items()},
        kappas={
            f"{a} and {b}": bootstrap.interval(
                weighted_kappa(first[a].astype(np.int64), first[b].astype(np.int64)), len(arms)
            )
            for a, b in combinations(first, 2)
        },
        alpha=bootstrap.interval(ordinal_alpha(all_RF), len(arms)) if len(answers) > 1 else unknown(),
        again={reader: figure((own == 0).tolist()) for reader, own in apart.items()},
        again_one={reader: figure((own <= 1).tolist()) for reader, own in apart.items()},
    )


def _guesses(kit: Kit, answers: Mapping[int, Answers], arms: npt.NDArray[np.str_], bootstrap: Bootstrap) -> Guesses:
    said_real = _given(kit, answers, GUESS, repeat=False)
    right = (said_real == 1) == (arms == REAL)
    return Guesses(
        right=bootstrap.mean(right.mean(axis=0)),
        by_reader={reader: bootstrap.mean(own) for reader, own in zip(answers, right, strict=True)},
        called_real=_by_kind(said_real.mean(axis=0), arms, bootstrap),
    )


def _by_kind(values_F: Array, arms: npt.NDArray[np.str_], bootstrap: Bootstrap) -> dict[str, Estimate]:
    kinds = dict.fromkeys(arms.tolist())
    return {kind: bootstrap.mean(np.where(arms == kind, values_F, np.nan)) for kind in kinds}


def _given(kit: Kit, answers: Mapping[int, Answers], question: str, *, repeat: bool) -> Array:
    """The readers' answers by image [R, F] (of a guess 1 for real), NaN for images without such a showing."""
    found = np.full((len(answers), len(kit.images)), np.nan)
    for row, (reader, given) in zip(found, answers.items(), strict=True):
        for showing in kit.readers[reader]:
            if showing.repeat == repeat:
                value = given[showing.name][question]
                row[showing.image] = value == REAL if question == GUESS else value
    return found


def tables_of(analysis: Analysis) -> str:
    """Markdown: mean ranks, then agreement, then guesses."""
    kinds = list(analysis.images)
    made = [kind for kind in kinds if kind != REAL]
    counted = ", ".join(f"{count} {kind}" for kind, count in analysis.images.items())
    reported = f"{len(analysis.readers)} readers, images: {counted}; ranks 1 to 5, mean [95% over images]"
    agreed, ranks = analysis.ranks.values(), list[list[str]]()
    for question, own in analysis.ranks.items():
        more = [_cell(own.differences[kind], "+.2f") for kind in made]
        ranks.append([question, *(_cell(own.means[kind]) for kind in kinds), *more])
        for reader, means in own.by_reader.items():
            ranks.append([f"reader {reader}", *(_cell(means[kind]) for kind in kinds), *([""] * len(made))])
    agreement = [["Krippendorff's alpha, ordinal", *(_cell(one.alpha) for one in agreed)]]
    for pair in next(iter(agreed)).kappas:
        cells = [_cell(one.kappas[pair]) for one in agreed]
        agreement.append([f"quadratic weighted kappa, readers {pair}", *cells])
    for reader in analysis.readers:
        cells = [f"{_cell(one.again[reader])}; {_cell(one.again_one[reader])}" for one in agreed]
        agreement.append([f"reader {reader}, again the same rank; within one", *cells])
    lines = [reported, "", *markdown_table(["rank", *kinds, *(f"{kind} less real" for kind in made)], ranks)]
    lines += ["", *markdown_table(["agreement", *analysis.ranks], agreement)]
    if analysis.guesses is not None:
        guesses = {"guessed right (one half is chance)": analysis.guesses.right}
        guesses |= {f"reader {reader}": one for reader, one in analysis.guesses.by_reader.items()}
        guesses |= {f"{kind} images called real": one for kind, one in analysis.guesses.called_real.items()}
        shares = [[what, _cell(one)] for what, one in guesses.items()]
        lines += ["", *markdown_table(["real or synthetic?", "share"], shares)]
    return "\n".join(lines) + "\n"


def _cell(figure: Estimate, form: str = ".2f") -> str:
    return f"{figure:{form}}" if figure.known else "not known"
