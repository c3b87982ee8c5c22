"""The table of `evaluate bundle`: what a bundle reaches, and what real films reach by the same measures."""

from __future__ import annotations

import math
from typing import Final

from xreal_synth.evaluation.bundle import BundleFigures, SetDistance
from xreal_synth.evaluation.intervals import Figure

NOTES: Final = (
    "Made films show all findings of their film, one after another; a twin shows none. `real` is what real films "
    "reach by the same measure.",
    "Dice: requested mask against the judging segmenter's. MS-SSIM: to the real film of the same mask.",
    "Kernel distance (KID's estimator) and Frechet distance are in the judging classifier's features, made "
    "against real films; `real`: as many training films against the same real films.",
    "AUC and macro-F1 (at one half): the judging classifier's; films without the finding are the negatives. "
    "Rises: share of films that score above their own twin for a finding asked for, or not asked for.",
    "Sharpness: power over real films in the upper half of the frequencies. Copies: films nearer to a training "
    "film than 99.9% of training films are to their nearest neighbour of another patient.",
    "Intervals: 95%, bootstrap by patient; of distances a jackknife by patient, and random draws for `real`.",
)


Row = tuple[str, str, str]
"""A figure's name, what the made films reach, and what real films, or the healthy twins, reach."""


def table_of_figures(found: BundleFigures) -> list[Row]:
    """All rows, each estimate as `brief` writes it."""
    return [
        *(
            (
                f"Dice {organ.replace('_', ' ')}",
                brief(made),
                f"twin {brief(found.dice_twin[organ])}, real {brief(found.dice_real[organ])}",
            )
            for organ, made in found.dice.items()
        ),
        ("MS-SSIM", brief(found.ms_ssim), f"twin {brief(found.ms_ssim_twin)}"),
        _set_distance("kernel distance", found.kernel),
        _set_distance("Frechet distance", found.frechet),
        *(
            (f"AUC {name} ({one.positives} films)", brief(one.auc), f"real {brief(one.auc_real)}")
            for name, one in found.findings.items()
        ),
        ("macro-F1 of the findings", brief(found.macro_f1), f"real {brief(found.macro_f1_real)}"),
        *(
            (f"rises {name}", brief(one.rises), f"unasked {brief(one.rises_unasked)}")
            for name, one in found.findings.items()
        ),
        ("sharpness", brief(found.sharpness), f"training films {found.sharpness_training:.2f}"),
        *(
            (f"copies, by {metric}", brief(copies.made), f"real {brief(copies.real)}")
            for metric, copies in found.copies.items()
        ),
    ]


def brief(figure: Figure) -> str:
    """`.943 [.935, .950]`; an en dash where there is none."""
    if not figure.known:
        return "–"  # noqa: RUF001
    return f"{_short(figure.mean)} [{_short(figure.low)}, {_short(figure.high)}]"


def _set_distance(name: str, found: SetDistance) -> Row:
    times = f", {found.made.mean / found.real.mean:.1f} x" if found.real.low > 0 else ""
    return name, f"{brief(found.made)}{times}", f"real {brief(found.real)}"


def _short(value: float) -> str:
    """Three digits, without the zero before the point; a small or large number in its own way."""
    if math.isnan(value):
        return "–"  # noqa: RUF001
    if abs(value) < 10:
        return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"
    return f"{value:.1f}"
