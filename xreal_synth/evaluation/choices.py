"""Settings compared one at a time: the main figures of `evaluate bundle` over a grid, a cell a folder.

Cells vary one setting at a time from a base, or all together (`cross`). A cell that has its figures is not
computed again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

from xreal_synth.escaping import markdown_table
from xreal_synth.evaluation.bundle import RealImages
from xreal_synth.evaluation.evaluators import Evaluators
from xreal_synth.evaluation.kept import as_read, json_bytes, nan_for_null, record_of
from xreal_synth.evaluation.request import (
    PreparedRequest,
    Report,
    Request,
    figures_for,
    images_for,
    prepare,
    real_images,
)
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


@dataclass(frozen=True, slots=True, eq=False)
class CellFigures:
    """A cell with `figures` as in its figures.json (BundleFigures as plain data)."""

    cell: ChoiceCell
    figures: dict[str, Any]

    def main(self) -> dict[str, float]:
        """The figures of the table; Dice, AUC and rises are means over organs or findings."""
        found = self.figures
        shown = list(found["findings"].values())
        return _row(
            found["dice"],
            found["ms_ssim"]["value"],
            found["kernel"]["made"]["value"],
            found["frechet"]["made"]["value"],
            found["sharpness"]["value"],
            _mean([one["auc"]["value"] for one in shown]),
            _mean([one["rises"]["value"] for one in shown]),
            self._in_place("asked"),
            (found["core_seconds"] or found["seconds"]).get("image with a finding", _NONE),
        )

    def real(self) -> dict[str, float]:
        """What real images reach by the same measures, NaN where there is no such thing."""
        found = self.figures
        auc = _mean([one["auc_real"]["value"] for one in found["findings"].values()])
        kernel, frechet = (found[name]["real"]["value"] for name in ("kernel", "frechet"))
        return _row(
            found["dice_real"], _NONE, kernel, frechet, found["sharpness_training"], auc, _NONE,
            self._in_place("real"), _NONE,
        )  # fmt: skip

    def _in_place(self, of: str) -> float:
        """Mean over findings; NaN without a locator, and of figures that were made before there was one."""
        return _mean([one[of]["value"] for one in self.figures.get("in_place", {}).values()])


def cells_of(base: Request, grid: Grid, *, cross: bool) -> list[ChoiceCell]:
    """The base and its variations; a variation that says what the base says is the base."""
    if cross:
        keys = list(grid)
        changes = [dict(zip(keys, values, strict=True)) for values in product(*grid.values())]
    else:
        changes = [{}, *({key: value} for key, values in grid.items() for value in values)]
    return [ChoiceCell(_name(change), change, _changed(base, change)) for change in changes]


def evaluate_choices(
    cells: Sequence[ChoiceCell], evaluators: Evaluators, training_split: str, out: Path, report: Report
) -> Iterator[CellFigures]:
    """Each cell's figures, from `out/NAME/figures.json` where they are there for the same request.

    Everything that is asked for is checked before the first image is made. Raises our errors.
    """
    ready = [(cell, prepare(cell.request)) for cell in cells]
    unique: dict[str, tuple[ChoiceCell, PreparedRequest]] = {}
    for cell, prepared in ready:
        unique.setdefault(
            json.dumps([prepared.info.content_hash, asdict(prepared.settings)]), (cell, prepared)
        )
    seen: dict[tuple[int, tuple[int, ...]], RealImages] = {}
    for cell, prepared in unique.values():
        store = LocalStore(out / cell.name)
        wanted = _identity(prepared, evaluators, training_split)
        figures = _stored(store, wanted)
        if figures is None:
            key = prepared.reader.size, tuple(case.index for case in prepared.cases)
            if key not in seen:
                seen[key] = real_images(prepared, evaluators, training_split, _named(report, "all cells"))
            mine = _named(report, cell.name)
            images = images_for(prepared, out / cell.name / "images", mine)
            found = asdict(figures_for(prepared, evaluators, seen[key], images, mine))
            store.replace(FIGURES, json_bytes({"of": wanted, "figures": found}))
            figures = _stored(store, wanted)
            assert figures is not None, "what was just written is of this request"
        yield CellFigures(cell, figures)


def write_table(rows: Sequence[CellFigures], out: Path) -> None:
    """`choices.md` and `choices.json` in `out`."""
    store = LocalStore(out)
    store.replace("choices.md", markdown(rows).encode())
    record = [{"cell": row.cell.name, "changes": dict(row.cell.changes), **row.main()} for row in rows]
    record += [{"cell": REAL, "changes": {}, **rows[0].real()}]
    store.replace("choices.json", json_bytes(record))


def table_rows(rows: Sequence[CellFigures]) -> list[list[str]]:
    """A row a cell, and a last one of real images (those of the first cell's bundle's size)."""
    named = [(row.cell.name, row.main()) for row in rows] + [(REAL, rows[0].real())]
    return [[name, *("" if math.isnan(v) else f"{v:.3f}" for v in values.values())] for name, values in named]


def markdown(rows: Sequence[CellFigures]) -> str:
    """The main figures, a row a cell."""
    images = sorted({row.figures["images"] for row in rows})
    lines = [
        *markdown_table(["choice", *COLUMNS], table_rows(rows)),
        "",
        f"{' or '.join(map(str, images))} images a row. {NOTE}",
    ]
    return "\n".join(lines) + "\n"


def _name(changes: Mapping[str, Any]) -> str:
    """A name that is also a folder's: `hold=0.3+guidance=4`, of a bundle's path the last part."""
    words = [f"{key}={Path(str(value)).name}" for key, value in changes.items()]
    return re.sub(r"[^A-Za-z0-9._=+-]", "_", "+".join(words)) or "base"


def _changed(base: Request, changes: Mapping[str, Any]) -> Request:
    sampling = {**base.sampling, **{key: value for key, value in changes.items() if key != BUNDLE_KEY}}
    return replace(base, bundle=str(changes.get(BUNDLE_KEY, base.bundle)), sampling=sampling)


def _identity(prepared: PreparedRequest, evaluators: Evaluators, training_split: str) -> dict[str, Any]:
    record: dict[str, Any] = as_read({
        "format": FORMAT, **prepared.identity(), "evaluators": evaluators.sha256,
        "training_split": training_split, "images": [case.index for case in prepared.cases],
    })  # fmt: skip
    return record


def _stored(store: LocalStore, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """A cell's figures if they are of this request."""
    record = record_of(store, FIGURES, wanted, "figures")
    figures: dict[str, Any] | None = record and nan_for_null(record["figures"])
    return figures


def _named(report: Report, cell: str) -> Report:
    return lambda what, done, total: report(f"{cell}: {what}", done, total)


def _row(dice: Mapping[str, Any], *others: float) -> dict[str, float]:
    lungs = _mean([dice[organ]["value"] for organ in ("left_lung", "right_lung")])
    values = (lungs, dice["heart"]["value"], dice["aorta"]["value"], *others)
    return dict(zip(COLUMNS, values, strict=True))


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")
