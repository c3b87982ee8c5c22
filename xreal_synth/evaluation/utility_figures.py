"""Figures of a study of utility by finding: areas under the ROC curve, their gain over real images, tables, picture.

Shapes: N test images, L findings, D draws of a bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xreal_synth.escaping import markdown_table
from xreal_synth.evaluation.findings import area_of, pointing_of, precision_of
from xreal_synth.evaluation.intervals import Array, Bootstrap, Estimate, Statistic, divided, estimated
from xreal_synth.evaluation.utility import Arm, LabelledImages, Trained


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """A figure of each finding: its name, what chance gives, and (outputs, finding) -> statistic [D, N] -> [D]."""

    name: str
    chance: float
    statistic: Callable[[Array, int], Statistic]


@dataclass(frozen=True, slots=True)
class UtilityFigure:
    """A figure with a 95% interval over the patients tested, mean over seeds, beside real images on the same draws.

    `gain` is the mean difference from real images alone at the same share, seed by seed. `of_real`, of synthetic
    images alone, is what they give above chance over what the largest share of real images gives.
    """

    value: Estimate
    gain: Estimate | None
    of_real: Estimate | None


@dataclass(frozen=True, slots=True)
class UtilityRow:
    """One measure of one way to train at one share of the real images, over all seeds.

    `mean` is over findings (macro), `seeds` that mean seed by seed, `deviation` their standard deviation (n - 1;
    NaN of one seed). `real_images` is the mean over seeds.
    """

    measure: str
    arm: Arm
    share: float
    real_images: float
    synthetic_images: int
    mean: UtilityFigure
    findings: dict[str, UtilityFigure]
    seeds: dict[int, Estimate]
    deviation: float


_Draws = dict[tuple[float, Arm], dict[int, Array]]
"""Of a measure, [L, 1 + D] by share and way to train, and by seed."""


def measures_of(test: LabelledImages) -> tuple[Measure, ...]:
    """AUC of a classifier; where the test images have boxes, pointing game and average precision of a detector."""
    labels, boxes = test.labels, test.boxes
    if not boxes:
        return (Measure("AUC", 0.5, lambda logits, at: area_of(logits[:, at], labels[:, at])),)
    return (
        Measure("pointing game", 0.0, lambda found, at: pointing_of(found, at, boxes)),
        Measure("average precision", 0.0, lambda found, at: precision_of(found, at, labels[:, at], boxes)),
    )


def rows_of(trained: Sequence[Trained], test: LabelledImages) -> list[UtilityRow]:
    """Cells grouped by measure, share and way to train: synthetic alone first, then by growing share."""
    bootstrap = Bootstrap(test.patients.tolist())
    groups: dict[tuple[float, Arm], list[Trained]] = {}
    for one in sorted(trained, key=lambda one: (one.cell.share, list(Arm).index(one.cell.arm))):
        groups.setdefault((one.cell.share, one.cell.arm), []).append(one)
    whole = max((share for share, arm in groups if arm is Arm.real), default=0.0)
    found = []
    for measure in measures_of(test):
        drawn: _Draws = {key: {} for key in groups}
        for one in trained:  # each finding's measure on all test images and on every draw [L, 1 + D]
            statistics = [measure.statistic(one.outputs, at) for at in range(len(test.findings))]
            each = np.stack([bootstrap.draws(statistic) for statistic in statistics])
            drawn[one.cell.share, one.cell.arm][one.cell.seed] = each
        found += [_row(measure, cells, drawn, whole, test) for cells in groups.values()]
    return found


def _row(measure: Measure, cells: Sequence[Trained], drawn: _Draws, whole: float, test: LabelledImages) -> UtilityRow:
    """The cells beside real images alone at the same share, synthetic ones beside the `whole` of the real images."""
    share, arm = cells[0].cell.share, cells[0].cell.arm
    own, alone = drawn[share, arm], {} if arm is Arm.real else drawn.get((share, Arm.real), {})
    real = drawn.get((whole, Arm.real), {}) if arm is Arm.synthetic else {}
    value = np.mean(list(own.values()), axis=0)
    pairs = [own[seed] - alone[seed] for seed in own if seed in alone]
    gain = np.mean(pairs, axis=0) if pairs else None
    ratio = None
    if real:
        under = np.mean(list(real.values()), axis=0) - measure.chance
        ratio = np.where(under > 0, divided(value - measure.chance, under), np.nan)
    known = (test.labels >= 0).sum(axis=0)
    seeds = {seed: estimated(draws.mean(axis=0), len(test)) for seed, draws in own.items()}
    values = [one.value for one in seeds.values()]

    def figure(at: int | None, n: int) -> UtilityFigure:
        """Of one finding, or the mean over all."""
        parts = [part if part is None else part.mean(axis=0) if at is None else part[at] for part in (gain, ratio)]
        more = [part if part is None else estimated(part, n) for part in parts]
        return UtilityFigure(estimated(value.mean(axis=0) if at is None else value[at], n), *more)

    return UtilityRow(
        measure=measure.name,
        arm=arm,
        share=share,
        real_images=float(np.mean([one.real_images for one in cells])),
        synthetic_images=cells[0].synthetic_images,
        mean=figure(None, len(test)),
        findings={name: figure(at, int(known[at])) for at, name in enumerate(test.findings)},
        seeds=seeds,
        deviation=float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
    )


def table_of(rows: Sequence[UtilityRow]) -> str:
    """Markdown: for each measure the means, then every finding, then what synthetic images reach of real ones."""
    tables = []
    for measure in dict.fromkeys(row.measure for row in rows):
        own = [row for row in rows if row.measure == measure]
        header = ["trained on", "real images", "synthetic images", f"{measure} [95%]", "seeds"]
        tables.append(markdown_table([*header, "gain over real alone [95%]"], map(_mean_cells, own)))
        if len(own[0].findings) > 1:
            header = [f"{measure}, gain over real alone", "real images", *own[0].findings]
            tables.append(markdown_table(header, map(_finding_cells, own)))
        for row in own:
            if row.mean.of_real is not None:
                named = {**row.findings, **({"mean": row.mean} if len(row.findings) > 1 else {})}
                over = "(AUC - 0.5) of synthetic over real" if measure == "AUC" else f"{measure}, synthetic over real"
                cells = ["synthetic alone", *(_interval(one.of_real) for one in named.values())]
                tables.append(markdown_table([over, *named], [cells]))
    return "\n".join("\n".join(table) + "\n" for table in tables)


def _mean_cells(row: UtilityRow) -> list[object]:
    seeds = ", ".join(f"{one.value:.3f}" for one in row.seeds.values())
    deviation = "" if np.isnan(row.deviation) else f" (SD {row.deviation:.3f})"
    gain = "" if row.mean.gain is None else f"{row.mean.gain:+.3f}"
    mean = _interval(row.mean.value)
    return [row.arm.value, _real(row), row.synthetic_images, mean, seeds + deviation, gain]


def _finding_cells(row: UtilityRow) -> list[object]:
    figures = row.findings.values()
    gains = ("" if one.gain is None else f" {one.gain.value:+.3f}" for one in figures)
    values = (f"{one.value.value:.3f}" for one in figures)
    return [row.arm.value, _real(row), *(value + gain for value, gain in zip(values, gains, strict=True))]


def _real(row: UtilityRow) -> str:
    return f"{row.real_images:.0f} ({row.share:.0%})" if row.share else "0"


def _interval(figure: Estimate | None) -> str:
    if figure is None:
        return ""
    return f"{figure:.3f}" if figure.known else "–"  # noqa: RUF001


def draw_rows(rows: Sequence[UtilityRow], out: Path, title: str) -> None:
    """Means by share of the real images, a line a way to train, bars the 95% intervals, dots the seeds."""
    from matplotlib.figure import Figure as Picture

    measures = list(dict.fromkeys(row.measure for row in rows))
    picture = Picture(figsize=(7.5 * len(measures), 4.8), dpi=110, layout="constrained")
    for axes, measure in zip(picture.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        _draw_measure(axes, [row for row in rows if row.measure == measure])
        axes.set_ylabel(f"{measure} on real images")
    picture.suptitle(title, fontsize=10)
    handles, labels = picture.axes[0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    picture.savefig(out, format="png")


def _draw_measure(axes: Any, rows: Sequence[UtilityRow]) -> None:
    shares = sorted({row.share for row in rows if row.share})
    arms = [arm for arm in (Arm.synthetic, Arm.real, Arm.both, Arm.pretrained) if any(row.arm is arm for row in rows)]
    colours = dict(zip(Arm, ("tab:blue", "tab:grey", "tab:orange", "tab:green"), strict=True))
    for number, arm in enumerate(arms):
        own = [row for row in rows if row.arm is arm]
        means = [row.mean.value for row in own]
        if arm is Arm.synthetic:
            axes.axhline(means[0].value, color=colours[arm], linestyle="--", label=f"{arm.value} alone")
            axes.axhspan(means[0].ci_low, means[0].ci_high, color=colours[arm], alpha=0.12, linewidth=0)
            continue
        places = [shares.index(row.share) + 0.07 * (number - 2) for row in own]
        ends = [[one.value - one.ci_low for one in means], [one.ci_high - one.value for one in means]]
        values = [one.value for one in means]
        axes.errorbar(places, values, yerr=ends, color=colours[arm], marker="o", capsize=3, label=arm.value)
        for place, row in zip(places, own, strict=True):
            dots = [one.value for one in row.seeds.values()]
            axes.plot([place] * len(dots), dots, ".", color=colours[arm], alpha=0.5, markersize=4)
    axes.set_xlim(-0.5, len(shares) - 0.5)
    axes.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
    axes.set_xlabel("share of the real training images")
    axes.grid(visible=True, axis="y", alpha=0.25)
