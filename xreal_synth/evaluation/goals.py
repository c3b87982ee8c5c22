"""The table of goals: what a bundle ought to reach, what it reached, and what real images reach."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from xreal_synth.evaluation.bundle import BundleFigures, SetDistance
from xreal_synth.evaluation.findings import FindingFigures
from xreal_synth.evaluation.intervals import Estimate
from xreal_synth.types import SamplingSettings

DICE: Final = {"left_lung": 0.92, "right_lung": 0.92, "heart": 0.87, "aorta": 0.6}
MS_SSIM: Final = 0.70
TIMES_REAL: Final = 2.0
SHARPNESS: Final = (0.7, 1.3)
SECONDS: Final = {"branch": 2.0, "reference": 10.0}

NOTES: Final = (
    "Generated images show all findings of their image, one after another; a twin shows none. `real` is what real "
    "images reach by the same measure.",
    "Dice: requested mask against the evaluator segmenter's. MS-SSIM: to the real image of the same mask.",
    "Kernel distance (KID's estimator) and Frechet distance are in the evaluator classifier's features, made "
    "against real images; `real`: as many training images against the same real images.",
    "AUC and macro-F1 (at one half): the evaluator classifier's; images without the finding are the negatives. "
    "Rises: share of images that score above their own twin for a finding asked for, or not asked for.",
    "Sharpness: power over real images in the upper half of the frequencies. Copies: images nearer to a training "
    "image than 99.9% of training images are to their nearest neighbour of another patient.",
    "Intervals: 95%, bootstrap by patient; of distances a jackknife by patient, and random draws for `real`.",
)


@dataclass(frozen=True, slots=True)
class Goal:
    """One row: `beside` is what real images (or the healthy twins) reach; `met` None where there is no goal."""

    figure: str
    goal: str
    reached: str
    beside: str
    met: bool | None


def table_of_goals(found: BundleFigures, settings: SamplingSettings) -> list[Goal]:
    """All rows, in the order of the project's goals."""
    return [
        *_anatomy(found),
        _set_distance("kernel distance", found.kernel),
        _set_distance("Frechet distance", found.frechet),
        *(_shown(name, figures) for name, figures in found.findings.items()),
        Goal(
            "macro-F1 of the findings", "", brief(found.macro_f1), f"real {brief(found.macro_f1_real)}", None
        ),
        *(_rises(name, figures) for name, figures in found.findings.items()),
        Goal(
            "sharpness",
            f"{SHARPNESS[0]} to {SHARPNESS[1]}",
            brief(found.sharpness),
            f"training images {found.sharpness_training:.2f}",
            _met(found.sharpness, SHARPNESS[0] <= found.sharpness.value <= SHARPNESS[1]),
        ),
        *_copies(found),
        _seconds(found, settings),
    ]


def brief(figure: Estimate) -> str:
    """`.943 [.935, .950]`; an en dash where there is none."""
    if not figure.known:
        return "–"  # noqa: RUF001
    return f"{_short(figure.value)} [{_short(figure.ci_low)}, {_short(figure.ci_high)}]"


def _anatomy(found: BundleFigures) -> Iterator[Goal]:
    for organ, least in DICE.items():
        made = found.dice[organ]
        yield Goal(
            f"Dice {organ.replace('_', ' ')}",
            f">= {_short(least)}",
            brief(made),
            f"twin {brief(found.dice_twin[organ])}, real {brief(found.dice_real[organ])}",
            _met(made, made.value >= least),
        )
    yield Goal(
        "MS-SSIM",
        f">= {_short(MS_SSIM)}",
        brief(found.ms_ssim),
        f"twin {brief(found.ms_ssim_twin)}",
        _met(found.ms_ssim, found.ms_ssim.value >= MS_SSIM),
    )


def _set_distance(name: str, found: SetDistance) -> Goal:
    times = f", {found.made.value / found.real.value:.1f} x" if found.real.ci_low > 0 else ""
    return Goal(
        name,
        f"<= {TIMES_REAL:g} x real",
        f"{brief(found.made)}{times}",
        f"real {brief(found.real)}",
        found.made.value <= TIMES_REAL * found.real.value,
    )


def _shown(name: str, found: FindingFigures) -> Goal:
    return Goal(
        f"AUC {name} ({found.positives} images)",
        "overlaps real",
        brief(found.auc),
        f"real {brief(found.auc_real)}",
        found.overlap if found.auc.known and found.auc_real.known else None,
    )


def _rises(name: str, found: FindingFigures) -> Goal:
    return Goal(
        f"rises {name}",
        "",
        brief(found.rises),
        f"unasked {brief(found.rises_unasked)}",
        None,
    )


def _copies(found: BundleFigures) -> Iterator[Goal]:
    for metric, copies in found.copies.items():
        yield Goal(
            f"copies, by {metric}",
            "<= real",
            brief(copies.made),
            f"real {brief(copies.real)}",
            copies.made.value <= copies.real.value,
        )


def _seconds(found: BundleFigures, settings: SamplingSettings) -> Goal:
    """CPU seconds where there are any: the machine may have had other work."""
    spent, wall = found.core_seconds or found.seconds, found.seconds
    taken, most = spent.get("image with a finding"), SECONDS.get(settings.mode)
    words = f"healthy {spent['healthy image']:.2f}" if spent else ""
    if found.core_seconds:
        words += f", on the wall {wall['image with a finding']:.2f}"
    return Goal(
        "core seconds an image" if found.core_seconds else "seconds an image",
        "" if most is None else f"<= {most:g}",
        "not timed" if taken is None else f"{taken:.2f}",
        words,
        None if taken is None or most is None else taken <= most,
    )


def _met(figure: Estimate, holds: bool) -> bool | None:
    return holds if figure.known else None


def _short(value: float) -> str:
    """Three digits, without the zero before the point; a small or large number in its own way."""
    if math.isnan(value):
        return "–"  # noqa: RUF001
    if abs(value) < 10:
        return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"
    return f"{value:.1f}"
