"""A folder of films with a table of its own, whose columns are named by options."""

from __future__ import annotations

import math
from functools import partial
from pathlib import PurePosixPath

from xreal_synth.anatomy.manifest import BadFilm, Fault, check_labels, mask_score, share_boxes
from xreal_synth.errors import StorageError, TrainingError
from xreal_synth.storage import Store, checked_key
from xreal_synth.training.prepare.found import (
    Blank,
    FolderColumns,
    Found,
    Place,
    SourceFilm,
    frontal,
    key_of,
    years,
)
from xreal_synth.training.prepare.labels import Labels, named_labels
from xreal_synth.training.prepare.tables import Row, Table, read_table
from xreal_synth.vocab import FILM_LABELS, NO_FINDING

LICENCE = "The films' own; state it in the bundle that is trained on them."
NO_VIEW = ""


def find_folder(place: Place) -> Found:
    """The rows of the table: labels joined in one column, or one column of 1, 0, -1 a finding.

    In a joined column, a name that the table uses anywhere and a row leaves out is negative there; names that
    it never uses are unknown. A view that is given must be frontal; without views every film is taken.
    """
    columns = place.columns
    table = read_table(place.tables, columns.table, (columns.image, columns.patient), place.encoding)
    reader = _Reader(table, columns, place.blank)
    found = Found(tables={table.name: table.sha256})
    for line in table.torn:
        found.refuse(f"{table.name} line {line}", Fault.INCOMPLETE, "more or fewer cells than columns")
    for row in table.rows:
        name = row[columns.image]
        found.collect(name or "(no image)", partial(_film, row, reader, place.films))
    return found


class _Reader:
    """How this table says which labels a film has; raises TrainingError where it cannot."""

    def __init__(self, table: Table, columns: FolderColumns, blank: Blank) -> None:
        self.columns = columns
        self._blank = 0.0 if blank == "negative" else math.nan
        self._joined = columns.labels in table.columns
        self._findings = {
            column: name for column in table.columns if (name := self._name(column)) is not None
        }
        missing = [name for name in (columns.mask, columns.split) if name and name not in table.columns]
        if missing or not (self._joined or self._findings):
            raise TrainingError(
                found=f"{table.name}: no column {', '.join(missing or [columns.labels])}; its columns are "
                f"{', '.join(table.columns)}",
                wanted="a column of joined label names, or columns named like findings with 1, 0, -1 or nothing",
                mend="name the column with --labels-column, or findings with --rename 'Your name=Effusion'",
            )
        self._used = self._used_names(table) if self._joined else ()

    def labels(self, row: Row) -> Labels:
        if not self._joined:
            return self._from_columns(row)
        positive, unknown = (
            self._split(row.get(name, "")) for name in (self.columns.labels, self.columns.unknown)
        )
        check_labels(positive, unknown)
        if not positive and not unknown:
            raise BadFilm(Fault.INCOMPLETE, f"nothing in column {self.columns.labels}")
        values = [math.nan if name in unknown else float(name in positive) for name in self._used]
        healthy = None if NO_FINDING in unknown else NO_FINDING in positive or None
        return named_labels(self._used, values, healthy)

    def _from_columns(self, row: Row) -> Labels:
        values = {name: self._value(column, row[column]) for column, name in self._findings.items()}
        healthy = {1.0: True, 0.0: False}.get(values.pop(NO_FINDING, math.nan))
        positive = [name for name, value in values.items() if value == 1]
        check_labels([*positive, *([NO_FINDING] if healthy else [])], ())
        return named_labels(list(values), list(values.values()), healthy)

    def _value(self, column: str, text: str) -> float:
        try:
            value = float(text) if text.strip() else self._blank
        except ValueError:
            value = 2.0
        if value not in (1, 0, -1) and not math.isnan(value):
            raise BadFilm(Fault.BAD_VALUE, f"{column} is {text!r}, wanted 1, 0, -1 or nothing")
        return math.nan if value == -1 else value

    def _used_names(self, table: Table) -> tuple[str, ...]:
        cells = (
            cell
            for row in table.rows
            for cell in (row[self.columns.labels], row.get(self.columns.unknown, ""))
        )
        used = {self._name(part.strip()) for cell in cells for part in cell.split(self.columns.separator)}
        return tuple(name for name in FILM_LABELS if name in used and name != NO_FINDING)

    def _split(self, cell: str) -> tuple[str, ...]:
        given = [part.strip() for part in cell.split(self.columns.separator) if part.strip()]
        names = {part: self._name(part) for part in given}
        strange = [part for part, name in names.items() if name is None]
        if strange:
            raise BadFilm(Fault.UNKNOWN_LABEL, f"unknown label {', '.join(map(repr, strange))}")
        return tuple(dict.fromkeys(name for name in names.values() if name is not None))

    def _name(self, text: str) -> str | None:
        return self.columns.name_of(text)


def _film(row: Row, reader: _Reader, films: Store) -> SourceFilm:
    columns = reader.columns
    if not row[columns.image].strip() or not row[columns.patient].strip():
        raise BadFilm(Fault.INCOMPLETE, f"nothing in column {columns.image} or {columns.patient}")
    path = _inside(row[columns.image], films)
    labels, unknown = reader.labels(row)
    view = row.get(columns.view, NO_VIEW)
    mask = row[columns.mask].strip() if columns.mask else ""
    return SourceFilm(
        key=key_of(path),
        files=(path,),
        patient=row[columns.patient],
        labels=labels,
        unknown=unknown,
        view=frontal(view) or view,
        age=years(row.get(columns.age, "")),
        sex=row.get(columns.sex, ""),
        boxes=share_boxes(row.get(columns.boxes, ""), columns.name_of),
        mask=_inside(mask, films) if mask else "",
        mask_source=row.get(columns.mask_source, "") if mask else "",
        mask_score=mask_score(row.get(columns.mask_score, "")) if mask else None,
        split=row[columns.split] if columns.split else "",
    )


def _inside(text: str, films: Store) -> str:
    path = text.strip().removeprefix(f"{films.uri}/")
    try:
        return str(PurePosixPath(checked_key(path)))
    except StorageError as error:
        raise BadFilm(Fault.UNSAFE_PATH, f"{text!r} does not lie in {films.uri}") from error
