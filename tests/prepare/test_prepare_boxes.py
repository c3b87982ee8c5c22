"""Boxes from a source's own column or a list, through crop, pad and resize, into the manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xreal_synth.errors import TrainingError
from xreal_synth.images.manifest import ImageRow, read_manifest
from xreal_synth.prepare.choose import Choice
from xreal_synth.prepare.command import prepare
from xreal_synth.prepare.found import FolderColumns
from xreal_synth.prepare.images import Shape
from xreal_synth.prepare.run import PrepareTask
from xreal_synth.storage import LocalStore

BOX = [0.25, 0.5, 0.25, 0.25]
"""x, y, w, h in shares of the square that `wide` has in its middle."""


@pytest.fixture
def task(trees: Any, tmp_path: Path) -> PrepareTask:
    """Two images of 128 x 64 pixels, the chest in the middle, with masks; `a.png` is boxed."""
    rows = []
    for n, name in enumerate("ab"):
        image, mask = trees.pair(n)
        for folder, pixels in (("", image), ("masks/", mask)):
            path = tmp_path / f"source/{folder}{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.pad(pixels, ((0, 0), (32, 32)), mode="constant")).save(path)
        rows.append(
            {
                "image": f"{name}.png", "patient_id": n, "labels": "Pneumonia", "unknown": "Edema|Mass",
                "mask": f"masks/{name}.png", "mask_source": "hand", "mask_score": "0.75",
                "boxes_xywh_norm": json.dumps([["Pneumonia", 0.375, 0.5, 0.125, 0.25]]) if name == "a" else "",
            }
        )  # fmt: skip
    trees.table(tmp_path / "source/list.csv", rows)
    return PrepareTask(
        "folder", str(tmp_path / "source"), tmp_path / "out", Shape(32, "crop"), Choice(any_view=True),
        columns=FolderColumns(table="list.csv", mask="mask"), workers=1,
    )  # fmt: skip


def rows_of(task: PrepareTask) -> tuple[ImageRow, ...]:
    prepare(task)
    return read_manifest(LocalStore(task.out)).rows


def xywh(row: ImageRow) -> list[float]:
    ((x0, y0, x1, y1),) = (box.box for box in row.boxes)
    return [x0, y0, x1 - x0, y1 - y0]


def test_a_manifests_own_columns_come_through(task: PrepareTask) -> None:
    first, second = rows_of(task)
    assert xywh(first) == pytest.approx(BOX)
    assert first.boxes[0].name == "Pneumonia"
    assert second.boxes == ()
    assert {"Edema", "Mass"} <= set(first.unknown)
    assert (first.mask_score, second.mask_score) == (0.75, 0.75)
    assert "hand" in (task.out / "manifest.csv").read_text()
    assert rows_of(task) == (first, second)


def test_a_prepared_folder_is_a_source_again(task: PrepareTask, tmp_path: Path) -> None:
    rows = rows_of(task)
    again = replace(task, source=str(task.out), out=tmp_path / "again", shape=Shape(64, "pad", enlarge=True),
                    columns=FolderColumns(table="manifest.csv", mask="mask"))  # fmt: skip
    for before, now in zip(rows, rows_of(again), strict=True):
        assert (now.labels, now.unknown, now.boxes) == (before.labels, before.unknown, before.boxes)
        assert (now.mask_score, now.patient, now.split) == (before.mask_score, before.patient, before.split)


LISTS = {
    "corners.csv": "image,finding,x0,y0,x1,y1\na.png,Pneumonia,48,32,64,48\n",
    "sized.csv": "image,finding,x,y,w,h\na,Pneumonia,48,32,16,16\n",
    "larger.csv": "image,finding,x,y,w,h,width,height\na.png,Pneumonia,96,64,32,32,256,128\n",
    "shares.csv": "image,finding,x0n,y0n,x1n,y1n\na.png,Pneumonia,0.375,0.5,0.5,0.75\n",
    "nih.csv": "Image Index,Finding Label,Bbox [x,y,w,h],,,\na.png,Pneumonia,384,512,128,256,,,\n",
    "rsna.csv": "patientId,x,y,width,height,Target\na,384,512,128,256,1\nb,,,,,0\n",
    "vindr.csv": "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
    "a,Pneumonia,9,R9,48,32,64,48\nb,No Finding,14,R9,,,,\n",
    "coco.json": json.dumps(
        {
            "images": [{"id": 7, "file_name": "a.png", "width": 128, "height": 64}],
            "categories": [{"id": 1, "name": "Pneumonia"}],
            "annotations": [{"image_id": 7, "category_id": 1, "bbox": [48, 32, 16, 16]}],
        }
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_every_form_give_the_same_box(task: PrepareTask, name: str) -> None:
    (Path(task.source) / name).write_text(LISTS[name])
    first, second = rows_of(replace(task, boxes=name))
    assert xywh(first) == pytest.approx(BOX)
    assert second.boxes == ()


def test_a_box_is_padded_with_its_image_and_a_list_may_lie_anywhere(task: PrepareTask, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("x")
    (tmp_path / "elsewhere.csv").write_text(LISTS["corners.csv"] + "c.png,Mass,1,1,2,2\n")
    given = replace(task, shape=Shape(64, "pad"), boxes=str(tmp_path / "elsewhere.csv"))
    first, _ = rows_of(given)
    assert xywh(first) == pytest.approx([0.375, 0.5, 0.125, 0.125])
    notes = prepare(given).account["notes"]
    assert f"{tmp_path / 'elsewhere.csv'}: 1 of 2 boxes are of images not in the table" in notes


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (LISTS["corners.csv"].replace("Pneumonia", "Wet"), "'Wet'"),
        ("image,finding,x0,y0,x1,y1\nz.png,Mass,1,1,2,2\n", "no box of an image"),
        ("image,x0\n", "columns image, x0"),
        (None, "boxes.csv"),
    ],
)
def test_a_list_that_cannot_be_used_is_an_error(task: PrepareTask, text: str | None, named: str) -> None:
    if text is not None:
        (Path(task.source) / "boxes.csv").write_text(text)
    with pytest.raises(TrainingError, match=named):
        prepare(replace(task, boxes="boxes.csv"))


def test_a_list_may_have_names_of_its_own(task: PrepareTask) -> None:
    (Path(task.source) / "b.csv").write_text(LISTS["corners.csv"].replace("Pneumonia", "Wet"))
    columns = replace(task.columns, rename={"Wet": "Edema"})
    first, _ = rows_of(replace(task, boxes="b.csv", columns=columns))
    assert first.boxes[0].name == "Edema"


def test_a_box_that_is_not_on_its_image_refuses_it(task: PrepareTask) -> None:
    (Path(task.source) / "b.csv").write_text("image,finding,x0,y0,x1,y1\na.png,Mass,100,10,150,20\n")
    report = prepare(replace(task, boxes="b.csv"))
    assert [(one.file, one.reason) for one in report.found.refused] == [
        ("a.png", "b.csv, line 2: box [100.0, 10.0, 150.0, 20.0] on an image of 128 x 64")
    ]
    assert len(report.rows) == 1


def test_images_without_a_mask_get_a_drawn_one(task: PrepareTask, trees: Any, tiny_bundle: Path) -> None:
    table = Path(task.source) / "list.csv"
    table.write_text(table.read_text().replace("masks/b.png", ""))
    given = replace(task, shape=Shape(64, "crop"), segmenter=str(tiny_bundle))
    report = prepare(given)
    assert report.rows[0]["mask_source"] == "hand"
    assert report.rows[1]["mask_source"].startswith("xreal-tiny segmenter")
    assert np.array_equal(np.asarray(Image.open(task.out / "masks/a.png")), trees.pair(0)[1])
