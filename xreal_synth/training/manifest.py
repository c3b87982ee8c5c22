"""Training films named in a manifest CSV: rows, and what is refused and why."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from xreal_synth.errors import TrainingError

COLUMNS = ("image", "mask", "labels", "patient_id", "split")
KNOWN_LABELS = frozenset(
    {
        *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis"),
        *("Hernia", "Infiltration", "Mass", "No Finding", "Nodule", "Pleural_Thickening", "Pneumonia"),
        "Pneumothorax",
    }
)
SPLITS = ("train", "val")


@dataclass(frozen=True, slots=True)
class FilmRow:
    """One film of the manifest: its files, patient, split, and the labels that are positive."""

    image: Path
    mask: Path
    patient: str
    split: str
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A film that is not used: which file, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Rows of the training and validation splits, and the rows refused."""

    rows: tuple[FilmRow, ...]
    refused: tuple[Refusal, ...]


def read_manifest(folder: Path) -> Manifest:
    """Read `folder/manifest.csv`; rows of other splits than train and val are left out."""
    path = folder / "manifest.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(
            found=f"{path}: {error}",
            wanted="a manifest.csv in the data folder",
            mend="give the folder that holds it",
        ) from error
    missing = [name for name in COLUMNS if table and name not in table[0]]
    if not table or missing:
        raise TrainingError(
            found=f"{path}: {'no rows' if not table else 'no column ' + ', '.join(missing)}",
            wanted=f"columns {', '.join(COLUMNS)}",
            mend="add them",
        )
    splits: dict[str, set[str]] = {}
    for record in table:
        splits.setdefault(record["patient_id"], set()).add(record["split"])
    rows: list[FilmRow] = []
    refused: list[Refusal] = []
    for record in table:
        if record["split"] not in SPLITS:
            continue
        reason = _fault(record, splits[record["patient_id"]])
        if reason:
            refused.append(Refusal(record["image"], reason))
        else:
            rows.append(_row(folder, record))
    return Manifest(tuple(rows), tuple(refused))


def _fault(record: dict[str, str], splits: set[str]) -> str:
    empty = [name for name in COLUMNS if not record[name]]
    if empty:
        return f"nothing in column {', '.join(empty)}"
    if len(splits & set(SPLITS)) > 1:
        return f"patient {record['patient_id']} is in two splits: {', '.join(sorted(splits))}"
    unknown = sorted(set(record["labels"].split("|")) - KNOWN_LABELS)
    if unknown:
        return f"unknown label {', '.join(map(repr, unknown))}"
    return ""


def _row(folder: Path, record: dict[str, str]) -> FilmRow:
    return FilmRow(
        image=folder / record["image"],
        mask=folder / record["mask"],
        patient=record["patient_id"],
        split=record["split"],
        labels=frozenset(record["labels"].split("|")),
    )
