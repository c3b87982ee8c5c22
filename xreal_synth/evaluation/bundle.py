"""Everything that is measured of a bundle on a split of real films: the figures of `evaluate bundle`.

For each real film a film is made from its own organ mask with all of its findings that the bundle knows, one
after another; films without finding give their healthy twin. "Made" below is this film. The networks that
judge had no part in training the bundle's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xreal_synth.anatomy.manifest import BadFilm, FilmRow
from xreal_synth.errors import BundleError, TrainingError
from xreal_synth.evaluation.cases import Case, CaseReader
from xreal_synth.evaluation.copies import CopyFigures, count_copies, standardised
from xreal_synth.evaluation.distances import frechet_distance, kernel_distance
from xreal_synth.evaluation.fidelity import ms_ssim
from xreal_synth.evaluation.films import FilmFolder, film_seconds
from xreal_synth.evaluation.findings import (
    FindingFigures,
    FindingScores,
    finding_figures,
    label_table,
    macro_f1,
)
from xreal_synth.evaluation.intervals import Bootstrap, Figure, spread
from xreal_synth.evaluation.judging import Judges
from xreal_synth.evaluation.looks import Looks, look
from xreal_synth.evaluation.spectrum import RINGS, upper_power
from xreal_synth.types import Film, Mask
from xreal_synth.vocab import ORGANS

REAL_DRAWS: Final = 40
"""Random draws of training films for the distance between real films."""


@dataclass(frozen=True, slots=True, eq=False)
class RealFilms:
    """What the judges saw of the real films: the split's (with masks), and the training films."""

    looks: Looks
    training: Looks
    training_rows: tuple[FilmRow, ...]


@dataclass(frozen=True, slots=True)
class SetDistance:
    """A distance between made and real films, and between training films and the same real films.

    `made` has a jackknife interval over patients; `real` the middle 95% of random draws of as many training
    films.
    """

    made: Figure
    real: Figure


@dataclass(frozen=True, slots=True)
class BundleFigures:
    """What `evaluate bundle` reports.

    Dice by the judging segmenter against the requested mask: of made films, healthy twins, and real films
    (its ceiling). `rings` is power over real films in eight rings of frequencies, `rings_training` the same of
    the training films; `sharpness` of the upper half. `kernel` and `frechet` are in the judging classifier's
    features. `unplaced` counts findings that found no place, `faulty` films that could not be read. `seconds`
    are by the clock on the wall, `core_seconds` of CPU time (empty on other devices).
    """

    films: int
    with_finding: int
    training_films: int
    unplaced: int
    faulty: int
    dice: dict[str, Figure]
    dice_twin: dict[str, Figure]
    dice_real: dict[str, Figure]
    ms_ssim: Figure
    ms_ssim_twin: Figure
    kernel: SetDistance
    frechet: SetDistance
    findings: dict[str, FindingFigures]
    macro_f1: Figure
    macro_f1_real: Figure
    sharpness: Figure
    sharpness_training: float
    rings: tuple[float, ...]
    rings_training: tuple[float, ...]
    copies: dict[str, CopyFigures]
    seconds: dict[str, float]
    core_seconds: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """What was seen of the made films and of their healthy twins."""

    looks: Looks
    twins: Looks
    ms_ssim: npt.NDArray[np.float64]
    ms_ssim_twin: npt.NDArray[np.float64]


def look_at_real(
    judges: Judges,
    cases: Sequence[Case],
    training: Sequence[FilmRow],
    reader: CaseReader,
    on_film: Callable[[int], None] = lambda films: None,
) -> RealFilms:
    """Looks at the cases' real films and at training films; faulty training films are left out.

    Raises TrainingError if no training film can be used or one is of a patient of the cases.
    """
    patients = {case.row.patient for case in cases}
    shared = sorted({row.patient for row in training} & patients)
    if shared:
        raise TrainingError(
            found=f"patients both in the training films and in the films to judge by: {', '.join(shared[:5])}",
            wanted="splits by patient",
            mend="name other splits, or correct the manifest",
        )
    real = look(judges, ((pair.film, pair.mask) for pair in (reader.read(c.row) for c in cases)), on_film)
    used: list[FilmRow] = []

    def films() -> Iterator[tuple[Film, Mask | None]]:
        for row in training:
            try:
                film = reader.film(row)
            except BadFilm:
                on_film(1)
                continue
            used.append(row)
            yield film, None

    seen = look(judges, films(), on_film)
    if not used:
        raise TrainingError(found="no usable training film", wanted="at least one", mend="see the manifest")
    return RealFilms(real, seen, tuple(used))


