"""What changes when one setting does: the main figures of `evaluate bundle` over a grid, a cell a folder.

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

from xreal_synth.escaping import markdown_row
from xreal_synth.evaluation.bundle import RealFilms
from xreal_synth.evaluation.judging import Judges
from xreal_synth.evaluation.nulls import nan_for_null, null_for_nan
from xreal_synth.evaluation.request import Prepared, Request, prepare
from xreal_synth.evaluation.run import Report, figures_for, films_for, real_films
from xreal_synth.opening import parse_json
from xreal_synth.storage import LocalStore

FIGURES: Final = "figures.json"
FORMAT: Final = 2
"""Of figures.json: those of another are computed again, from the films that are there."""
REAL: Final = "real films"
BUNDLE_KEY: Final = "bundle"
COLUMNS: Final = (
    "lungs", "heart", "aorta", "MS-SSIM", "kernel", "Frechet", "sharpness", "AUC", "rises",
    "s / film",
)  # fmt: skip

NOTE: Final = (
    "Dice by the judging segmenter; kernel distance (KID's estimator) and Frechet distance in the judging "
    "classifier's features to real films; sharpness is power over real films in the upper half of the "
    "frequencies; AUC of the judging classifier, mean over findings; rises is the share of films that score above "
    "their healthy twin for the finding asked for; seconds a film with a finding are of CPU time where it ran on a "
    "CPU. Of few films all of these are rough: see the intervals in each cell's figures.json."
)
_NONE: Final = float("nan")

Grid = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One choice: what differs from the base, and the whole request."""

    name: str
    changes: Mapping[str, Any]
    request: Request


@dataclass(frozen=True, slots=True, eq=False)
class CellFigures:
    """A cell with `figures` as in its figures.json (BundleFigures as plain data)."""

    cell: Cell
    figures: dict[str, Any]

    def main(self) -> dict[str, float]:
        """The figures of the table; Dice, AUC and rises are means over organs or findings."""
        found = self.figures
        shown = list(found["findings"].values())
        return _row(
            found["dice"],
            found["ms_ssim"]["mean"],
            found["kernel"]["made"]["mean"],
            found["frechet"]["made"]["mean"],
            found["sharpness"]["mean"],
            _mean([one["auc"]["mean"] for one in shown]),
            _mean([one["rises"]["mean"] for one in shown]),
            (found["core_seconds"] or found["seconds"]).get("film with a finding", _NONE),
        )

    def real(self) -> dict[str, float]:
        """What real films reach by the same measures, NaN where there is no such thing."""
        found = self.figures
        auc = _mean([one["auc_real"]["mean"] for one in found["findings"].values()])
        kernel, frechet = (found[name]["real"]["mean"] for name in ("kernel", "frechet"))
        return _row(
            found["dice_real"], _NONE, kernel, frechet, found["sharpness_training"], auc, _NONE, _NONE
        )


def cells_of(base: Request, grid: Grid, *, cross: bool) -> list[Cell]:
    """The base and its variations; a variation that says what the base says is the base."""
    if cross:
        keys = list(grid)
        changes = [dict(zip(keys, values, strict=True)) for values in product(*grid.values())]
    else:
        changes = [{}, *({key: value} for key, values in grid.items() for value in values)]
    return [Cell(_name(change), change, _changed(base, change)) for change in changes]


