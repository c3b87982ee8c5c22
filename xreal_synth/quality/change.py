"""Was the film changed in its region, and nowhere else?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from xreal_synth.quality.checks import Bound, CheckEntry, JudgedFilm, Score, Seen


class ChangeCheck:
    """Against the healthy twin. The feather lies in the region, so outside it nothing may change. A sham, which
    shows nothing, is only held to the outside."""

    def __init__(self, bounds: Mapping[str, Bound], file: Path | None = None) -> None:
        self.bounds = bounds

    def scores(self, film: JudgedFilm, seen: Seen) -> dict[str, float]:
        if film.twin is None or film.region is None:
            return {}
        apart = np.abs(film.film.astype(np.int16) - film.twin)
        inside, outside = apart[film.region], apart[~film.region]
        found = {"outside": float(outside.max(initial=0))}
        return found if film.sham or not inside.size else {"inside": float(inside.mean()), **found}


CHECK: Final = CheckEntry(
    name="change", rank=4, open=ChangeCheck,
    about="Grey levels by which the film differs from its healthy twin; needs nothing.",
    scores={
        "inside": Score(
            True, "mean change in the region, grey levels", "Least mean change in the region.", 1.0, 2.5, (0, 255)
        ),
        "outside": Score(
            False, "largest change outside the region, grey levels", "Most change of any pixel outside it.",
            0.0, 0.0, (0, 255),
        ),
    },
)  # fmt: skip
