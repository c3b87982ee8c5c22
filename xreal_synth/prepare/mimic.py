"""MIMIC-CXR as published: files/p10/p10000032/s50414267/DICOM_ID.jpg (MIMIC-CXR-JPG) or .dcm (MIMIC-CXR).

The tables are MIMIC-CXR-JPG's: mimic-cxr-2.0.0-metadata, -chexpert and -split, .csv or .csv.gz.
"""

from __future__ import annotations

from dataclasses import replace

from xreal_synth.anatomy.tables import Row, Table
from xreal_synth.errors import TrainingError
from xreal_synth.findings import CHEXPERT14
from xreal_synth.images.manifest import BadImage, RowFault, patient_of
from xreal_synth.prepare.found import Blank, FoundImage, FoundImages, SourcePlace, first_name, key_of, view_of
from xreal_synth.prepare.labels import Labels, chexpert_labels

LICENCE = (
    "MIMIC-CXR (Johnson et al., Scientific Data 2019): PhysioNet Credentialed Health Data License; the images and "
    "what is derived from them may be shared with credentialed users only."
)
PREFIX = "mimic-cxr-2.0.0"
ROOTS = ("", "mimic-cxr-jpg/2.0.0/", "mimic-cxr-jpg/2.1.0/", "files/mimic-cxr-jpg/2.0.0/", "files/mimic-cxr-jpg/2.1.0/")
"""Where the tables lie below the folder given, as PhysioNet's own tree has them."""
IMAGE_ROOTS = (*ROOTS, "mimic-cxr/2.0.0/", "mimic-cxr/2.1.0/", "files/mimic-cxr/2.0.0/", "files/mimic-cxr/2.1.0/")
ENDINGS = (".jpg", ".dcm", ".png")
FIRST_IMAGES = 20
METADATA = ("dicom_id", "subject_id", "study_id", "ViewPosition")
LABELS = ("subject_id", "study_id", *CHEXPERT14)
SPLITS = {"train": "train", "validate": "val", "test": "test"}


def find_mimic(place: SourcePlace) -> FoundImages:
    """The images of the metadata table with the labels of their studies, in the order of the label table."""
    found = FoundImages()
    labels, metadata = (
        _table(place, part, columns, found) for part, columns in (("chexpert", LABELS), ("metadata", METADATA))
    )
    studies: list[tuple[tuple[str, str], Labels]] = []
    for row in labels.rows:
        with found.refusing(f"study {row['study_id']}"):
            studies.append((_study(row), _labels(row, place.blank)))
    of_study: dict[tuple[str, str], list[Row]] = {study: [] for study, _ in studies}
    images: list[Row] = []
    for row in metadata.rows:
        if not row["dicom_id"].strip() or not _numbered(row):
            found.refuse(row["dicom_id"] or "(no dicom_id)", RowFault.INCOMPLETE, "no dicom_id, subject_id or study_id")
        elif _study(row) not in of_study:
            found.refuse(_path(row), RowFault.NO_LABELS, f"study {row['study_id']} is not in the label table")
        else:
            images.append(row)
            of_study[_study(row)].append(row)
    splits, places = _splits(place, found), _places(place, images)
    for study, named in studies:
        found.images += [_image(row, named, splits, places) for row in of_study[study]]
    return found


def _table(place: SourcePlace, part: str, needed: tuple[str, ...], found: FoundImages) -> Table:
    name = first_name(place.tables, [f"{root}{PREFIX}-{part}.csv" for root in ROOTS], f"MIMIC-CXR-JPG's {part} table")
    table = found.read(place, name, needed)
    ids = [name for name in ("subject_id", "study_id") if name in table.columns]
    return replace(table, rows=tuple(row | {name: patient_of(row[name]) for name in ids} for row in table.rows))


def _study(row: Row) -> tuple[str, str]:
    return row["subject_id"], row["study_id"]


def _path(row: Row) -> str:
    subject, study = _study(row)
    return f"files/p{subject[:2]}/p{subject}/s{study}/{row['dicom_id']}"


def _numbered(row: Row) -> bool:
    return row["subject_id"].isdigit() and row["study_id"].isdigit()


def _labels(row: Row, blank: Blank) -> Labels:
    reason = "a label that is not 1, 0, -1 or empty, or an id that is no number"
    if not _numbered(row):
        raise BadImage(RowFault.BAD_VALUE, reason)
    try:
        return chexpert_labels(row, blank)
    except ValueError as error:
        raise BadImage(RowFault.BAD_VALUE, reason) from error


def _splits(place: SourcePlace, found: FoundImages) -> dict[str, str]:
    """The official split by image; nothing where its table is missing."""
    try:
        table = _table(place, "split", ("dicom_id", "split"), found)
    except TrainingError as error:
        if "none of" not in error.found:
            raise
        found.notes.append(f"no {PREFIX}-split.csv: no official splits")
        return {}
    return {row["dicom_id"]: SPLITS.get(row["split"], row["split"]) for row in table.rows}


def _places(place: SourcePlace, images: list[Row]) -> list[tuple[str, str]]:
    """Roots and endings of images, first those that the first image at hand has."""
    every = [(root, ending) for ending in ENDINGS for root in IMAGE_ROOTS]
    for row in images[:FIRST_IMAGES]:
        for root, ending in every:
            if place.images.exists(f"{root}{_path(row)}{ending}"):
                own = [(root, one) for one in ENDINGS if one != ending]
                return [(root, ending), *own, *(one for one in every if one[0] != root)]
    return every


def _image(row: Row, named: Labels, splits: dict[str, str], places: list[tuple[str, str]]) -> FoundImage:
    path = _path(row)
    files = tuple(f"{root}{path}{ending}" for root, ending in places)
    name, view = row["dicom_id"], view_of(row["ViewPosition"])
    return FoundImage(key_of(name), files, row["subject_id"], *named, view=view, split=splits.get(name, ""))
