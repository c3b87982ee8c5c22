"""Public box tables, read from the CSV files in torchxrayvision's folder without importing it."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import zipfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xreal_synth.errors import PlacementError
from xreal_synth.findings import canonical
from xreal_synth.images.manifest import ImageRow
from xreal_synth.types import NormBox

NATIVE = 1024.0
"""Both tables are in pixels of images of 1024x1024."""

ADULT = 18


@dataclass(frozen=True, slots=True)
class TableBox:
    """A box of a table: the finding's own name, view PA or AP, normalised xyxy."""

    finding: str
    view: str
    box: NormBox


def nih_boxes(without: Collection[str] = ()) -> Iterator[TableBox]:
    """NIH BBox_List_2017: boxes of adults, images named in `without` left out."""
    folder = _tables()
    views = {
        row["Image Index"]: (row["View Position"], int(row["Patient Age"]))
        for row in _rows(folder / "Data_Entry_2017_v2020.csv.gz")
    }
    with gzip.open(folder / "BBox_List_2017.csv.gz", "rt", newline="") as file:
        for image, finding, *numbers in list(csv.reader(file))[1:]:
            view, age = views[image]
            name = canonical(finding)
            assert name is not None, f"{finding} is not in findings.py"
            if age >= ADULT and image not in without:
                yield TableBox(name, view, _norm(*map(float, numbers[:4])))


def rsna_boxes() -> Iterator[TableBox]:
    """RSNA 2018: lung opacities suspicious for pneumonia, of adults, once as each of the two findings."""
    folder = _tables()
    headers = _rows(folder / "kaggle_stage_2_train_images_dicom_headers.csv.gz")
    views = {row["PatientID"]: (row["ViewPosition"], int(float(row["PatientAge"]))) for row in headers}
    with zipfile.ZipFile(folder / "kaggle_stage_2_train_labels.csv.zip") as archive:
        text = archive.read("stage_2_train_labels.csv").decode()
    for row in csv.DictReader(io.StringIO(text)):
        view, age = views[row["patientId"]]
        if row["Target"] == "1" and age >= ADULT:
            box = _norm(*(float(row[key]) for key in ("x", "y", "width", "height")))
            for name in ("Pneumonia", "Lung Opacity"):
                yield TableBox(name, view, box)


def image_boxes(rows: Iterable[ImageRow]) -> Iterator[tuple[str, str, NormBox]]:
    """(mask path, finding, normalised xyxy) of the images' own boxes, minors left out."""
    for row in rows:
        if row.split == "minor":
            continue
        for boxed in row.boxes:
            name = canonical(boxed.name)
            assert name is not None, f"{boxed.name} is not in findings.py"
            yield row.mask, name, boxed.box


def _rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def _norm(x: float, y: float, w: float, h: float) -> NormBox:
    return x / NATIVE, y / NATIVE, (x + w) / NATIVE, (y + h) / NATIVE


def _tables() -> Path:
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        raise PlacementError(
            found="torchxrayvision is not installed",
            wanted="its box tables, to fit the placement prior",
            hint="pip install torchxrayvision",
        )
    return Path(spec.origin).parent / "data"
