"""Does the image show the anatomy that was asked for? Dice per organ, a segmenter's mask against the requested one.

An organ is judged where the image was not painted on. A lung or heart of which more than half was painted on is
judged on the whole image instead, by a bound of its own (`covered`): findings may hide an organ's border, but not
replace it. An aorta so covered is not judged. Of an edited real image only what the finding covers is judged: the
rest is the image's own. Left and right are different organs, so swapped lungs agree with nothing. A chest may be nearly
its own mirror image, so `side` asks how much better the image fits than its mirror image would.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from xreal_synth.findings import AORTA, LEFT_LUNG, ORGANS, RIGHT_LUNG
from xreal_synth.quality.checks import CheckEntry, CheckFile, JudgedImage, NetworkReadings, Region, Score
from xreal_synth.types import Mask

COVERED: Final = "covered"
SIDE: Final = "side"
LEAST_SEEN: Final = 0.5
"""Share of an organ that must not be painted on for it to be judged by the rest."""


def measure(image: JudgedImage, seen: NetworkReadings) -> dict[str, float]:
    """Dice 0..1 by organ of the mask asked for and the segmenter's, outside what was painted, and `side`.

    Nothing where there is no mask or no segmenter; of an edited real image only `covered`.
    """
    if image.anatomy is None or seen.label_map is None:
        return {}
    found = organ_scores(image.anatomy, seen.label_map, image.region)
    if image.real:
        return {name: value for name, value in found.items() if name == COVERED}
    turned = organ_scores(image.anatomy, mirrored(seen.label_map), image.region)
    better = [value - turned[name] for name, value in found.items()]
    return found | ({SIDE: float(np.mean(better))} if better else {})


def organ_scores(wanted: Mask, shown: Mask, painted: Region | None) -> dict[str, float]:
    """Dice by organ of the mask, and `covered` where the painted region takes more than half of one.

    Masks uint8 [H, W], the region bool [H, W].
    """
    free = np.ones(wanted.shape, bool) if painted is None else ~painted
    found: dict[str, float] = {}
    covered: list[float] = []
    for organ, code in ORGANS.items():
        here, there = wanted == code, shown == code
        if not here.any():
            continue
        if np.count_nonzero(here & free) >= LEAST_SEEN * np.count_nonzero(here):
            found[organ] = dice(here & free, there & free)
        elif code != AORTA:
            covered.append(dice(here, there))
    return found | ({COVERED: min(covered)} if covered else {})


def mirrored(label_map: Mask) -> Mask:
    """The organs uint8 [H, W] as they lie in the image's mirror image, the right lung on the other side."""
    lungs = {LEFT_LUNG: RIGHT_LUNG, RIGHT_LUNG: LEFT_LUNG}
    codes = np.array([lungs.get(code, code) for code in range(256)], np.uint8)
    return codes[label_map[:, ::-1]]


def dice(a: Region, b: Region) -> float:
    """2 |a and b| / (|a| + |b|) of bool [H, W]; 1 where both are empty."""
    both = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / both if both else 1.0


_BOUNDS: Final = {"left_lung": (0.8, 0.85), "right_lung": (0.8, 0.85), "heart": (0.7, 0.78), "aorta": (0.3, 0.45)}

CHECK: Final = CheckEntry(
    name="organs", rank=2, measure=measure, needs="segmenter",
    about="Does the image follow its organ mask? Needs the bundle's segmenter, or TorchXRayVision's PSPNet.",
    scores={
        **{
            organ: Score(
                True, f"Dice of the {organ.replace('_', ' ')} with the requested mask", "Least Dice.",
                *_BOUNDS[organ],
            )
            for organ in ORGANS
        },
        COVERED: Score(
            True, "least Dice of the lungs and heart that the finding covers",
            "Least Dice of a lung or heart of which a finding covers more than half.", 0.65, 0.72,
        ),
        SIDE: Score(
            True, "mean Dice of the organs over that of the image's mirror image",
            "Least difference of the organs' mean Dice and the mirror image's.", 0.1, 0.12,
        ),
    },
    file=CheckFile(
        "weights",
        "pspnet_chestxray_best_model_4.pth of TorchXRayVision, in place of the bundle's segmenter.",
    ),
)  # fmt: skip
