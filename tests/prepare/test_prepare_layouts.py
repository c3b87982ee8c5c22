"""Public sets as they are really published: batches, trees beside each other, rows a box, flat folders, links."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xreal_synth.prepare.chexpert import BATCHES, find_chexpert
from xreal_synth.prepare.choose import Choice, choose
from xreal_synth.prepare.command import prepare
from xreal_synth.prepare.found import FolderColumns, FoundImages, SourcePlace
from xreal_synth.prepare.images import Shape
from xreal_synth.prepare.mimic import find_mimic
from xreal_synth.prepare.nih import find_nih
from xreal_synth.prepare.run import PrepareTask
from xreal_synth.storage import LocalStore


def place(root: Path, tables: Path | None = None) -> SourcePlace:
    return SourcePlace(LocalStore(root), LocalStore(tables or root))


def there(found: FoundImages, root: Path) -> int:
    """Images whose file exists."""
    return sum(any((root / name).is_file() for name in image.files) for image in found.images)


@pytest.mark.parametrize("below", ["", "CheXpert-v1.0/"])
def test_chexpert_in_batches(trees: Any, tmp_path: Path, below: str) -> None:
    trees.chexpert(tmp_path / "as published")
    batches = [tmp_path / f"set/{below}CheXpert-v1.0 {name}" for name in BATCHES]
    for batch in batches:
        batch.mkdir(parents=True)
    for table in ("train.csv", "valid.csv"):
        (tmp_path / "as published" / table).rename(batches[0] / table)
    (tmp_path / "as published/valid").rename(batches[0] / "valid")
    for n, patient in enumerate(sorted((tmp_path / "as published/train").iterdir())):
        patient.rename(batches[1 + n % 3] / patient.name)
    found = find_chexpert(place(tmp_path / "set"))
    assert (len(found.images), there(found, tmp_path / "set")) == (8, 8)


def test_chexperts_test_split_has_labels_alone(trees: Any, tmp_path: Path) -> None:
    trees.chexpert(tmp_path)
    with (tmp_path / "valid.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for n, side in enumerate(("frontal", "lateral")):
        rows.append(rows[0] | {"Path": f"CheXpert-v1.0/test/patient6474{n}/study1/view1_{side}.jpg"})
        trees.image(tmp_path / f"test/patient6474{n}/study1/view1_{side}.jpg", 70 + n)
    kept = [name for name in rows[0] if name not in ("Sex", "Age", "Frontal/Lateral", "AP/PA")]
    trees.table(tmp_path / "test.csv", [{name: row[name] for name in kept} for row in rows[1:]])
    found = find_chexpert(place(tmp_path))
    assert there(found, tmp_path) == len(found.images) == 10
    chosen = choose(found, Choice(splits="official"))
    assert [one.patient for one in chosen if one.split == "test"] == ["patient64740"]
    assert found.left_out["view LATERAL"] == 2


@pytest.mark.parametrize("ending", [".jpg", ".dcm"])
def test_mimics_two_trees(trees: Any, tmp_path: Path, ending: str) -> None:
    trees.mimic(tmp_path / "made", ending)
    tables, images = tmp_path / "physionet/mimic-cxr-jpg/2.0.0", tmp_path / "physionet/mimic-cxr/2.0.0"
    tables.mkdir(parents=True)
    images.mkdir(parents=True)
    for table in (tmp_path / "made").glob("*.csv.gz"):
        table.rename(tables / table.name)
    (tmp_path / "made/files").rename((images if ending == ".dcm" else tables) / "files")
    found = find_mimic(place(tmp_path / "physionet"))
    assert (len(found.images), there(found, tmp_path / "physionet")) == (7, 7)
    apart = images if ending == ".dcm" else tables
    assert there(find_mimic(place(apart, tables)), apart) == 7


def test_mimics_numbers_may_have_been_floats(trees: Any, tmp_path: Path) -> None:
    import gzip

    trees.mimic(tmp_path)
    wanted = [(image.patient, image.labels, image.files) for image in find_mimic(place(tmp_path)).images]
    for table in tmp_path.glob("*chexpert.csv.gz"):
        with gzip.open(table, "rt", newline="") as file:
            rows = list(csv.DictReader(file))
        named = [row | {name: f"{row[name]}.0" for name in ("subject_id", "study_id")} for row in rows]
        trees.table(table, named)
    found = find_mimic(place(tmp_path))
    assert found.refused == []
    assert [(image.patient, image.labels, image.files) for image in found.images] == wanted


@pytest.mark.parametrize("layout", ["flat", "linked", "one folder", "parts without images"])
def test_nih_as_people_keep_it(trees: Any, tmp_path: Path, layout: str) -> None:
    root = trees.nih(tmp_path / "set")
    parts = [root / "images_001", root / "images_002"]
    if layout == "linked":
        for part in parts:
            part.rename(tmp_path / part.name)
            part.symlink_to(tmp_path / part.name)
    else:
        for part in parts:
            target = {"flat": root, "one folder": root / "images", "parts without images": part}[layout]
            target.mkdir(exist_ok=True)
            for image in (part / "images").iterdir():
                image.rename(target / image.name)
            (part / "images").rmdir()
    source = replace(place(root), images=LocalStore(root, farm=True))
    found = find_nih(source)
    assert (len(found.images), found.refused) == (10, [])
    assert there(found, root) == 10


def detector_set(trees: Any, root: Path, vindr: bool) -> None:
    """Four DICOMs named without suffix in a table of a row a box: two boxed, one twice, two healthy."""
    for n in range(4):
        (root / "train").mkdir(parents=True, exist_ok=True)
        suffix = ".dicom" if vindr else ".dcm"
        (root / f"train/f{n}{suffix}").write_bytes(trees.dicom(trees.pair(80 + n)[0]))
    if vindr:
        head = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
        rows = [
            "f0,Pleural effusion,10,R8,16,32,32,48", "f0,Cardiomegaly,3,R9,16,16,48,48", "f0,Other lesion,9,R9,1,1,9,9",
            "f1,Pneumothorax,12,R8,32,8,48,16", "f2,No finding,14,R1,,,,", "f2,No finding,14,R2,,,,",
            "f3,No finding,14,R1,,,,",
        ]  # fmt: skip
    else:
        head = "patientId,x,y,width,height,Target"
        rows = ["f0,256,512,256,256,1", "f0,600,512,128,256,1", "f1,512,128,256,128,1", "f2,,,,,0", "f3,,,,,0"]
    (root / "train/table.csv").write_text("\n".join([head, *rows]) + "\n")


@pytest.mark.parametrize("vindr", [True, False])
def test_tables_of_a_row_a_box(trees: Any, tiny_bundle: Path, tmp_path: Path, vindr: bool) -> None:
    detector_set(trees, tmp_path / "set", vindr)
    own = (
        {"image": "image_id", "patient": "image_id", "labels": "class_name", "rename": {"Other lesion": ""}}
        if vindr
        else {"image": "patientId", "patient": "patientId", "rename": {"Target": "Pneumonia"}}
    )
    columns = FolderColumns(table="table.csv", **own)  # type: ignore[arg-type]
    report = prepare(
        PrepareTask("folder", str(tmp_path / "set/train"), tmp_path / "out", Shape(64, "crop"), Choice(any_view=True),
             columns=columns, boxes="table.csv", segmenter=str(tiny_bundle), workers=1)
    )  # fmt: skip
    assert report.found.refused == []
    rows = {row["original_id"]: row for row in report.rows}
    labels = {name: set(filter(None, row["labels"].split("|"))) for name, row in rows.items()}
    boxes = {name: row["boxes_xywh_norm"].count("[") - 1 for name, row in rows.items()}
    assert all(row["view"] == "AP" for row in report.rows)
    if vindr:
        assert labels == {"f0": {"Effusion", "Cardiomegaly"}, "f1": {"Pneumothorax"}, "f2": {"No Finding"},
                          "f3": {"No Finding"}}  # fmt: skip
        assert "No Finding" not in rows["f0"]["unknown"]
        assert '["Effusion", 0.25, 0.5, 0.25, 0.25]' in rows["f0"]["boxes_xywh_norm"]
    else:
        assert labels == {"f0": {"Pneumonia"}, "f1": {"Pneumonia"}, "f2": set(), "f3": set()}
        assert "Pneumonia" not in rows["f2"]["unknown"]
        assert '["Pneumonia", 0.25, 0.5, 0.25, 0.25]' in rows["f0"]["boxes_xywh_norm"]
    assert boxes == {"f0": 2, "f1": 1, "f2": -1, "f3": -1}


def test_the_audit_tells_of_leaks_and_of_what_is_unlike_the_rest(trees: Any, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    rows = [row | {"split": "train" if n < 20 else "val", "pid": f"P{n}"} for n, row in
            enumerate(trees.folder(tmp_path / "set", 24))]  # fmt: skip
    images = tmp_path / "set/images"
    again = np.asarray(Image.open(images / "f1.png")) * 0.8 + 20
    Image.fromarray(again.astype(np.uint8)).save(images / "f21.png")
    Image.fromarray((np.asarray(Image.open(images / "f2.png")) // 6 + 210).astype(np.uint8)).save(images / "f2.png")
    rows[5]["pid"], rows[6]["pid"] = "p7", "P07"
    trees.table(tmp_path / "set/list.csv", rows)
    columns = FolderColumns(table="list.csv", image="file", patient="pid", labels="report", mask="mask",
                            split="split", rename={"pleural fluid": "Effusion"})  # fmt: skip
    report = prepare(PrepareTask("folder", str(tmp_path / "set"), tmp_path / "out", Shape(64, "crop"),
                          Choice("official", any_view=True), columns=columns, workers=1))  # fmt: skip
    audit = report.account["audit"]
    assert audit["alike_across_splits"] == [["images/f1.png", "images/f21.png"]]
    assert [one["file"] for one in audit["outliers"]] == ["images/f2.png"]
    assert audit["patients_across_splits"] == []
    assert audit["positives_by_split_and_view"]["Edema"] == {"train PA": 5, "val PA": 1}
    (note,) = (note for note in report.account["notes"] if "may be one" in note)
    assert "'P07' and 'P7' and 'p7'" in note
