"""Real films of a split with one label each, small, in memory."""

from __future__ import annotations

import numpy as np
from PIL import Image

from xreal_synth.anatomy.manifest import BadFilm
from xreal_synth.errors import TrainingError
from xreal_synth.evaluation.cases import CaseReader, split_rows
from xreal_synth.evaluation.request import Report
from xreal_synth.evaluation.utility import LabelledFilms
from xreal_synth.storage import Store
from xreal_synth.types import Film

MOST_REFUSED = 0.05


def resized(film: Film, side: int) -> Film:
    """uint8 [H, W] -> [side, side] by Lanczos."""
    return np.asarray(Image.fromarray(film).resize((side, side), Image.Resampling.LANCZOS))


def read_labelled(store: Store, split: str, finding: str, side: int, report: Report) -> LabelledFilms:
    """The split's films whose label is known; raises TrainingError if more than a few cannot be read."""
    reader = CaseReader(store, side)
    rows = [row for row in split_rows(store, split) if finding not in row.unknown]
    films, used, refused = [], [], []
    for row in rows:
        report(f"reading {split} films", 1, len(rows))
        try:
            films.append(reader.film(row))
            used.append(row)
        except BadFilm as bad:
            refused.append(f"{row.image}: {bad}")
    if not films or len(refused) > MOST_REFUSED * len(rows):
        raise TrainingError(
            where=store.uri,
            found=f"{len(refused)} of {len(rows)} films of split {split!r} refused: {'; '.join(refused[:5])}",
            wanted=f"films labelled for {finding}, at most {MOST_REFUSED:.0%} of them faulty",
            mend="correct these films or the manifest",
        )
    return LabelledFilms(
        np.stack(films),
        np.asarray([finding in row.labels for row in used]),
        np.asarray([row.patient for row in used]),
        synthetic=False,
    )


def apart(training: LabelledFilms, test: LabelledFilms) -> None:
    """Raises TrainingError if a patient is in both, or the test films are all with the finding or without."""
    shared = sorted(set(training.patients.tolist()) & set(test.patients.tolist()))
    if shared:
        raise TrainingError(
            found=f"patients both in training and in test films: {', '.join(shared[:5])}",
            wanted="splits by patient",
            mend="name other splits, or correct the manifest",
        )
    if test.positive.all() or not test.positive.any():
        raise TrainingError(
            found=f"{int(test.positive.sum())} of {len(test)} test films show the finding",
            wanted="films with the finding and without",
            mend="give another --finding or another --split",
        )
