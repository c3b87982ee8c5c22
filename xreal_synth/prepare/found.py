"""Images found in a source: those with labels, and what it left out, before a pixel is read; and the reading of its CSV
tables from any store."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from xreal_synth.anatomy.tables import Table, parse_table
from xreal_synth.errors import StorageError, TrainingError
from xreal_synth.findings import image_label
from xreal_synth.images.boxes import BadBoxes, TableEntry, boxes_by_image, read_entries
from xreal_synth.images.manifest import BOXES, BadImage, Refusal, RowFault
from xreal_synth.opening import unzipped
from xreal_synth.recipe.kinds import near
from xreal_synth.storage import Store, open_store, sha256_bytes
from xreal_synth.uris import is_remote

Kind = Literal["nih", "mimic", "chexpert", "folder"]
Blank = Literal["unknown", "negative"]
FRONTAL: Final = ("PA", "AP")

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_KEY = 80
SHOWN: Final = 10
_SLASH = "--"
_AGE = re.compile(r"[>~]?\s*(\d+(?:[.,]\d+)?)\s*\+?\s*(?:([YMWD])[A-Z]*\.?)?(?:\s*OLD)?")
_PER_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}
_OLDEST = 130
_VIEWS = {
    "PA": re.compile(r"PA|POSTERO[ -]?ANTERIOR"),
    "AP": re.compile(r"(AP|ANTERO[ -]?POSTERIOR)([ _-](SUPINE|ERECT|SEMI-?ERECT|PORTABLE|HORIZONTAL|SITTING))?"),
}


USUAL: Final = {
    "image": "image", "patient": "patient_id", "labels": "labels", "unknown": "unknown", "view": "view", "age": "age",
    "sex": "sex", "mask": "", "mask_source": "mask_source", "mask_score": "mask_score", "boxes": BOXES, "split": "",
}  # fmt: skip
"""What FolderColumns takes a column to be called that it does not name; "" for one that is not read then."""


@dataclass(frozen=True, slots=True)
class FolderColumns:
    """Names of columns in a table of one's own, "" for the usual; `rename` maps its label names to the project's.

    `boxes` is of the manifest's form; `mask_source` and `mask_score` are carried where `mask` is.
    """

    table: str = ""
    image: str = ""
    patient: str = ""
    labels: str = ""
    unknown: str = ""
    view: str = ""
    age: str = ""
    sex: str = ""
    mask: str = ""
    mask_source: str = ""
    mask_score: str = ""
    boxes: str = ""
    split: str = ""
    separator: str = "|"
    rename: Mapping[str, str] = field(default_factory=dict)

    def name_of(self, label: str) -> str | None:
        """The manifest's name of a label of this table, None where it is not known, "" where it is left out."""
        renamed = self.rename.get(label, label)
        return image_label(renamed) if renamed or not label else ""

    def names(self) -> dict[str, str]:
        """Each column's name, the usual one where none is given."""
        return {role: getattr(self, role) or usual for role, usual in USUAL.items()}

    def among(self, present: Sequence[str]) -> FolderColumns:
        """All columns by their names in a table that has `present`, the usual ones in any case and without regard to
        blanks and `_`. TrainingError tells of all at once that are named or needed, and absent."""
        names: dict[str, Any] = self.names()
        alike = {_letters(column): column for column in reversed(present)}
        for role, usual in USUAL.items():
            if usual and not getattr(self, role) and usual not in present:
                names[role] = alike.get(_letters(usual), usual)
        asked = [role for role in USUAL if getattr(self, role) or role in ("image", "patient")]
        if absent := [role for role in asked if names[role] not in present]:
            unused = [column for column in present if column not in names.values()]
            hints = [f"--{role}-column: {near(names[role], unused) or 'name one of them'}" for role in absent]
            raise TrainingError(
                found=f"{self.table}: no column {', '.join(names[role] for role in absent)}; its columns are "
                f"{', '.join(present)}",
                wanted="columns that the table has",
                hint=", ".join(hints),
            )
        return replace(self, **names)


@dataclass(frozen=True, slots=True)
class SourcePlace:
    """The place of a source: the store of its images, that of its tables, and how its tables are read.

    `boxes` names a list that is read instead of the boxes that the source itself has. `blank` is what an empty
    cell in a column of labels means; -1 is always unknown.
    """

    images: Store
    tables: Store
    encoding: str = "utf-8-sig"
    blank: Blank = "unknown"
    columns: FolderColumns = field(default_factory=FolderColumns)
    boxes: str = ""


@dataclass(frozen=True, slots=True)
class FoundImage:
    """One image of a source. `key` names what is made of it; of `files` the first that exists is read.

    `frontal` is True where the source says so without saying which. `boxes` are as a list has them; `mask` and
    `split` are given where the source has its own, with the mask's source and certainty where they are known.
    """

    key: str
    files: tuple[str, ...]
    patient: str
    labels: tuple[str, ...]
    unknown: tuple[str, ...]
    view: str = ""
    frontal: bool = False
    age: str = ""
    sex: str = ""
    boxes: tuple[TableEntry, ...] = ()
    mask: str = ""
    mask_source: str = ""
    mask_score: float | None = None
    split: str = ""

    @property
    def name(self) -> str:
        """The source's name that messages and tables show: its first file."""
        return self.files[0]


