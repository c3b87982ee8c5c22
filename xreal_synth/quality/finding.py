"""Is the finding shown? The classifier's logit on the image minus that on its healthy twin.

The least of the findings asked for; one that the classifier does not know is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from xreal_synth.quality.checks import JudgedImage, NetworkReadings, bounds_of

NAME: Final = "finding"
WORDS: Final = {"shown": (True, "the finding's logit over the healthy twin's")}


class FindingCheck:
    """Needs a classifier."""

    name = NAME

    def __init__(self, bounds: Mapping[str, float]) -> None:
        self.bounds = bounds_of(bounds, WORDS)

    def scores(self, image: JudgedImage, seen: NetworkReadings) -> dict[str, float]:
        if seen.logits is None or seen.twin_logits is None:
            return {}
        known = [name for name in image.asked if name in seen.logits]
        if not known:
            return {}
        return {"shown": min(seen.logits[name] - seen.twin_logits[name] for name in known)}