def measure_bundle(
    judges: Judges,
    cases: Sequence[Case],
    faulty: int,
    reader: CaseReader,
    folder: FilmFolder,
    real: RealFilms,
    findings: Sequence[str],
    on_film: Callable[[int], None] = lambda films: None,
) -> BundleFigures:
    """Measures films that are made; `findings` are those that the bundle knows. Raises BundleError."""
    if not set(findings) & set(judges.findings):
        raise BundleError(
            found=f"judges of {', '.join(judges.findings)}",
            wanted=f"judges of the bundle's findings: {', '.join(findings)}",
            mend="train judges on these findings and give them with --judges",
        )
    made = _look_at_made(judges, cases, reader, folder, on_film)
    bootstrap = Bootstrap([case.row.patient for case in cases])
    size = reader.size
    power = upper_power(real.looks.rings, size)
    per_finding, f1, f1_real = _finding_figures(judges, cases, made, real.looks, findings, bootstrap)
    seconds, core = folder.seconds("wall"), folder.seconds("core")
    return BundleFigures(
        films=len(cases),
        with_finding=sum(bool(case.findings) for case in cases),
        training_films=len(real.training),
        unplaced=sum(len(case.unplaced) for case in cases),
        faulty=faulty,
        dice=_dice(made.looks, bootstrap),
        dice_twin=_dice(made.twins, bootstrap),
        dice_real=_dice(real.looks, bootstrap),
        ms_ssim=bootstrap.mean(made.ms_ssim),
        ms_ssim_twin=bootstrap.mean(made.ms_ssim_twin),
        kernel=_distance(kernel_distance, made.looks, real, bootstrap),
        frechet=_distance(frechet_distance, made.looks, real, bootstrap),
        findings=per_finding,
        macro_f1=f1,
        macro_f1_real=f1_real,
        sharpness=bootstrap.ratio(upper_power(made.looks.rings, size), power),
        sharpness_training=float(upper_power(real.training.rings, size).mean() / power.mean()),
        rings=_ring_ratios(made.looks, real.looks),
        rings_training=_ring_ratios(real.training, real.looks),
        copies=_copies(cases, made.looks, real, bootstrap),
        seconds={**seconds, **film_seconds(seconds)},
        core_seconds={**core, **film_seconds(core)},
    )


def _look_at_made(
    judges: Judges,
    cases: Sequence[Case],
    reader: CaseReader,
    folder: FilmFolder,
    on_film: Callable[[int], None],
) -> _Made:
    """Twins first; films with findings then take their places."""
    similar, similar_twin = list[float](), list[float]()

    def twins() -> Iterator[tuple[Film, Mask]]:
        for case in cases:
            pair, film = reader.read(case.row), folder.twin(case)
            similar_twin.extend(ms_ssim([film], [pair.film]))
            yield film, pair.mask

    def labelled() -> Iterator[tuple[Film, Mask]]:
        for case in cases:
            pair, film = reader.read(case.row), folder.labelled(case)
            similar.extend(ms_ssim([film], [pair.film]))
            yield film, pair.mask

    seen_twins, seen = look(judges, twins(), on_film), look(judges, labelled(), on_film)
    return _Made(seen, seen_twins, np.asarray(similar), np.asarray(similar_twin))


def _dice(looks: Looks, bootstrap: Bootstrap) -> dict[str, Figure]:
    return {organ: bootstrap.mean(looks.dice[:, at]) for at, organ in enumerate(ORGANS)}


def _distance(
    distance: Callable[[npt.NDArray[np.float32], npt.NDArray[np.float32]], float],
    made: Looks,
    real: RealFilms,
    bootstrap: Bootstrap,
) -> SetDistance:
    a, b, training = made.features, real.looks.features, real.training.features
    size = min(len(b), len(training))
    random = np.random.default_rng(0)
    draws = [
        distance(training[random.permutation(len(training))[:size]], b[random.permutation(len(b))[:size]])
        for _ in range(REAL_DRAWS)
    ]
    return SetDistance(
        bootstrap.jackknife(lambda kept: distance(a[kept], b[kept])),
        spread(draws, size),
    )


def _finding_figures(
    judges: Judges,
    cases: Sequence[Case],
    made: _Made,
    real: Looks,
    findings: Sequence[str],
    bootstrap: Bootstrap,
) -> tuple[dict[str, FindingFigures], Figure, Figure]:
    """Per finding that bundle and judges know; and macro-F1 over these, on made and on real films."""
    names = [name for name in findings if name in judges.findings]
    columns = [judges.findings.index(name) for name in names]
    labels = label_table([(frozenset(c.row.labels), frozenset(c.row.unknown)) for c in cases], names)
    hidden = [frozenset(case.unplaced) | frozenset(case.row.unknown) for case in cases]
    asked = label_table([(c.asked, h) for c, h in zip(cases, hidden, strict=True)], names)
    given = np.asarray([bool(case.findings) for case in cases])
    logits, twins, seen = (part.logits[:, columns] for part in (made.looks, made.twins, real))
    per_finding = {
        name: finding_figures(
            FindingScores(logits[:, at], twins[:, at], seen[:, at], asked[:, at], labels[:, at], given),
            bootstrap,
        )
        for at, name in enumerate(names)
    }
    return per_finding, macro_f1(logits, asked, bootstrap), macro_f1(seen, labels, bootstrap)


def _ring_ratios(looks: Looks, real: Looks) -> tuple[float, ...]:
    ratios = looks.rings.mean(axis=0) / real.rings.mean(axis=0)
    assert len(ratios) == RINGS
    return tuple(float(ratio) for ratio in ratios)


def _copies(
    cases: Sequence[Case], made: Looks, real: RealFilms, bootstrap: Bootstrap
) -> dict[str, CopyFigures]:
    training, rows = real.training, real.training_rows
    patients = np.asarray([row.patient for row in rows], dtype=str)
    names = (tuple(case.name for case in cases), tuple(row.image for row in rows))
    a, b, c = (standardised(looks.features, training.features) for looks in (made, real.looks, training))
    return {
        "pixels": count_copies(made.thumbs, real.looks.thumbs, training.thumbs, patients, bootstrap, names),
        "features": count_copies(a, b, c, patients, bootstrap, names),
    }
