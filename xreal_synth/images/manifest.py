"""Images named in a data folder's manifest.csv: rows, and which are refused and why.

A data folder is a path or any fsspec URI. Image and mask are files below it, or members of the tar named in
the column `shard`. A label that is neither in `labels` nor in `unknown` (names joined by `|`) is negative.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from xreal_synth.anatomy.tables import Table, parse_table
from xreal_synth.errors import StorageError, TrainingError
from xreal_synth.escaping import from_csv
from xreal_synth.findings import NO_FINDING, image_label
from xreal_synth.images.boxes import NameOf, TableEntry, norm_box
from xreal_synth.opening import parse_json
from xreal_synth.storage import Store, checked_key
from xreal_synth.types import NormBox

MANIFEST: Final = "manifest.csv"
BOXES: Final = "boxes_xywh_norm"
TRAINING_COLUMNS: Final = ("image", "mask", "labels", "patient_id", "split")
SEPARATE_SPLITS: Final = ("train", "val", "test")
"""No patient may be in two of these."""

NO_PATIENT: Final = frozenset({"nan", "none", "null", "n/a", "<na>"})
"""What programs write where there is nothing."""
_WHOLE_NUMBER: Final = re.compile(r"(\d+)\.0+")

BESIDE_NO_FINDING: Final = frozenset({NO_FINDING, "Support Devices"})
"""Labels that an image without finding may have."""


class RowFault(StrEnum):
    """Why an image is refused, for counting; the reason beside it says what was met."""

    INCOMPLETE = "incomplete row"
    DUPLICATE = "duplicate image"
    UNSAFE_PATH = "unsafe path"
    TWO_SPLITS = "patient in two splits"
    UNKNOWN_LABEL = "unknown label"
    CONTRADICTION = "contradicting labels"
    BAD_VALUE = "value that cannot be read"
    NO_LABELS = "no row in the label table"
    MISSING = "missing file"
    UNREADABLE = "unreadable image"
    SHAPE = "image of another size"
    ONE_COLOUR = "one-colour image"
    COLOURED = "coloured picture"
    MASK_UNREADABLE = "unreadable mask"
    MASK_SHAPE = "mask of another size"
    MASK_CODE = "wrong code in the mask"
    SWAPPED = "swapped lungs"
    ANATOMY = "no usable anatomy in the mask"
    UNSURE = "segmenter too unsure"


@dataclass(frozen=True, slots=True)
class ImageBox:
    """A box round a finding on an image: its manifest name, normalised half-open xyxy."""

    name: str
    box: NormBox


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image of the manifest; "", None or nothing where the manifest has no such column.

    `image` and `mask` are names below the data folder, or in the tar `shard`. `labels` are positive, `unknown`
    neither positive nor negative, both by their names in vocab.IMAGE_LABELS.
    """

    image: str = ""
    mask: str = ""
    shard: str = ""
    labels: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    patient: str = ""
    split: str = ""
    view: str = ""
    age: str = ""
    sex: str = ""
    original_id: str = ""
    boxes: tuple[ImageBox, ...] = ()
    mask_score: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An image that is not used: which file, what kind of fault, and what was met."""

    file: str
    fault: RowFault
    reason: str


class BadImage(Exception):  # noqa: N818
    """Raised for an image that cannot be used, caught where images are collected; never reaches the user."""

    def __init__(self, fault: RowFault, reason: str) -> None:
        super().__init__(reason)
        self.fault = fault
        self.reason = reason

    def refusal(self, file: str) -> Refusal:
        """The same as a refusal of `file`."""
        return Refusal(file, self.fault, self.reason)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The rows asked for, in the manifest's order, and the rows refused."""

    rows: tuple[ImageRow, ...]
    refused: tuple[Refusal, ...]


