"""Figures of a study of utility: areas under the ROC curve, their gain over real images alone, table and picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xreal_synth.evaluation.findings import area, area_of
from xreal_synth.evaluation.intervals import Array, Bootstrap, Estimate
from xreal_synth.evaluation.utility import Arm, LabelledImages, Trained


@dataclass(frozen=True, slots=True)
class UtilityRow:
    """One way to train at one share of the real images, over all seeds.

    `auc` is the mean of the seeds' areas with a 95% interval over the patients tested; `seeds` are the areas one
    by one, each with its own; `deviation` is their standard deviation (n - 1; NaN of one seed). `gain` is the mean
    difference from real images alone at the same share, seed by seed, on the same draws of patients.
    `real_images` is the mean over seeds.
    """

    arm: Arm
    share: float
    real_images: float
    synthetic_images: int
    auc: Estimate
    seeds: dict[int, Estimate]
    deviation: float
    gain: Estimate | None


def rows_of(trained: Sequence[Trained], test: LabelledImages) -> list[UtilityRow]:
    """Cells grouped by share and way to train: synthetic alone first, then by growing share."""
    bootstrap = Bootstrap(test.patients.tolist())
    labels = test.positive.astype(np.int64)
    groups: dict[tuple[float, Arm], list[Trained]] = {}
    for one in trained:
        groups.setdefault((one.cell.share, one.cell.arm), []).append(one)
    order = sorted(groups, key=lambda key: (key[0], list(Arm).index(key[1])))
    return [_row(groups[key], groups.get((key[0], Arm.real), []), labels, bootstrap) for key in order]


def _row(
    cells: Sequence[Trained], alone: Sequence[Trained], labels: npt.NDArray[np.int64], bootstrap: Bootstrap
) -> UtilityRow:
    arm, share = cells[0].cell.arm, cells[0].cell.share
    images = len(labels)
    seeds = {one.cell.seed: area(one.logits, labels, bootstrap) for one in cells}
    areas = [figure.value for figure in seeds.values()]
    gain = None
    if arm is not Arm.real and alone:
        beside = {one.cell.seed: one for one in alone}
        pairs = [(one, beside[one.cell.seed]) for one in cells if one.cell.seed in beside]
        parts = [(area_of(one.logits, labels), area_of(other.logits, labels)) for one, other in pairs]

        def difference(weights: Array) -> Array:
            return np.asarray(np.mean([one(weights) - other(weights) for one, other in parts], axis=0))

        gain = bootstrap.interval(difference, images)
    statistics = [area_of(one.logits, labels) for one in cells]
    return UtilityRow(
        arm=arm,
        share=share,
        real_images=float(np.mean([one.real_images for one in cells])),
        synthetic_images=cells[0].synthetic_images,
        auc=bootstrap.interval(lambda weights: np.mean([one(weights) for one in statistics], axis=0), images),
        seeds=seeds,
        deviation=float(np.std(areas, ddof=1)) if len(areas) > 1 else float("nan"),
        gain=gain,
    )


def table_of(rows: Sequence[UtilityRow]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| trained on | real images | synthetic images | AUC [95%] | seeds | gain over real alone [95%] |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        real = f"{row.real_images:.0f} ({row.share:.0%})" if row.share else "0"
        seeds = ", ".join(f"{one.value:.3f}" for one in row.seeds.values())
        deviation = "" if np.isnan(row.deviation) else f" (SD {row.deviation:.3f})"
        gain = (
            ""
            if row.gain is None
            else f"{row.gain.value:+.3f} [{row.gain.ci_low:+.3f}, {row.gain.ci_high:+.3f}]"
        )
        lines.append(
            f"| {row.arm.value} | {real} | {row.synthetic_images} "
            f"| {row.auc.value:.3f} [{row.auc.ci_low:.3f}, {row.auc.ci_high:.3f}] | {seeds}{deviation} | {gain} |"
        )
    return "\n".join(lines) + "\n"


def draw_rows(rows: Sequence[UtilityRow], out: Path, title: str) -> None:
    """Areas by share of the real images, a line a way to train, bars the 95% intervals, dots the seeds."""
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(7.5, 4.8), dpi=110, layout="constrained")
    axes = picture.subplots()
    shares = sorted({row.share for row in rows if row.share})
    arms = [
        arm
        for arm in (Arm.synthetic, Arm.real, Arm.both, Arm.pretrained)
        if any(row.arm is arm for row in rows)
    ]
    colours = dict(zip(Arm, ("tab:blue", "tab:grey", "tab:orange", "tab:green"), strict=True))
    for number, arm in enumerate(arms):
        own = [row for row in rows if row.arm is arm]
        if arm is Arm.synthetic:
            axes.axhline(own[0].auc.value, color=colours[arm], linestyle="--", label=f"{arm.value} alone")
            axes.axhspan(own[0].auc.ci_low, own[0].auc.ci_high, color=colours[arm], alpha=0.12, linewidth=0)
            continue
        places = [shares.index(row.share) + 0.07 * (number - 2) for row in own]
        means = [row.auc.value for row in own]
        ends = [
            [row.auc.value - row.auc.ci_low for row in own],
            [row.auc.ci_high - row.auc.value for row in own],
        ]
        axes.errorbar(places, means, yerr=ends, color=colours[arm], marker="o", capsize=3, label=arm.value)
        for place, row in zip(places, own, strict=True):
            values = [one.value for one in row.seeds.values()]
            axes.plot([place] * len(values), values, ".", color=colours[arm], alpha=0.5, markersize=4)
    axes.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
    axes.set_xlabel("share of the real training images")
    axes.set_ylabel("AUC on real images")
    axes.set_title(title, fontsize=10)
    axes.grid(visible=True, axis="y", alpha=0.25)
    picture.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    picture.savefig(out, format="png")
