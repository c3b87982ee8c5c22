"""CheXpert as published: train.csv, valid.csv, test.csv and train/patient00001/study1/view1_frontal.jpg, below
CheXpert-v1.0-small/ or not; or in batches, "CheXpert-v1.0 batch 2 (train 1)" and so on, with patients directly in them.
"""

from __future__ import annotations

import re

from xreal_synth.anatomy.tables import Row
from xreal_synth.errors import TrainingError
from xreal_synth.findings import CHEXPERT14
from xreal_synth.images.manifest import RowFault
from xreal_synth.prepare.found import FoundImage, FoundImages, SourcePlace, frontal, key_of, years
from xreal_synth.prepare.labels import Labels, dataset_labels, open_dataset
from xreal_synth.prepare.tables import SourceTable, read_table, staged
from xreal_synth.storage import Store

LICENCE = (
    "CheXpert (Irvin et al., AAAI 2019): Stanford University School of Medicine CheXpert Dataset Research Use "
    "Agreement; non-commercial research, no redistribution of the images or of what contains them."
)
BATCHES = ("batch 1 (validate & csv)", *(f"batch {n + 1} (train {n})" for n in (1, 2, 3)))
_TREES = ("", "CheXpert-v1.0-small/", "CheXpert-v1.0/")
ROOTS = (*_TREES, *(f"{tree}CheXpert-v1.0 {BATCHES[0]}/" for tree in _TREES))
TABLES = {"train": "train.csv", "valid": "valid.csv", "test": "test.csv", "test labels": "test_labels.csv"}
SPLITS = {"train": "train", "valid": "val", "test": "test"}
NEEDED = ("Path", *CHEXPERT14)
FACTS = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
"""Columns that the test split's table lacks."""
_PATH = re.compile(r"(?:[^/]+/)*?((train|valid|test)/((patient\d+)/study\d+/view\d+_(\w+)\.\w+))")


def find_chexpert(place: SourcePlace) -> FoundImages:
    """The images of train.csv and valid.csv (one may be missing); labels by torchxrayvision's CheX_Dataset."""
    found = FoundImages()
    root, tables = _tables(place)
    for table in tables:
        found.read(table)
        rows = [row for row in (dict.fromkeys(FACTS, "") | row for row in table.rows) if _usable(row, found)]
        for row, named in zip(rows, _labels(rows, table, place), strict=True):
            found.images.append(_image(row, named, root))
    return found


def _tables(place: SourcePlace) -> tuple[str, list[SourceTable]]:
    names = [(root, name) for root in ROOTS for name in TABLES.values()]
    root = next((root for root, name in names if place.images.exists(f"{root}{name}")), "")
    store: Store = place.tables
    own = next((root for root, name in names if store.exists(f"{root}{name}")), None)
    if own is None:
        raise TrainingError(
            found=f"{store.uri}: none of {', '.join(TABLES.values())}, here or in {', '.join(ROOTS[1:4])}",
            wanted="CheXpert's tables",
            hint="give the folder that holds CheXpert-v1.0-small/, or --tables",
        )
    tables = [f"{own}{name}" for name in TABLES.values() if store.exists(f"{own}{name}")]
    return root, [read_table(store, name, NEEDED, place.encoding) for name in tables]


def _usable(row: Row, found: FoundImages) -> bool:
    name = row["Path"]
    if _PATH.fullmatch(name) is None:
        found.refuse(
            name or "(no path)",
            RowFault.INCOMPLETE,
            "Path is not train|valid|test/patientN/studyN/viewN_*.jpg",
        )
        return False
    try:
        for column in CHEXPERT14:
            if row[column] and float(row[column]) not in (1, 0, -1):
                raise ValueError
        float(row["Age"] or 0)
    except ValueError:
        found.refuse(
            name, RowFault.BAD_VALUE, "a label that is not 1, 0, -1 or empty, or an age that is no number"
        )
        return False
    return True


def _labels(rows: list[Row], table: SourceTable, place: SourcePlace) -> list[Labels]:
    """All rows staged as train/..: CheX_Dataset finds the patient behind the word that its table's path holds."""
    import torchxrayvision as xrv

    if not rows:
        return []
    renamed = [{**row, "Path": _staged_path(row)} for row in rows]
    columns = tuple(dict.fromkeys((*table.columns, *FACTS)))
    with staged({"train.csv": (columns, renamed)}) as folder:
        dataset = open_dataset(
            xrv.datasets.CheX_Dataset, imgpath=str(folder), csvpath=str(folder / "train.csv")
        )
    assert dataset.csv["Path"].tolist() == [row["Path"] for row in renamed]
    return dataset_labels(dataset, place.blank)


def _staged_path(row: Row) -> str:
    match = _PATH.fullmatch(row["Path"])
    assert match is not None
    return f"CheXpert-v1.0-small/train/{match[3]}"


def _image(row: Row, named: Labels, root: str) -> FoundImage:
    match = _PATH.fullmatch(row["Path"])
    assert match is not None
    path, split, below, patient, side = match.groups()
    lateral = (row["Frontal/Lateral"] or side).casefold() != "frontal"
    base = root.rpartition("CheXpert-v1.0 ")[0] if BATCHES[0] in root else root
    in_batches = [f"{base}CheXpert-v1.0 {batch}/{part}" for batch in BATCHES for part in (path, below)]
    age = years(row["Age"])
    return FoundImage(
        key=key_of(path),
        files=(f"{root}{path}", *in_batches),
        patient=patient,
        labels=named[0],
        unknown=named[1],
        view="LATERAL" if lateral else frontal(row["AP/PA"]) or row["AP/PA"],
        frontal=not lateral,
        age="" if age == "0" else age,
        sex={"male": "M", "female": "F"}.get(row["Sex"].casefold(), ""),
        split=SPLITS[split],
    )