@dataclass(slots=True)
class FoundImages:
    """Everything a source's tables say: images in their order, faulty rows, and rows that were not asked for."""

    images: list[FoundImage] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    tables: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def refuse(self, file: str, fault: RowFault, reason: str) -> None:
        """Notes a file that cannot be used, with its kind of fault and the reason in words."""
        self.refused.append(Refusal(file, fault, reason))

    def read(self, place: SourcePlace, name: str, needed: Sequence[str], likely: Sequence[str] = ()) -> Table:
        """A table of the source, noted; its rows with more or fewer cells are refused. Raises TrainingError."""
        table, self.tables[name] = read_table(place.tables, name, needed, place.encoding, likely)
        for line in table.torn:
            self.refuse(f"{name} line {line}", RowFault.INCOMPLETE, "more or fewer cells than columns")
        return table

    def box(self, data: bytes, name: str, columns: FolderColumns) -> bool:
        """Gives the images the boxes of a list in place of their own; whether there is one. Raises TrainingError."""
        try:
            entries = read_entries(data, name, columns.name_of)
        except BadBoxes as bad:
            raise TrainingError(
                found="\n    ".join(bad.problems[:SHOWN]),
                wanted="boxes of findings (xreal_synth/prepare/README.md)",
                hint="correct the list, or name its findings with --rename 'Yours=Effusion'",
            ) from bad
        boxes, strangers = boxes_by_image(entries, [image.name for image in self.images])
        if strangers:
            self.notes.append(f"{name}: {strangers} of {len(entries)} boxes are of images not in the table")
        self.images = [replace(image, boxes=tuple(boxes.get(image.name, ()))) for image in self.images]
        return strangers < len(entries)

    @contextmanager
    def refusing(self, name: str) -> Iterator[None]:
        """Refuses the file `name` where the block raises BadImage."""
        try:
            yield
        except BadImage as bad:
            self.refused.append(bad.refusal(name))


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


def key_of(name: str) -> str:
    """A file name that is safe everywhere, without dots (they part a tar's members).

    `a/b.png` -> `a--b`; a name that needs more change than that gets a hash. Names that differ in an image's suffix
    alone have one key: `hashed_key` tells them apart.
    """
    path = PurePosixPath(name)
    stem = str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else name
    key = _UNSAFE.sub("_", stem.replace("/", _SLASH)).strip("_")
    if key.replace(_SLASH, "/") == stem and len(key) <= _LONGEST_KEY:
        return key
    return hashed_key(key, name)


def hashed_key(key: str, name: str) -> str:
    """The key with the name's hash."""
    return f"{key[:_LONGEST_KEY]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def view_of(view: str) -> str:
    """PA or AP of a view as sets and archives write it, any other as it is."""
    name = view.strip().upper()
    return next((known for known, written in _VIEWS.items() if written.fullmatch(name)), view)


def years(age: str) -> str:
    """`58` of `58`, `58.0`, `058Y`, `58 years` or 696 months; "" where no age of a person can be read."""
    match = _AGE.fullmatch(age.strip().upper())
    if match is None:
        return ""
    found = int(float(match[1].replace(",", ".")) / _PER_YEAR[match[2] or ""])
    return str(found) if found <= _OLDEST else ""


def first_name(store: Store, names: Sequence[str], what: str) -> str:
    """The first of `names` that the store has, plain or with .gz; raises TrainingError."""
    for name in names:
        for candidate in (name, f"{name}.gz"):
            if store.exists(candidate):
                return candidate
    raise TrainingError(
        found=f"{store.uri}: none of {', '.join(names)} (nor .gz)",
        wanted=what,
        hint="give the folder that holds it; --tables names another place for the tables alone",
    )


def read_table(
    store: Store, name: str, needed: Sequence[str], encoding: str = "utf-8-sig", likely: Sequence[str] = ()
) -> tuple[Table, str]:
    """A table, gzipped if its name ends in .gz, and its file's sha256; `likely` columns too tell its separator.

    Raises TrainingError: unreadable, no rows, needed columns missing.
    """
    where = f"{store.uri}/{name}"
    try:
        data = store.read_bytes(name)
        plain = unzipped(data) if name.endswith(".gz") else data
        table = parse_table(plain, (*needed, *likely), encoding)
    except (StorageError, ValueError, LookupError) as error:
        raise _unreadable(where, encoding, error) from error
    missing = [column for column in needed if column not in table.columns]
    if missing or not table.rows:
        raise TrainingError(
            found=f"{where}: {'no column ' + ', '.join(missing) if missing else 'no rows'}"
            + (f"; its columns are {', '.join(table.columns)}" if missing and table.columns else ""),
            wanted=f"a table with {'the columns ' + ', '.join(needed) if needed else 'rows'}",
            hint="give the set's own table, or name your columns (--help)",
        )
    return table, sha256_bytes(data)


def read_beside(store: Store, name: str) -> bytes:
    """A file that the user named: beside the tables, or at any path or URI. Raises TrainingError."""
    try:
        if not (is_remote(name) or ".." in name or Path(name).is_absolute()) and store.exists(name):
            return store.read_bytes(name)
        folder, _, last = name.rpartition("/")
        return open_store(folder or ("/" if name.startswith("/") else ".")).read_bytes(last)
    except StorageError as error:
        raise TrainingError(
            found=error.found, wanted=f"a file in {store.uri}, or at the path or URI given", hint="correct the path"
        ) from error


def _unreadable(where: str, encoding: str, error: Exception) -> TrainingError:
    found = error.found if isinstance(error, StorageError) else f"{where}: {error}"
    wanted, hint = "a readable CSV table", "correct the path or the file"
    if isinstance(error, UnicodeDecodeError):
        found = f"{where}: byte {error.start} is not {encoding}"
        wanted = "a table in UTF-8, or in the encoding named"
        hint = "save it as UTF-8 or give its encoding, e.g. --encoding latin-1"
    elif isinstance(error, LookupError):
        found, wanted, hint = (f"encoding {encoding!r}", "an encoding that Python knows", "e.g. latin-1, cp1252")
    return TrainingError(found=found, wanted=wanted, hint=hint)