def evaluate_choices(
    cells: Sequence[Cell], judges: Judges, training_split: str, out: Path, report: Report
) -> Iterator[CellFigures]:
    """Each cell's figures, from `out/NAME/figures.json` where they are there for the same request.

    Everything that is asked for is checked before the first film is made. Raises our errors.
    """
    ready = [(cell, prepare(cell.request)) for cell in cells]
    unique: dict[str, tuple[Cell, Prepared]] = {}
    for cell, prepared in ready:
        unique.setdefault(
            json.dumps([prepared.info.content_hash, asdict(prepared.settings)]), (cell, prepared)
        )
    seen: dict[tuple[int, tuple[int, ...]], RealFilms] = {}
    for cell, prepared in unique.values():
        store = LocalStore(out / cell.name)
        wanted = _identity(prepared, judges, training_split)
        figures = _stored(store, wanted)
        if figures is None:
            key = prepared.reader.size, tuple(case.index for case in prepared.cases)
            if key not in seen:
                seen[key] = real_films(prepared, judges, training_split, _named(report, "all cells"))
            mine = _named(report, cell.name)
            films = films_for(prepared, out / cell.name / "films", mine)
            found = asdict(figures_for(prepared, judges, seen[key], films, mine))
            record = {"of": wanted, "figures": null_for_nan(found)}
            store.replace(FIGURES, (json.dumps(record, indent=1) + "\n").encode())
            figures = _stored(store, wanted)
            assert figures is not None, "what was just written is of this request"
        yield CellFigures(cell, figures)


def write_table(rows: Sequence[CellFigures], out: Path) -> None:
    """`choices.md` and `choices.json` in `out`."""
    store = LocalStore(out)
    store.replace("choices.md", markdown(rows).encode())
    record = [{"cell": row.cell.name, "changes": dict(row.cell.changes), **row.main()} for row in rows]
    record += [{"cell": REAL, "changes": {}, **rows[0].real()}]
    store.replace("choices.json", (json.dumps(null_for_nan(record), indent=1) + "\n").encode())


def table_rows(rows: Sequence[CellFigures]) -> list[list[str]]:
    """A row a cell, and a last one of real films (those of the first cell's bundle's size)."""
    named = [(row.cell.name, row.main()) for row in rows] + [(REAL, rows[0].real())]
    return [[name, *("" if math.isnan(v) else f"{v:.3f}" for v in values.values())] for name, values in named]


def markdown(rows: Sequence[CellFigures]) -> str:
    """The main figures, a row a cell."""
    films = sorted({row.figures["films"] for row in rows})
    lines = [
        "| choice | " + " | ".join(COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS),
        *map(markdown_row, table_rows(rows)),
        "",
        f"{' or '.join(map(str, films))} films a row. {NOTE}",
    ]
    return "\n".join(lines) + "\n"


def _name(changes: Mapping[str, Any]) -> str:
    """A name that is also a folder's: `hold=0.3+guidance=4`, of a bundle's path the last part."""
    words = [f"{key}={Path(str(value)).name}" for key, value in changes.items()]
    return re.sub(r"[^A-Za-z0-9._=+-]", "_", "+".join(words)) or "base"


def _changed(base: Request, changes: Mapping[str, Any]) -> Request:
    sampling = {**base.sampling, **{key: value for key, value in changes.items() if key != BUNDLE_KEY}}
    return replace(base, bundle=str(changes.get(BUNDLE_KEY, base.bundle)), sampling=sampling)


def _identity(prepared: Prepared, judges: Judges, training_split: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(
        json.dumps(
            {
                "format": FORMAT,
                **prepared.identity(),
                "judges": judges.sha256,
                "training_split": training_split,
                "films": [case.index for case in prepared.cases],
            }
        )
    )
    return record


def _stored(store: LocalStore, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """A cell's figures if they are of this request; a file that was cut short counts as none."""
    if not store.exists(FIGURES):
        return None
    try:
        record = parse_json(store.read_bytes(FIGURES))
        figures: dict[str, Any] | None = nan_for_null(record["figures"]) if record["of"] == wanted else None
    except (ValueError, KeyError, TypeError):
        return None
    return figures


def _named(report: Report, cell: str) -> Report:
    return lambda what, done, total: report(f"{cell}: {what}", done, total)


def _row(dice: Mapping[str, Any], *others: float) -> dict[str, float]:
    lungs = _mean([dice[organ]["mean"] for organ in ("left_lung", "right_lung")])
    values = (lungs, dice["heart"]["mean"], dice["aorta"]["mean"], *others)
    return dict(zip(COLUMNS, values, strict=True))


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")
