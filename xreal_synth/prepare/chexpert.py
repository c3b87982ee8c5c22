"""CheXpert as published: train.csv, valid.csv and train/patient00001/study1/view1_frontal.jpg, below
CheXpert-v1.0-small/ or not.
"""

from __future__ import annotations

import re

from xreal_synth.errors import TrainingError
from xreal_synth.findings import CHEXPERT14
from xreal_synth.images.manifest import RowFault
from xreal_synth.prepare.found import FoundImage, FoundImages, SourcePlace, frontal, key_of, years
from xreal_synth.prepare.labels import Labels, dataset_labels, open_dataset
from xreal_synth.prepare.tables import Row, Table, read_table, staged
from xreal_synth.storage import Store

LICENCE = (
    "CheXpert (Irvin et al., AAAI 2019): Stanford University School of Medicine CheXpert Dataset Research Use "
    "Agreement; non-commercial research, no redistribution of the images or of what contains them."
)
ROOTS = ("", "CheXpert-v1.0-small/", "CheXpert-v1.0/")
SPLITS = {"train": "train", "valid": "val"}
NEEDED = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT14)
_PATH = re.compile(r"(?:[^/]+/)?((train|valid)/(patient\d+)/study\d+/view\d+_\w+\.\w+)")


def find_chexpert(place: SourcePlace) -> FoundImages:
    """The images of train.csv and valid.csv (one may be missing); labels by torchxrayvision's CheX_Dataset."""
    found = FoundImages()
    root, tables = _tables(place)
    for table in tables:
        found.tables[table.name] = table.sha256
        for line in table.torn:
            found.refuse(f"{table.name} line {line}", RowFault.INCOMPLETE, "more or fewer cells than columns")
        rows = [row for row in table.rows if _usable(row, found)]
        for row, named in zip(rows, _labels(rows, table, place), strict=True):
            image = _image(row, named, root)
            found.images.append(image)
    return found


def _tables(place: SourcePlace) -> tuple[str, list[Table]]:
    root = next((root for root in ROOTS if place.images.exists(f"{root}train.csv")), None)
    root = root if root is not None else next((r for r in ROOTS if place.images.exists(f"{r}valid.csv")), "")
    store: Store = place.tables
    prefix = root if store.uri == place.images.uri else ""
    names = [f"{prefix}{split}.csv" for split in SPLITS if store.exists(f"{prefix}{split}.csv")]
    if not names:
        raise TrainingError(
            found=f"{store.uri}: neither train.csv nor valid.csv, here or in {ROOTS[1]} or {ROOTS[2]}",
            wanted="CheXpert's tables",
            hint="give the folder that holds CheXpert-v1.0-small/, or --tables",
        )
    return root, [read_table(store, name, NEEDED, place.encoding) for name in names]


def _usable(row: Row, found: FoundImages) -> bool:
    name = row["Path"]
    if _PATH.fullmatch(name) is None:
        found.refuse(
            name or "(no path)", RowFault.INCOMPLETE, "Path is not train|valid/patientN/studyN/viewN_*.jpg"
        )
        return False
    try:
        for column in CHEXPERT14:
            if row[column] and float(row[column]) not in (1, 0, -1):
                raise ValueError
        float(row["Age"])
    except ValueError:
        found.refuse(
            name, RowFault.BAD_VALUE, "a label that is not 1, 0, -1 or empty, or an age that is no number"
        )
        return False
    return True


def _labels(rows: list[Row], table: Table, place: SourcePlace) -> list[Labels]:
    """All rows staged as train/..: CheX_Dataset finds the patient behind the word that its table's path holds."""
    import torchxrayvision as xrv

    if not rows:
        return []
    renamed = [{**row, "Path": row["Path"].replace("valid/", "train/")} for row in rows]
    with staged({"train.csv": (table.columns, renamed)}) as folder:
        dataset = open_dataset(
            xrv.datasets.CheX_Dataset, imgpath=str(folder), csvpath=str(folder / "train.csv")
        )
    assert dataset.csv["Path"].tolist() == [row["Path"] for row in renamed]
    return dataset_labels(dataset, place.blank)


def _image(row: Row, named: Labels, root: str) -> FoundImage:
    match = _PATH.fullmatch(row["Path"])
    assert match is not None
    path, split, patient = match.groups()
    lateral = row["Frontal/Lateral"].strip() != "Frontal"
    age = years(row["Age"])
    return FoundImage(
        key=key_of(path),
        files=(f"{root}{path}",),
        patient=patient,
        labels=named[0],
        unknown=named[1],
        view="LATERAL" if lateral else frontal(row["AP/PA"]) or row["AP/PA"],
        age="" if age == "0" else age,
        sex={"Male": "M", "Female": "F"}.get(row["Sex"], ""),
        split=SPLITS[split],
    )
