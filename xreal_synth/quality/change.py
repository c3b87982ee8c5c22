"""Was the image changed in its region, and nowhere else?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from xreal_synth.quality.checks import JudgedImage, NetworkReadings, bounds_of

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

    def scores(self, image: JudgedImage, seen: NetworkReadings) -> dict[str, float]:
        if image.twin is None or image.region is None:
            return {}
        apart = np.abs(image.image.astype(np.int16) - image.twin)
        inside, outside = apart[image.region], apart[~image.region]
        found = {"outside": float(outside.max(initial=0))}
        return found if image.sham or not inside.size else {"inside": float(inside.mean()), **found}
