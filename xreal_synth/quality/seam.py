"""Seams: steps in the film along a region's border that its healthy twin does not have there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from xreal_synth.anatomy.measure import bounding_box
from xreal_synth.anatomy.regions import FEATHER_SHARE
from xreal_synth.quality.checks import JudgedFilm, Region, Seen, bounds_of
from xreal_synth.types import Film

NAME: Final = "seam"
FLOOR: Final = 2.0
"""Grey levels that a step in the twin counts at least: a smooth twin makes no seam of a faint step."""
WORDS: Final = {"energy": (False, "steps across the region's border, times the twin's")}


class SeamCheck:
    """Within the paste's feather, the worst line parallel to the border."""

    name = NAME

    def __init__(self, bounds: Mapping[str, float]) -> None:
        self.bounds = bounds_of(bounds, WORDS)

    def scores(self, film: JudgedFilm, seen: Seen) -> dict[str, float]:
        if film.region is None or film.twin is None:
            return {}
        energy = seam_energy(film.film, film.twin, film.region)
        return {} if energy is None else {"energy": energy}


def seam_energy(film: Film, twin: Film, region: Region) -> float | None:
    """Mean step across a line over the twin's across the same line, the largest of the lines from
    the border to the feather's width inside; None for a region without a border."""
    box = bounding_box(region)
    if box is None:
        return None
    y, x = (slice(max(0, low - 1), high + 1) for low, high in ((box[1], box[3]), (box[0], box[2])))
    inside = region[y, x]
    depth = ndimage.distance_transform_edt(inside)
    width = round(FEATHER_SHARE * film.shape[0])
    ratios = [
        _ratio(film[y, x], twin[y, x], depth > at) for at in range(width + 1) if at < float(depth.max())
    ]
    found = [ratio for ratio in ratios if ratio is not None]
    return max(found) if found else None


def _ratio(film: Film, twin: Film, inside: Region) -> float | None:
    """Of one line, the border of `inside`."""
    steps, twins = [], []
    for axis in (0, 1):
        across = np.diff(inside, axis=axis)
        steps.append(_steps(film, axis)[across])
        twins.append(_steps(twin, axis)[across])
    if not sum(len(part) for part in steps):
        return None
    return _mean(steps) / max(FLOOR, _mean(twins))


def _steps(film: Film, axis: int) -> npt.NDArray[np.float64]:
    return np.diff(film.astype(np.float64), axis=axis)


def _mean(steps: list[npt.NDArray[np.float64]]) -> float:
    return float(np.abs(np.concatenate(steps)).mean())
