"""NIH ChestX-ray14 as published: images_001/images/*.png, Data_Entry_2017*.csv, BBox_List_2017.csv.

`official` splits: patients of test_list.txt are test; those of train_val_list.txt are parted 7 to 1 by hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xreal_synth.anatomy.tables import Row
from xreal_synth.findings import NO_FINDING, TXRV18
from xreal_synth.images.manifest import BadImage, RowFault, joined_labels, patient_of
from xreal_synth.opening import unzipped
from xreal_synth.prepare.choose import Shares, split_of
from xreal_synth.prepare.found import FoundImage, FoundImages, SourcePlace, first_name, key_of, view_of, years
from xreal_synth.prepare.labels import named_labels
from xreal_synth.storage import Store, sha256_bytes

LICENCE = (
    "NIH ChestX-ray14 (Wang et al., CVPR 2017): no restrictions on use; cite the paper, acknowledge the NIH "
    "Clinical Center as data provider and link to its download site."
)
ENTRIES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOXES = ("BBox_List_2017.csv", "BBox_List_2017.csv.gz", "BBox_List_2017_Official_NIH.csv")
_PARTS = [f"images_{number:03d}" for number in range(1, 13)]
FOLDERS = ("images", *(f"{part}/images" for part in _PARTS), *_PARTS, "images/images", "")
SUFFIXES = (".png", ".jpg", ".jpeg")
NEEDED = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")
FINDINGS = sorted(TXRV18[:14])
"""Those that NIH's tables know."""
SEX = ("Patient Gender", "Patient Sex")
TRAIN_AND_VAL = Shares(0.875, 0.125)


def find_nih(place: SourcePlace) -> FoundImages:
    """The images of the entry table; a finding that it does not name is negative."""
    found = FoundImages()
    entries = first_name(place.tables, ENTRIES, "NIH's entry table")
    table = found.read(place, entries, NEEDED)
    rows = _usable(table.rows, entries, found)
    files, test = _files(place.images), _test_patients(place.tables, rows)
    for row in rows:
        with found.refusing(row["Image Index"]):
            found.images.append(_image(row, files, test))
    named_images = {row["Image Index"] for row in table.rows}
    if strangers := sum(name not in named_images for name in files):
        found.left_out["image without a row in the entry table"] = strangers
    if not place.boxes:
        _add_boxes(place, found)
    return found


def _usable(rows: Sequence[Row], table: str, found: FoundImages) -> list[Row]:
    """Rows with an image and labels that are known."""
    usable: list[Row] = []
    for row in rows:
        name = row["Image Index"]
        with found.refusing(name or f"{table}: a row without image"):
            if not name or not patient_of(row["Patient ID"]) or not row["Finding Labels"]:
                raise BadImage(RowFault.INCOMPLETE, "no image, patient or labels")
            named = joined_labels(row["Finding Labels"])
            if NO_FINDING in named and len(named) > 1:
                raise BadImage(RowFault.CONTRADICTION, f"{NO_FINDING} beside other labels")
            cleaned = {"Finding Labels": "|".join(named), "Patient ID": patient_of(row["Patient ID"])}
            usable.append(row | cleaned | {"Patient Age": years(row["Patient Age"])})
    return usable


def _add_boxes(place: SourcePlace, found: FoundImages) -> None:
    """The set's own list, or torchxrayvision's copy of it."""
    import torchxrayvision as xrv

    listed = next((name for name in BOXES if place.tables.exists(name)), None)
    if listed is None:
        found.notes.append(f"no {BOXES[0]}: the copy in torchxrayvision is used")
        data = unzipped((Path(xrv.datasets.datapath) / f"{BOXES[0]}.gz").read_bytes())
    else:
        data = place.tables.read_bytes(listed)
        found.tables[listed] = sha256_bytes(data)
        data = unzipped(data) if listed.endswith(".gz") else data
    found.box(data, BOXES[0], place.columns)


def _files(images: Store) -> dict[str, str]:
    """Every image's key in the store by its name."""
    keys = (key for folder in reversed(FOLDERS) for key in images.list(folder))
    return {key.rpartition("/")[2]: key for key in keys if key.lower().endswith(SUFFIXES)}


def _test_patients(tables: Store, rows: list[Row]) -> set[str] | None:
    """Patients of the official test list, None where there is no list."""
    if not tables.exists("test_list.txt"):
        return None
    named = set(tables.read_bytes("test_list.txt").decode().split())
    return {row["Patient ID"] for row in rows if row["Image Index"] in named}


def _image(row: Row, files: dict[str, str], test: set[str] | None) -> FoundImage:
    name, patient = row["Image Index"], row["Patient ID"]
    if name not in files:
        raise BadImage(RowFault.MISSING, f"not in {FOLDERS[0]}/, nor in {FOLDERS[1]}/ to {FOLDERS[12]}/")
    given = row["Finding Labels"].split("|")
    labels = named_labels({finding: float(finding in given) for finding in FINDINGS}, given == [NO_FINDING])
    split = ""
    if test is not None:
        split = "test" if patient in test else split_of(patient, TRAIN_AND_VAL)
    view, age = view_of(row["View Position"]), row["Patient Age"]
    sex = next((row[column] for column in SEX if column in row), "")
    return FoundImage(key_of(name), (files[name],), patient, *labels, view=view, age=age, sex=sex, split=split)
