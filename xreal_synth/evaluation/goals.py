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
        _set_distance("kernel distance (KID's estimator)", found.kernel),
        _set_distance("Frechet distance", found.frechet),
        *(_shown(name, figures) for name, figures in found.findings.items()),
        Goal(
            "macro-F1 of the findings", "", brief(found.macro_f1), f"real {brief(found.macro_f1_real)}", None
        ),
        *(_rises(name, figures) for name, figures in found.findings.items()),
        Goal(
            "power over real films, upper half of the frequencies",
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
            f"Dice {organ.replace('_', ' ')}, requested against judged",
            f">= {_short(least)}",
            brief(made),
            f"twin {brief(found.dice_twin[organ])}, real {brief(found.dice_real[organ])}",
            _met(made, made.mean >= least),
        )
    yield Goal(
        "MS-SSIM to the paired real film",
        f">= {_short(MS_SSIM)}",
        brief(found.ms_ssim),
        f"twin {brief(found.ms_ssim_twin)}",
        _met(found.ms_ssim, found.ms_ssim.mean >= MS_SSIM),
    )


def _set_distance(name: str, found: SetDistance) -> Goal:
    times = "" if math.isnan(found.ratio) else f", {found.ratio:.1f} x"
    return Goal(
        f"{name}, judging classifier's features, made and real",
        f"<= {TIMES_REAL:g} x real and real",
        f"{brief(found.made)}{times}",
        f"real and real {brief(found.real)}",
        found.made.mean <= TIMES_REAL * found.real.mean,
    )


def _shown(name: str, found: FindingFigures) -> Goal:
    return Goal(
        f"{name} shown: AUC of the judging classifier ({found.positives} films)",
        "interval overlaps real films'",
        brief(found.auc),
        f"real {brief(found.auc_real)}",
        found.overlap if found.auc.known and found.auc_real.known else None,
    )


def _rises(name: str, found: FindingFigures) -> Goal:
    return Goal(
        f"{name}: share of films that score above their healthy twin",
        "",
        brief(found.rises),
        f"not asked for {brief(found.rises_unasked)}",
        None,
    )


def _copies(found: BundleFigures) -> Iterator[Goal]:
    for metric, copies in found.copies.items():
        yield Goal(
            f"copies of training films, by {metric}",
            "no more than real films",
            brief(copies.made),
            f"real {brief(copies.real)}",
            copies.made.mean <= copies.real.mean,
        )


def _seconds(found: BundleFigures, settings: SamplingSettings) -> Goal:
    taken, most = found.seconds.get("film with a finding"), SECONDS.get(settings.mode)
    return Goal(
        f"seconds a film with a finding, mode {settings.mode}",
        "" if most is None else f"<= {most:g}",
        "not timed" if taken is None else f"{taken:.2f}",
        f"healthy film {found.seconds['healthy film']:.2f}" if "healthy film" in found.seconds else "",
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
