"""CheXpert as published: train.csv, valid.csv, test.csv and train/patient00001/study1/view1_frontal.jpg, below
CheXpert-v1.0-small/ or not; or in batches, "CheXpert-v1.0 batch 2 (train 1)" and so on, with patients directly in them.
"""

from __future__ import annotations

import re

from xreal_synth.anatomy.tables import Row
from xreal_synth.errors import TrainingError
from xreal_synth.findings import CHEXPERT14
from xreal_synth.images.manifest import BadImage, RowFault
from xreal_synth.prepare.found import Blank, FoundImage, FoundImages, SourcePlace, key_of, view_of, years
from xreal_synth.prepare.labels import chexpert_labels

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
SPARED = ("Support Devices",)
"""What an image without finding may show."""
_PATH = re.compile(r"(?:[^/]+/)*?((train|valid|test)/((patient\d+)/study\d+/view\d+_(\w+)\.\w+))")


def find_chexpert(place: SourcePlace) -> FoundImages:
    """The images of train.csv and valid.csv (one may be missing)."""
    found = FoundImages()
    root, tables = _tables(place)
    for name in tables:
        table = found.read(place, name, NEEDED)
        for row in table.rows:
            with found.refusing(row["Path"] or "(no path)"):
                found.images.append(_image(dict.fromkeys(FACTS, "") | row, root, place.blank))
    return found


def _tables(place: SourcePlace) -> tuple[str, list[str]]:
    """Where the images lie, and the names of the tables that are there."""
    names = [(root, name) for root in ROOTS for name in TABLES.values()]
    root = next((root for root, name in names if place.images.exists(f"{root}{name}")), "")
    store = place.tables
    own = next((root for root, name in names if store.exists(f"{root}{name}")), None)
    if own is None:
        raise TrainingError(
            found=f"{store.uri}: none of {', '.join(TABLES.values())}, here or in {', '.join(ROOTS[1:4])}",
            wanted="CheXpert's tables",
            hint="give the folder that holds CheXpert-v1.0-small/, or --tables",
        )
    return root, [f"{own}{name}" for name in TABLES.values() if store.exists(f"{own}{name}")]


def _image(row: Row, root: str, blank: Blank) -> FoundImage:
    match = _PATH.fullmatch(row["Path"])
    if match is None:
        raise BadImage(RowFault.INCOMPLETE, "Path is not train|valid|test/patientN/studyN/viewN_*.jpg")
    path, split, below, patient, side = match.groups()
    try:
        float(row["Age"] or 0)
        labels = chexpert_labels(row, blank, SPARED)
    except ValueError as error:
        reason = "a label that is not 1, 0, -1 or empty, or an age that is no number"
        raise BadImage(RowFault.BAD_VALUE, reason) from error
    lateral = (row["Frontal/Lateral"] or side).casefold() != "frontal"
    base = root.rpartition("CheXpert-v1.0 ")[0] if BATCHES[0] in root else root
    in_batches = [f"{base}CheXpert-v1.0 {batch}/{part}" for batch in BATCHES for part in (path, below)]
    files = (f"{root}{path}", *in_batches)
    view = "LATERAL" if lateral else view_of(row["AP/PA"])
    age = "" if (given := years(row["Age"])) == "0" else given
    sex = {"male": "M", "female": "F"}.get(row["Sex"].casefold(), "")
    return FoundImage(
        key_of(path), files, patient, *labels, view=view, frontal=not lateral, age=age, sex=sex, split=SPLITS[split]
    )
