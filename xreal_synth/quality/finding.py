"""Is the finding shown? The classifier's logit on the image minus that on its healthy twin.

The least of the findings asked for; one that the classifier does not know is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from xreal_synth.quality.checks import Bound, CheckEntry, JudgedImage, NetworkReadings, Score


class FindingCheck:
    """Needs a classifier."""

    def __init__(self, bounds: Mapping[str, Bound], file: Path | None = None) -> None:
        self.bounds = bounds

    def scores(self, image: JudgedImage, seen: NetworkReadings) -> dict[str, float]:
        """`shown`: the least gain in logit over the healthy twin, of the findings asked for that it knows."""
        if seen.logits is None or seen.twin_logits is None:
            return {}
        known = [name for name in image.asked if name in seen.logits]
        if not known:
            return {}
        return {"shown": min(seen.logits[name] - seen.twin_logits[name] for name in known)}


CHECK: Final = CheckEntry(
    name="finding", rank=3, open=FindingCheck, standard="warn", needs="classifier",
    about="Does the bundle's classifier see more of the finding than in the healthy twin?",
    scores={
        "shown": Score(
            True, "the finding's logit over the healthy twin's", "Least difference of the two logits.", 0.0, 0.0,
            (None, None),
        ),
    },
)  # fmt: skip
"""Only a warning in the standard profile: of Pneumonia, Effusion and Atelectasis the classifier sees about as often
less as more than in the twin, so that drawing again until it sees more would pick images by the classifier's noise,
at twice the cost."""
