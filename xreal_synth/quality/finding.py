"""Is the finding shown, and one that was taken away gone? The classifier's logit on the image against the twin's.

The least change in the direction asked for; a finding that the classifier does not know is not judged.
"""

from __future__ import annotations

from typing import Final

from xreal_synth.quality.checks import CheckEntry, JudgedImage, NetworkReadings, Score


def measure(image: JudgedImage, seen: NetworkReadings) -> dict[str, float]:
    """`shown`: the least gain in logit over the twin of the findings asked for, or loss of those taken away."""
    if seen.logits is None or seen.twin_logits is None:
        return {}
    signs = {**dict.fromkeys(image.gone, -1), **dict.fromkeys(image.asked, 1)}
    gains = [sign * (seen.logits[name] - seen.twin_logits[name]) for name, sign in signs.items() if name in seen.logits]
    return {"shown": min(gains)} if gains else {}


CHECK: Final = CheckEntry(
    name="finding", rank=3, measure=measure, standard="warn", needs="classifier",
    about="Does the bundle's classifier see more of the finding than in the healthy twin, and less of one taken away?",
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
