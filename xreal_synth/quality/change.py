"""Was the film changed in its region, and nowhere else?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from xreal_synth.quality.checks import JudgedFilm, Seen, bounds_of

NAME: Final = "change"
WORDS: Final = {
    "inside": (True, "mean change in the region, grey levels"),
    "outside": (False, "largest change outside the region, grey levels"),
}


class ChangeCheck:
    """Against the healthy twin. The feather lies in the region, so outside it nothing may change. A sham, which
    shows nothing, is only held to the outside."""

    name = NAME

    def __init__(self, bounds: Mapping[str, float]) -> None:
        self.bounds = bounds_of(bounds, WORDS)

    def scores(self, film: JudgedFilm, seen: Seen) -> dict[str, float]:
        if film.twin is None or film.region is None:
            return {}
        apart = np.abs(film.film.astype(np.int16) - film.twin)
        inside, outside = apart[film.region], apart[~film.region]
        found = {"outside": float(outside.max(initial=0))}
        return found if film.sham or not inside.size else {"inside": float(inside.mean()), **found}
