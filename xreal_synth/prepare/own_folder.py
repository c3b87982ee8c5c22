"""A folder of images with a table of its own, whose columns are named by options."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Final

from xreal_synth.anatomy.tables import Row, Table
from xreal_synth.errors import TrainingError
from xreal_synth.findings import ALIASES, IMAGE_LABELS, NO_FINDING
from xreal_synth.images.manifest import (
    BadImage,
    RowFault,
    check_labels,
    mask_score,
    name_below,
    patient_of,
    share_boxes,
)
from xreal_synth.prepare.found import (
    SHOWN,
    SUFFIXES,
    USUAL,
    Blank,
    FolderColumns,
    FoundImage,
    FoundImages,
    SourcePlace,
    key_of,
    view_of,
    years,
)
from xreal_synth.prepare.labels import HEALTHY, Labels, named_labels
from xreal_synth.recipe.kinds import near
from xreal_synth.storage import Store
from xreal_synth.uris import local_folder

LICENCE = "The images' own; state it in the bundle that is trained on them."
_TRUTH: Final = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
_NAMES: Final = (*IMAGE_LABELS, *ALIASES)


def find_folder(place: SourcePlace) -> FoundImages:
    """The rows of the table: labels joined in one column, or one column of 1, 0, -1 a finding.

    In a joined column, a name that the table uses anywhere and a row leaves out is negative there; names that
    it never uses are unknown. Several rows of an image, as lists of findings have them, are one image with what
    any of them says; it is refused where they disagree. A view that is given must be frontal; without views every
    image is taken.
    """
    file, found = place.columns.table, FoundImages()
    table = found.read(place, file, (), [name for name in place.columns.names().values() if name])
    columns = place.columns.among(table.columns)
    reader = _FolderReader(table, columns, place.blank)
    rows: dict[str, list[Row]] = {}
    for row in table.rows:
        name = row[columns.image]
        with found.refusing(name or "(no image)"):
            rows.setdefault(_inside(name, place.images), []).append(row)
    for path, own in rows.items():
        with found.refusing(path):
            found.images.append(_image(path, own, reader, place.images))
    absent = [what for what, column in (("ages", columns.age), ("views", columns.view)) if column not in table.columns]
    if absent:
        unless = "nobody is left out for them, unless a DICOM file says them"
        found.notes.append(f"{file}: no column of {' or '.join(absent)}: {unless}")
    if reader.unused and place.boxes != file:
        shown, more = ", ".join(reader.unused[:SHOWN]), len(reader.unused) - SHOWN
        found.notes.append(f"{file}: columns that are not used: {shown}{f' and {more} more' if more > 0 else ''}")
    if further := sum(len(own) - 1 for own in rows.values()):
        found.notes.append(f"{file}: {further} rows are further ones of an image, and merged")
    if unread := [age for row in table.rows if (age := row.get(columns.age, "")) and not years(age)]:
        found.notes.append(f"{file}: {len(unread)} ages cannot be read, e.g. {unread[0]!r}; taken as not known")
    return found


class _FolderReader:
    """How this table says which labels an image has; raises TrainingError where it cannot."""

    def __init__(self, table: Table, columns: FolderColumns, blank: Blank) -> None:
        self.columns = columns
        self._blank = 0.0 if blank == "negative" else math.nan
        self._joined = columns.labels in table.columns
        self._findings = {column: name for column in table.columns if (name := columns.name_of(column))}
        self.unused = [column for column in table.columns if column and self._is_unused(column)]
        strange = {} if self._joined else {name: close for name in self.unused if (close := near(name, _NAMES, 0.8))}
        if strange or not (self._joined or self._findings):
            reported = f"{', '.join(strange)} among the findings" if strange else f"no column {columns.labels}"
            rename = "name the column with --labels-column, or findings with --rename 'Your name=Effusion'"
            raise TrainingError(
                found=f"{columns.table}: {reported}; its columns are {', '.join(table.columns)}",
                wanted="a column of joined label names, or columns named like findings with 1, 0, -1 or nothing",
                hint=" ".join(
                    [*(f"{name}: {close}" for name, close in strange.items()), f"{rename}; 'Your name=' leaves one out"]
                ),
            )
        names = list(self._findings.values())
        if not self._joined and (twice := sorted({name for name in names if names.count(name) > 1})):
            raise TrainingError(
                found=f"{columns.table}: several columns mean {', '.join(twice)}", wanted="one column a finding",
                hint="leave one out with --rename 'Your column='",
            )  # fmt: skip
        self._used = self._used_names(table) if self._joined else ()

    def _is_unused(self, column: str) -> bool:
        """Whether nothing is read from this column, though it is not said to be left out."""
        columns, roles = self.columns, set(USUAL) - ({"unknown"} if not self._joined else set())
        if not columns.mask:
            roles -= {"mask_source", "mask_score"}
        if any(column == getattr(columns, role) for role in roles) or columns.name_of(column) == "":
            return False
        return self._joined or column not in self._findings

    def labels(self, rows: Sequence[Row]) -> Labels:
        if not self._joined:
            return self._from_columns(rows)
        given, unsure = (
            [name for row in rows for name in self._split(row.get(column, ""))]
            for column in (self.columns.labels, self.columns.unknown)
        )
        positive, unknown = ([name for name in dict.fromkeys(names) if name] for names in (given, unsure))
        check_labels(positive, unknown)
        if not given and not unsure:
            raise BadImage(RowFault.INCOMPLETE, f"nothing in column {self.columns.labels}")
        if NO_FINDING in positive and "" in given:
            raise BadImage(RowFault.CONTRADICTION, f"{NO_FINDING} beside a label that is left out")
        values = {name: math.nan if name in unknown else float(name in positive) for name in self._used}
        healthy = False if "" in given else None if NO_FINDING in unknown else NO_FINDING in positive or None
        return named_labels(values, healthy)

    def _from_columns(self, rows: Sequence[Row]) -> Labels:
        values = {name: self._merged(column, rows) for column, name in self._findings.items()}
        healthy = HEALTHY.get(values.pop(NO_FINDING, math.nan))
        positive = [name for name, value in values.items() if value == 1]
        check_labels([*positive, *([NO_FINDING] if healthy else [])], ())
        return named_labels(values, healthy)

    def _merged(self, column: str, rows: Sequence[Row]) -> float:
        """What the rows of an image say in a column: 1, 0, or NaN for -1; rows without a word say what others do."""
        said = {self._value(column, row[column]) for row in rows if row[column]}
        if len(said) > 1:
            raise BadImage(RowFault.CONTRADICTION, f"its {len(rows)} rows do not agree on {column}")
        value = said.pop() if said else self._blank
        return math.nan if value == -1 else value

    def _value(self, column: str, text: str) -> float:
        value = _TRUTH.get(text.casefold(), math.nan)
        if math.isnan(value):
            with suppress(ValueError):
                value = float(text.replace(",", "."))
        if value not in (1, 0, -1):
            raise BadImage(RowFault.BAD_VALUE, f"{column} is {text!r}, wanted 1, 0, -1 or nothing")
        return value

    def _used_names(self, table: Table) -> tuple[str, ...]:
        cells = (cell for row in table.rows for cell in (row[self.columns.labels], row.get(self.columns.unknown, "")))
        used = {self.columns.name_of(part.strip()) for cell in cells for part in cell.split(self.columns.separator)}
        return tuple(name for name in IMAGE_LABELS if name in used and name != NO_FINDING)

    def _split(self, cell: str) -> tuple[str, ...]:
        given = [part.strip() for part in cell.split(self.columns.separator) if part.strip()]
        names = {part: self.columns.name_of(part) for part in given}
        strange = [part for part, name in names.items() if name is None]
        if strange:
            reported = ", ".join(map(repr, strange))
            raise BadImage(
                RowFault.UNKNOWN_LABEL,
                f"unknown label {reported} (--rename '{strange[0]}=NAME'; '{strange[0]}=' leaves it out)",
            )
        return tuple(name for name in names.values() if name is not None)


def _image(path: str, rows: Sequence[Row], reader: _FolderReader, images: Store) -> FoundImage:
    columns = reader.columns
    patient = _one(rows, columns.patient, patient_of)
    if not patient:
        raise BadImage(RowFault.INCOMPLETE, f"nothing in column {columns.patient}")
    labels, view = reader.labels(rows), view_of(_one(rows, columns.view))
    mask = _one(rows, columns.mask) if columns.mask else ""
    cells = dict.fromkeys(row.get(columns.boxes, "") for row in rows)
    return FoundImage(
        key_of(path),
        _spellings(path),
        patient,
        *labels,
        view=view,
        age=years(_one(rows, columns.age)),
        sex=_one(rows, columns.sex),
        boxes=tuple(box for cell in cells for box in share_boxes(cell, columns.name_of)),
        mask=_inside(mask, images) if mask else "",
        mask_source=_one(rows, columns.mask_source) if mask else "",
        mask_score=mask_score(_one(rows, columns.mask_score)) if mask else None,
        split=_one(rows, columns.split) if columns.split else "",
    )


def _one(rows: Sequence[Row], column: str, same: Callable[[str], str] = str) -> str:
    """What the rows of an image say in a column; raises BadImage where they disagree."""
    said = {cell: None for row in rows if (cell := same(row.get(column, "")))}
    if len(said) > 1:
        raise BadImage(RowFault.CONTRADICTION, f"its rows say {' and '.join(map(repr, said))} in column {column}")
    return next(iter(said), "")


def _spellings(path: str) -> tuple[str, ...]:
    """The names that a file may have: in either Unicode form, and with a suffix where the table leaves it out."""
    forms = dict.fromkeys((path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))))
    if PurePosixPath(path).suffix.lower() in SUFFIXES:
        return tuple(forms)
    return (*forms, *(f"{form}{suffix}" for form in forms for suffix in SUFFIXES))


def _inside(text: str, images: Store) -> str:
    """A name below the images' folder, as tables write it: whole paths, file URIs and backslashes are taken."""
    if not text:
        raise BadImage(RowFault.INCOMPLETE, "nothing in the column of images")
    path = str(local_folder(text)) if text.startswith("file:") else text.replace("\\", "/")
    return str(PurePosixPath(name_below(images, path)))
