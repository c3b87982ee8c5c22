"""One bundle evaluated from data to figures; what is made or measured is told film by film."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from xreal_synth.evaluation.bundle import BundleFigures, RealFilms, look_at_real, measure_bundle
from xreal_synth.evaluation.cases import split_rows
from xreal_synth.evaluation.films import FilmFolder, make_films, members
from xreal_synth.evaluation.judging import Judges
from xreal_synth.evaluation.request import Prepared

Report = Callable[[str, int, int], None]
"""What is being done, films done now, films in all."""


def films_for(prepared: Prepared, folder: Path, report: Report) -> FilmFolder:
    """The folder with all the films of the request; networks are loaded only if one is missing."""
    films = prepared.open_folder(folder)
    total = sum(members(case) for case in prepared.cases)
    missing = [case for case in prepared.cases if not films.has(case)]
    report("making films", total - sum(members(case) for case in missing), total)
    if missing:
        make_films(
            prepared.load(), missing, prepared.reader, films, lambda done: report("making films", done, total)
        )
    return films


def real_films(prepared: Prepared, judges: Judges, training_split: str, report: Report) -> RealFilms:
    """What the judges see of the split's films and of the training films."""
    training = split_rows(prepared.store, training_split)
    total = len(prepared.cases) + len(training)
    return look_at_real(
        judges,
        prepared.cases,
        training,
        prepared.reader,
        lambda done: report("looking at real films", done, total),
    )


def figures_for(
    prepared: Prepared, judges: Judges, real: RealFilms, films: FilmFolder, report: Report
) -> BundleFigures:
    """The figures of films that are made."""
    total = 2 * len(prepared.cases)
    return measure_bundle(
        judges, prepared.cases, len(prepared.faulty), prepared.reader, films, real, tuple(prepared.info.prompts),
        lambda done: report("looking at made films", done, total),
    )  # fmt: skip
