"""What changes when one setting does: the main figures of `evaluate bundle` over a grid, a cell a folder.

Cells vary one setting at a time from a base, or all together (`cross`). A cell that has its figures is not
computed again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

from xreal_synth.evaluation.bundle import RealFilms
from xreal_synth.evaluation.judging import Judges
from xreal_synth.evaluation.request import Prepared, Request, prepare
from xreal_synth.evaluation.run import Report, figures_for, films_for, real_films
from xreal_synth.storage import LocalStore

FIGURES: Final = "figures.json"
FORMAT: Final = 2
"""Of figures.json: those of another are computed again, from the films that are there."""
BUNDLE_KEY: Final = "bundle"
COLUMNS: Final = (
    "lungs", "heart", "aorta", "MS-SSIM", "kernel x real", "Frechet x real", "sharpness", "AUC", "rises",
    "s / film",
)  # fmt: skip

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
        dice = {organ: value["mean"] for organ, value in found["dice"].items()}
        shown = found["findings"].values()
        return dict(
            zip(
                COLUMNS,
                (
                    (dice["left_lung"] + dice["right_lung"]) / 2, dice["heart"], dice["aorta"],
                    found["ms_ssim"]["mean"], _times(found["kernel"]), _times(found["frechet"]),
                    found["sharpness"]["mean"], _mean([one["auc"]["mean"] for one in shown]),
                    _mean([one["rises"]["mean"] for one in shown]),
                    (found["core_seconds"] or found["seconds"]).get("film with a finding", float("nan")),
                ),
                strict=True,
            )
        )  # fmt: skip


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
            figures = json.loads(json.dumps(found))
            store.replace(FIGURES, (json.dumps({"of": wanted, "figures": figures}, indent=1) + "\n").encode())
        yield CellFigures(cell, figures)


def write_table(rows: Sequence[CellFigures], out: Path) -> None:
    """`choices.md` and `choices.json` in `out`."""
    store = LocalStore(out)
    store.replace("choices.md", markdown(rows).encode())
    record = [{"cell": row.cell.name, "changes": dict(row.cell.changes), **row.main()} for row in rows]
    store.replace("choices.json", (json.dumps(record, indent=1) + "\n").encode())


def markdown(rows: Sequence[CellFigures]) -> str:
    """The main figures, a row a cell."""
    films = sorted({row.figures["films"] for row in rows})
    lines = [
        "| choice | " + " | ".join(COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS),
        *(
            f"| {row.cell.name} | " + " | ".join(f"{v:.3f}" for v in row.main().values()) + " |"
            for row in rows
        ),
        "",
        f"{' or '.join(map(str, films))} films a row. Dice by the judging segmenter; kernel and Frechet distance in "
        "the judging classifier's features over the same distance between real films; sharpness is power over "
        "real films in the upper half of the frequencies; AUC of the judging classifier, mean over findings; "
        "rises is the share of films that score above their healthy twin for the finding asked for; seconds a film "
        "with a finding are of CPU time where it ran on a CPU.",
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
        record = json.loads(store.read_bytes(FIGURES))
        figures: dict[str, Any] | None = record["figures"] if record["of"] == wanted else None
    except (ValueError, KeyError, TypeError):
        return None
    return figures


def _named(report: Report, cell: str) -> Report:
    return lambda what, done, total: report(f"{cell}: {what}", done, total)


def _times(distance: Mapping[str, Any]) -> float:
    real = distance["real"]["mean"]
    return distance["made"]["mean"] / real if real > 0 else float("nan")


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")
