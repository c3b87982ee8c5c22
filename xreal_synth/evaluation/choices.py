"""Settings compared one at a time: the main figures of `evaluate bundle` over a grid, a cell a folder.

Cells vary one setting at a time from a base, or all together (`cross`). A cell that has its figures is not
computed again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

from xreal_synth.escaping import markdown_table
from xreal_synth.evaluation.bundle import RealImages, measure_bundle, measure_real
from xreal_synth.evaluation.cases import Report
from xreal_synth.evaluation.evaluators import Evaluators
from xreal_synth.evaluation.kept import as_read, json_bytes, nan_for_null, record_of
from xreal_synth.evaluation.request import PreparedRequest, Request, images_for, prepare
from xreal_synth.storage import LocalStore

FIGURES: Final = "figures.json"
FORMAT: Final = 2
"""Of figures.json: those of another are computed again, from the images that are there."""
REAL: Final = "real images"
BUNDLE_KEY: Final = "bundle"
COLUMNS: Final = (
    "lungs", "heart", "aorta", "MS-SSIM", "kernel", "Frechet", "sharpness", "AUC", "rises",
    "in place", "s / image",
)  # fmt: skip

NOTE: Final = (
    "Dice by the evaluator segmenter; kernel distance (KID's estimator) and Frechet distance in the judging "
    "classifier's features to real images; sharpness is power over real images in the upper half of the "
    "frequencies; AUC of the evaluator classifier, mean over findings; rises is the share of images that score above "
    "their healthy twin for the finding asked for, in place the share whose map of it by the evaluator locator peaks "
    "inside a box of it; seconds an image with a finding are of CPU time where it ran on a "
    "CPU. Of few images all of these are rough: see the intervals in each cell's figures.json."
)
_NONE: Final = float("nan")

Grid = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class ChoiceCell:
    """One choice: what differs from the base, and the whole request."""

    name: str
    changes: Mapping[str, Any]
    request: Request


def cells_of(base: Request, grid: Grid, *, cross: bool) -> list[ChoiceCell]:
    """The base and its variations; a variation that says what the base says is the base."""
    if cross:
        changes = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    else:
        changes = [{}, *({key: value} for key, values in grid.items() for value in values)]
    cells = []
    for change in changes:
        own = {key: value for key, value in change.items() if key != BUNDLE_KEY}
        bundle = str(change.get(BUNDLE_KEY, base.bundle))
        cells.append(ChoiceCell(_name(change), change, replace(base, bundle=bundle, sampling={**base.sampling, **own})))
    return cells


def evaluate_choices(
    cells: Sequence[ChoiceCell], evaluators: Evaluators, training_split: str, out: Path, report: Report
) -> list[dict[str, Any]]:
    """A row a cell and one of real images (those of the first cell's bundle's size); as tables in `out` after each.

    A cell's figures come from `out/NAME/figures.json` where they are there for the same request. Everything that is
    asked for is checked before the first image is made. Raises our errors.
    """
    unique: dict[str, tuple[ChoiceCell, PreparedRequest]] = {}
    for cell in cells:
        prepared = prepare(cell.request)
        key = json.dumps([prepared.info.content_hash, asdict(prepared.settings)])
        unique.setdefault(key, (cell, prepared))
    seen: dict[tuple[int, tuple[int, ...]], RealImages] = {}

    def figures_of(cell: ChoiceCell, prepared: PreparedRequest) -> dict[str, Any]:
        store, images = LocalStore(out / cell.name), tuple(case.index for case in prepared.cases)
        identity = {**prepared.identity(), "evaluators": evaluators.sha256, "training_split": training_split}
        wanted = as_read({"format": FORMAT, **identity, "images": images})
        record = record_of(store, FIGURES, wanted, "figures")
        if record is None:
            key = prepared.reader.size, images
            if key not in seen:
                seen[key] = measure_real(prepared, evaluators, training_split, _named(report, "all cells"))
            own = _named(report, cell.name)
            made = images_for(prepared, out / cell.name / "images", own)
            found = measure_bundle(prepared, evaluators, seen[key], made, own)
            record = as_read({"of": wanted, "figures": asdict(found)})
            store.replace(FIGURES, json_bytes(record))
        figures: dict[str, Any] = nan_for_null(record["figures"])
        return figures

    done, rows = list[dict[str, Any]](), list[dict[str, Any]]()
    for cell, prepared in unique.values():
        done.append(figures_of(cell, prepared))
        own = {"cell": cell.name, "changes": dict(cell.changes), **main_figures(done[-1])}
        real = {"cell": REAL, "changes": {}, **main_figures(done[0], real=True)}
        rows = [*rows[:-1], own, real]
        images = " or ".join(map(str, sorted({figures["images"] for figures in done})))
        lines = [*markdown_table(["choice", *COLUMNS], table_rows(rows)), "", f"{images} images a row. {NOTE}", ""]
        store = LocalStore(out)
        store.replace("choices.md", "\n".join(lines).encode())
        store.replace("choices.json", json_bytes(rows))
    return rows


def table_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The rows' names and figures, empty where there is none."""
    return [[row["cell"], *("" if math.isnan(row[name]) else f"{row[name]:.3f}" for name in COLUMNS)] for row in rows]


def main_figures(figures: Mapping[str, Any], *, real: bool = False) -> dict[str, float]:
    """The table's figures of a cell's figures.json, or what real images reach by the same measures.

    Dice, AUC, rises and places are means over organs or findings. NaN is what real images do not have, and places
    without a locator.
    """
    dice, shown = figures["dice_real" if real else "dice"], figures["findings"].values()
    side, places = ("real", "real") if real else ("made", "asked")
    values = [
        _mean(dice[organ]["value"] for organ in ("left_lung", "right_lung")),
        dice["heart"]["value"],
        dice["aorta"]["value"],
        _NONE if real else figures["ms_ssim"]["value"],
        figures["kernel"][side]["value"],
        figures["frechet"][side]["value"],
        figures["sharpness_training"] if real else figures["sharpness"]["value"],
        _mean(one["auc_real" if real else "auc"]["value"] for one in shown),
        _NONE if real else _mean(one["rises"]["value"] for one in shown),
        _mean(one[places]["value"] for one in figures.get("in_place", {}).values()),
        _NONE if real else (figures["core_seconds"] or figures["seconds"]).get("image with a finding", _NONE),
    ]
    return dict(zip(COLUMNS, values, strict=True))


def _name(changes: Mapping[str, Any]) -> str:
    """A name that is also a folder's: `hold=0.3+guidance=4`, of a bundle's path the last part."""
    words = [f"{key}={Path(str(value)).name}" for key, value in changes.items()]
    return re.sub(r"[^A-Za-z0-9._=+-]", "_", "+".join(words)) or "base"


def _named(report: Report, cell: str) -> Report:
    return lambda what, done, total: report(f"{cell}: {what}", done, total)


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else _NONE