def read_manifest(
    data: Store, needed: Collection[str] = TRAINING_COLUMNS, splits: Collection[str] | None = None
) -> Manifest:
    """The rows of `splits` (all by default); a row that lacks a `needed` value or is faulty is refused.

    Raises TrainingError if there is no manifest, it is not UTF-8, has no rows or lacks a needed column.
    """
    where = f"{data.uri}/{MANIFEST}"
    table = _table(data, where)
    missing = [name for name in needed if name not in table.columns]
    if not table.rows or missing:
        raise TrainingError(
            found=f"{where}: {'no rows' if not table.rows else 'no column ' + ', '.join(missing)}",
            wanted=f"columns {', '.join(needed)}", hint="add them",
        )  # fmt: skip
    patients = splits_of_patients((row["patient_id"], row.get("split", "")) for row in table.rows)
    rows: list[ImageRow] = []
    refused = [
        Refusal(f"{MANIFEST} line {line}", RowFault.INCOMPLETE, "more or fewer cells than columns")
        for line in table.torn
    ]
    images: set[str] = set()
    for record in table.rows:
        if splits is not None and record.get("split") not in splits:
            continue
        try:
            row = _row(data, record, needed, patients)
            if row.image and (name := f"{row.shard}:{row.image}") in images:
                raise BadImage(RowFault.DUPLICATE, "this image stands in an earlier row")
            images.add(name if row.image else "")
            rows.append(row)
        except BadImage as bad:
            refused.append(bad.refusal(record.get("image") or record.get("mask") or "(no image)"))
    return Manifest(tuple(rows), tuple(refused))


def joined_labels(text: str) -> tuple[str, ...]:
    """Label names joined by `|` -> their names in vocab.IMAGE_LABELS; raises BadImage for any other name."""
    known = {name.strip(): image_label(name.strip()) for name in text.split("|") if name.strip()}
    if strange := [given for given, name in known.items() if name is None]:
        raise BadImage(RowFault.UNKNOWN_LABEL, f"unknown label {', '.join(map(repr, strange))}")
    return tuple(dict.fromkeys(name for name in known.values() if name is not None))


def check_labels(labels: Collection[str], unknown: Collection[str]) -> None:
    """Raises BadImage where a label is positive and unknown at once, or "No Finding" stands beside one."""
    if both := set(labels) & set(unknown):
        raise BadImage(RowFault.CONTRADICTION, f"{', '.join(sorted(both))} both positive and unknown")
    if NO_FINDING in labels and (others := set(labels) - BESIDE_NO_FINDING):
        raise BadImage(RowFault.CONTRADICTION, f"{NO_FINDING} beside {', '.join(sorted(others))}")


def fault_counts(refused: Iterable[Refusal]) -> str:
    """`2 missing file, 1 one-colour image`, the most frequent first."""
    counts = Counter(refusal.fault for refusal in refused)
    return ", ".join(f"{count} {fault}" for fault, count in counts.most_common())


def patient_of(text: str) -> str:
    """A patient's id as it is compared everywhere: in one Unicode form, without blanks round it, `7` for `7.0`."""
    seen = "".join(sign for sign in unicodedata.normalize("NFKC", text) if unicodedata.category(sign) != "Cf")
    name = " ".join(seen.split())
    return "" if name.casefold() in NO_PATIENT else (whole[1] if (whole := _WHOLE_NUMBER.fullmatch(name)) else name)


def near_patients(patients: Iterable[str]) -> list[tuple[str, ...]]:
    """Ids that differ in case, blanks, hyphens or leading zeros alone, and so may be of one patient."""
    groups: dict[str, set[str]] = {}
    for patient in patients:
        bare = re.sub(r"[\s_-]", "", patient.casefold())
        groups.setdefault(re.sub(r"(?<!\d)0+(?=\d)", "", bare), set()).add(patient)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def _table(data: Store, where: str) -> Table:
    try:
        table = parse_table(data.read_bytes(MANIFEST), TRAINING_COLUMNS)
    except (StorageError, ValueError) as error:
        not_utf8 = isinstance(error, UnicodeDecodeError)
        raise TrainingError(
            found=f"{where}: {error.found if isinstance(error, StorageError) else error}",
            wanted="a UTF-8 text file" if not_utf8 else f"a {MANIFEST} in the data folder",
            hint="save it as UTF-8" if not_utf8 else "give the folder that holds it",
        ) from error
    rows = ({name: from_csv(cell) for name, cell in row.items()} for row in table.rows)
    return replace(table, rows=tuple(row | {"patient_id": patient_of(row.get("patient_id", ""))} for row in rows))


