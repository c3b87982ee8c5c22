"""NIH ChestX-ray14 as published: images_001/images/*.png, Data_Entry_2017*.csv, BBox_List_2017.csv.

`official` splits: patients of test_list.txt are test; those of train_val_list.txt are parted 7 to 1 by hash.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from xreal_synth.findings import NO_FINDING, image_label
from xreal_synth.images.manifest import BadImage, ImageBox, RowFault, joined_labels
from xreal_synth.prepare.found import FoundImage, FoundImages, SourcePlace, frontal, key_of, years
from xreal_synth.prepare.labels import Labels, dataset_labels, open_dataset
from xreal_synth.prepare.splits import Shares, split_of
from xreal_synth.prepare.tables import Row, Table, first_name, read_table, staged
from xreal_synth.storage import Store

LICENCE = (
    "NIH ChestX-ray14 (Wang et al., CVPR 2017): no restrictions on use; cite the paper, acknowledge the NIH "
    "Clinical Center as data provider and link to its download site."
)
ENTRIES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOXES = "BBox_List_2017.csv"
BOX_SIDE = 1024.0
FOLDERS = ("images", *(f"images_{number:03d}/images" for number in range(1, 13)))
NEEDED = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")
SEX = ("Patient Gender", "Patient Sex")
TRAIN_AND_VAL = Shares(0.875, 0.125)


def find_nih(place: SourcePlace) -> FoundImages:
    """The images of the entry table; labels by torchxrayvision's NIH_Dataset."""
    found = FoundImages()
    table = read_table(
        place.tables, first_name(place.tables, ENTRIES, "NIH's entry table"), NEEDED, place.encoding
    )
    found.tables[table.name] = table.sha256
    rows = [_clean(row) for row in _usable(table, found)]
    labels, boxes = _read(place, table, rows, found)
    files, test = _files(place.images), _test_patients(place.tables, rows)
    for row, named in zip(rows, labels, strict=True):
        found.collect(row["Image Index"], partial(_image, row, named, files, boxes, test))
    named_images = {row["Image Index"] for row in table.rows}
    if strangers := sum(name not in named_images for name in files):
        found.left_out["image without a row in the entry table"] = strangers
    return found


def _usable(table: Table, found: FoundImages) -> list[Row]:
    """Rows with an image and labels that are known; torchxrayvision would take any other for negative."""
    usable: list[Row] = []
    for line in table.torn:
        found.refuse(f"{table.name} line {line}", RowFault.INCOMPLETE, "more or fewer cells than columns")
    for row in table.rows:
        name = row["Image Index"]
        try:
            if not name or not row["Patient ID"] or not row["Finding Labels"]:
                raise BadImage(RowFault.INCOMPLETE, "no image, patient or labels")
            named = joined_labels(row["Finding Labels"])
            if NO_FINDING in named and len(named) > 1:
                raise BadImage(RowFault.CONTRADICTION, f"{NO_FINDING} beside other labels")
            usable.append(row)
        except BadImage as bad:
            found.refused.append(bad.refusal(name or f"{table.name}: a row without image"))
    return usable


def _clean(row: Row) -> Row:
    return {**row, "Patient Age": years(row["Patient Age"])}


def _read(
    place: SourcePlace, table: Table, rows: list[Row], found: FoundImages
) -> tuple[list[Labels], dict[str, list[ImageBox]]]:
    import torchxrayvision as xrv

    files = {"entries.csv": (table.columns, rows)}
    own_boxes = next((name for name in (BOXES, f"{BOXES}.gz") if place.tables.exists(name)), None)
    if own_boxes:
        listed = read_table(place.tables, own_boxes, ("Image Index", "Finding Label"), place.encoding)
        found.tables[listed.name] = listed.sha256
        files["boxes.csv"] = (listed.columns, list(listed.rows))
    else:
        found.notes.append(f"no {BOXES}: the copy in torchxrayvision is used")
    if not rows:
        return [], {}
    with staged(files) as folder:
        more = {"bbox_list_path": str(folder / "boxes.csv")} if own_boxes else {}
        dataset = open_dataset(
            xrv.datasets.NIH_Dataset, imgpath=str(folder), csvpath=str(folder / "entries.csv"), **more
        )
    assert dataset.csv["Image Index"].tolist() == [row["Image Index"] for row in rows]
    healthy = [row["Finding Labels"] == NO_FINDING for row in rows]
    return dataset_labels(dataset, place.blank, healthy), _boxes(dataset.pathology_maskscsv)


def _boxes(table: Any) -> dict[str, list[ImageBox]]:
    boxes: dict[str, list[ImageBox]] = {}
    columns = ["Image Index", "Finding Label", "x", "y", "w", "h"]
    for image, label, *numbers in table[columns].itertuples(index=False):
        name = image_label(str(label))
        x, y, w, h = (float(number) / BOX_SIDE for number in numbers)
        if name is not None:
            boxes.setdefault(str(image), []).append(ImageBox(name, (x, y, x + w, y + h)))
    return boxes


def _files(images: Store) -> dict[str, str]:
    """Every image's key in the store by its name."""
    return {key.rpartition("/")[2]: key for folder in FOLDERS for key in images.list(folder)}


def _test_patients(tables: Store, rows: list[Row]) -> set[str] | None:
    """Patients of the official test list, None where there is no list."""
    if not tables.exists("test_list.txt"):
        return None
    named = set(tables.read_bytes("test_list.txt").decode().split())
    return {row["Patient ID"] for row in rows if row["Image Index"] in named}


def _image(
    row: Row, named: Labels, files: dict[str, str], boxes: dict[str, list[ImageBox]], test: set[str] | None
) -> FoundImage:
    name, patient = row["Image Index"], row["Patient ID"]
    if name not in files:
        raise BadImage(RowFault.MISSING, f"not in {FOLDERS[0]}/ nor in {FOLDERS[1]}/ to {FOLDERS[-1]}/")
    split = ""
    if test is not None:
        split = "test" if patient in test else split_of(patient, TRAIN_AND_VAL)
    return FoundImage(
        key=key_of(name),
        files=(files[name],),
        patient=patient,
        labels=named[0],
        unknown=named[1],
        view=frontal(row["View Position"]) or row["View Position"],
        age=row["Patient Age"],
        sex=next((row[column] for column in SEX if column in row), ""),
        boxes=tuple(boxes.get(name, ())),
        split=split,
    )
