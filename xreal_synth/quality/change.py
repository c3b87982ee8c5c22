"""Was the image changed in its region, and nowhere else?

Against the healthy twin. The feather lies in the region, so outside it nothing may change. A sham, which shows nothing,
is only held to the outside.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from xreal_synth.quality.checks import CheckEntry, JudgedImage, NetworkReadings, Score


def measure(image: JudgedImage, seen: NetworkReadings) -> dict[str, float]:
    """`inside` the region the mean, `outside` it the largest change from the twin, grey levels 0..255.

    Nothing without a twin or a region; of a sham only `outside`.
    """
    if image.twin is None or image.region is None:
        return {}
    apart = np.abs(image.image.astype(np.int16) - image.twin)
    inside, outside = apart[image.region], apart[~image.region]
    found = {"outside": float(outside.max(initial=0))}
    return found if image.sham or not inside.size else {"inside": float(inside.mean()), **found}


CHECK: Final = CheckEntry(
    name="change", rank=4, measure=measure,
    about="Grey levels by which the image differs from its healthy twin; needs nothing.",
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