def splits_of_patients(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Of (patient, split): the splits of each patient among those that no patient may be in two of."""
    found: dict[str, set[str]] = {}
    for patient, split in pairs:
        if patient and split in SEPARATE_SPLITS:
            found.setdefault(patient, set()).add(split)
    return found


def _row(data: Store, record: dict[str, str], needed: Collection[str], patients: dict[str, set[str]]) -> ImageRow:
    _check_cells(record, needed)
    cells = defaultdict(str, record)
    patient, split = cells["patient_id"], cells["split"]
    if split in SEPARATE_SPLITS and len(patients.get(patient, ())) > 1:
        raise BadImage(
            RowFault.TWO_SPLITS, f"patient {patient} is in two splits: {', '.join(sorted(patients[patient]))}"
        )
    labels, unknown = (joined_labels(cells[name]) for name in ("labels", "unknown"))
    check_labels(labels, unknown)
    return ImageRow(
        image=name_below(data, cells["image"]), mask=name_below(data, cells["mask"]),
        shard=name_below(data, cells["shard"]), labels=labels, unknown=unknown, patient=patient, split=split,
        view=cells["view"], age=cells["age"], sex=cells["sex"], original_id=cells["original_id"],
        boxes=placed(share_boxes(cells[BOXES]), 1, 1), mask_score=mask_score(cells["mask_score"]),
    )  # fmt: skip


def _check_cells(record: dict[str, str], needed: Collection[str]) -> None:
    empty = [name for name in needed if not record[name]]
    if "labels" in empty and record.get("unknown"):
        empty.remove("labels")
    if empty:
        raise BadImage(RowFault.INCOMPLETE, f"nothing in column {', '.join(empty)}")


def name_below(data: Store, text: str) -> str:
    """A name below the data folder, "" of ""; whole paths and URIs are taken where they lie below it, else raises
    BadImage."""
    try:
        return checked_key(text.removeprefix(f"{data.uri}/")) if text else ""
    except StorageError as error:
        raise BadImage(RowFault.UNSAFE_PATH, f"{text!r} does not lie in the data folder {data.uri}") from error


def share_boxes(text: str, name_of: NameOf = image_label) -> tuple[TableEntry, ...]:
    """A cell of `boxes_xywh_norm`, a JSON list of [finding, x, y, w, h] in shares of the image; raises BadImage."""
    boxes = []
    try:
        for given, *numbers in parse_json(text or "[]"):
            x, y, w, h = map(float, numbers)
            if not all(map(math.isfinite, (x, y, w, h))):
                raise ValueError("not a box")
            name = name_of(str(given))
            if name is None:
                raise BadImage(RowFault.UNKNOWN_LABEL, f"unknown label {given!r} in {BOXES}")
            if name:
                boxes.append(TableEntry(BOXES, "", name, (x, y, x + w, y + h), (1.0, 1.0)))
    except (ValueError, TypeError) as error:
        raise BadImage(RowFault.BAD_VALUE, f"{BOXES}: {error}") from error
    return tuple(boxes)


def placed(boxes: Iterable[TableEntry], width: int, height: int) -> tuple[ImageBox, ...]:
    """Boxes as shares of an image of `width` x `height` pixels; raises BadImage for one that is not on it."""
    found = []
    for entry in boxes:
        box = norm_box(entry, (width, height))
        if isinstance(box, str):
            raise BadImage(RowFault.BAD_VALUE, box)
        found.append(ImageBox(entry.finding, box))
    return tuple(found)


def mask_score(text: str | None) -> float | None:
    """A cell of `mask_score`; raises BadImage for one that is no number."""
    try:
        return float(text) if text else None
    except ValueError as error:
        raise BadImage(RowFault.BAD_VALUE, f"mask_score is {text!r}") from error
