"""The table of goals: what a bundle ought to reach, what it reached, and what real films reach."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from xreal_synth.evaluation.bundle import BundleFigures, SetDistance
from xreal_synth.evaluation.findings import FindingFigures
from xreal_synth.evaluation.intervals import Figure
from xreal_synth.types import SamplingSettings

DICE: Final = {"left_lung": 0.92, "right_lung": 0.92, "heart": 0.87, "aorta": 0.6}
MS_SSIM: Final = 0.70
TIMES_REAL: Final = 2.0
SHARPNESS: Final = (0.7, 1.3)
SECONDS: Final = {"branch": 2.0, "reference": 10.0}

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


@dataclass(frozen=True, slots=True)
class Goal:
    """One row: `beside` is what real films (or the healthy twins) reach; `met` None where there is no goal."""

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
            f"training films {found.sharpness_training:.2f}",
            _met(found.sharpness, SHARPNESS[0] <= found.sharpness.mean <= SHARPNESS[1]),
        ),
        *_copies(found),
        _seconds(found, settings),
    ]


def brief(figure: Figure) -> str:
    """`.943 [.935, .950]`; an en dash where there is none."""
    if not figure.known:
        return "–"  # noqa: RUF001
    return f"{_short(figure.mean)} [{_short(figure.low)}, {_short(figure.high)}]"


def _anatomy(found: BundleFigures) -> Iterator[Goal]:
    for organ, least in DICE.items():
        made = found.dice[organ]
        yield Goal(
            f"Dice {organ.replace('_', ' ')}",
            f">= {_short(least)}",
            brief(made),
            f"twin {brief(found.dice_twin[organ])}, real {brief(found.dice_real[organ])}",
            _met(made, made.mean >= least),
        )
    yield Goal(
        "MS-SSIM",
        f">= {_short(MS_SSIM)}",
        brief(found.ms_ssim),
        f"twin {brief(found.ms_ssim_twin)}",
        _met(found.ms_ssim, found.ms_ssim.mean >= MS_SSIM),
    )


def _set_distance(name: str, found: SetDistance) -> Goal:
    times = f", {found.made.mean / found.real.mean:.1f} x" if found.real.low > 0 else ""
    return Goal(
        name,
        f"<= {TIMES_REAL:g} x real",
        f"{brief(found.made)}{times}",
        f"real {brief(found.real)}",
        found.made.mean <= TIMES_REAL * found.real.mean,
    )


def _shown(name: str, found: FindingFigures) -> Goal:
    return Goal(
        f"AUC {name} ({found.positives} films)",
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
            copies.made.mean <= copies.real.mean,
        )


def _seconds(found: BundleFigures, settings: SamplingSettings) -> Goal:
    """CPU seconds where there are any: the machine may have had other work."""
    spent, wall = found.core_seconds or found.seconds, found.seconds
    taken, most = spent.get("film with a finding"), SECONDS.get(settings.mode)
    words = f"healthy {spent['healthy film']:.2f}" if spent else ""
    if found.core_seconds:
        words += f", on the wall {wall['film with a finding']:.2f}"
    return Goal(
        "core seconds a film" if found.core_seconds else "seconds a film",
        "" if most is None else f"<= {most:g}",
        "not timed" if taken is None else f"{taken:.2f}",
        words,
        None if taken is None or most is None else taken <= most,
    )


def _met(figure: Figure, holds: bool) -> bool | None:
    return holds if figure.known else None


def _short(value: float) -> str:
    """Three digits, without the zero before the point; a small or large number in its own way."""
    if math.isnan(value):
        return "–"  # noqa: RUF001
    if abs(value) < 10:
        return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"
    return f"{value:.1f}"
