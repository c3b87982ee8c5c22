"""The YOLO export, read back by the rules of Ultralytics' loader."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.doubles.fakes import fake, fake_head, publish_fakes
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import open_dataset
from xreal_synth.dataset.source import open_source
from xreal_synth.export.coco import CATEGORIES
from xreal_synth.export.yolo import write_yolo
from xreal_synth.storage import LocalStore
from xreal_synth.types import ExistingFinding, Sample, ShardPlan, SourceImage


@pytest.fixture(scope="module")
def yolo(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("yolo")
    source = open_source(LocalStore(dataset))
    write_yolo(source, folder, lambda done, total: None)
    counted = source.counted.summary()
    assert counted.splits == {"train": 15, "val": 1, "test": 2}
    return folder


def boxes_of(folder: Path, path: Path, names: dict[int, str]) -> list[tuple[str, list[float]]]:
    """(class, xyxy in pixels) of an image, its text file found as Ultralytics finds it: images -> labels."""
    with Image.open(path) as image:
        width, height = image.size
    found = []
    lines = folder / "labels" / path.relative_to(folder / "images").with_suffix(".txt")
    for line in lines.read_text().splitlines():
        number, cx, cy, w, h = map(float, line.split())
        assert all(0 <= value <= 1 for value in (cx, cy, w, h))
        found.append(
            (
                names[int(number)],
                [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height],
            )
        )
    return found


def test_images_and_boxes_come_back_by_split(yolo: Path, images: dict[str, Sample]) -> None:
    data = yaml.safe_load((yolo / "data.yaml").read_text())
    assert list(data)[:3] == ["train", "val", "test"]
    assert list(data["names"].values()) == list(CATEGORIES)
    assert list(data["names"]) == list(range(len(CATEGORIES)))
    assert data["provenance"]["synthetic"] is True
    seen: dict[str, int] = {}
    for split in ("train", "val", "test"):
        for path in sorted((yolo / data[split]).iterdir()):
            sample = images[path.stem]
            seen[split] = seen.get(split, 0) + 1
            with Image.open(path) as picture:
                np.testing.assert_array_equal(np.asarray(picture), sample.image)
            wanted = [(finding.name, list(box)) for finding in sample.meta.findings for box in finding.boxes]
            found = boxes_of(yolo, path, data["names"])
            assert [name for name, _ in found] == [name for name, _ in wanted]
            for (_, box), (_, right) in zip(found, wanted, strict=True):
                np.testing.assert_allclose(box, right, atol=1e-4)
    assert seen == {"train": 15, "val": 1, "test": 2}


def test_labels_that_nobody_knows_are_empty(yolo: Path, images: dict[str, Sample]) -> None:
    with (yolo / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == list(images)
    for row in rows:
        value = images[row["key"]].meta.labels["txrv18"]["Hernia"]
        assert row["txrv18.Hernia"] == ("" if value is None else str(value))
        assert (yolo / row["file"]).is_file()


def test_an_image_with_a_finding_but_no_box_is_in_no_split(tmp_path: Path) -> None:
    kept, boxed = ExistingFinding("Hernia", (4, 4, 10, 12)), fake(1, "h")
    source = SourceImage("a.png", "0" * 64, ("Hernia",), (kept,))
    positive = {"txrv18": {**boxed.meta.labels["txrv18"], "Hernia": 1}, "chexpert14": boxed.meta.labels["chexpert14"]}
    samples = [
        replace(fake(0, "h"), meta=replace(fake(0, "h").meta, labels=positive)),
        replace(boxed, meta=replace(boxed.meta, labels=positive, source=source, anatomy_source="images")),
    ]
    store = LocalStore(tmp_path / "made")
    open_dataset(store, fake_head(), "version: 1\n", lambda there, here: [])
    publish_fakes(store, ShardPlan("fakes", 0, 0, 2), samples)
    finish(store, fake_head(), split_of=lambda group: "train")
    out = tmp_path / "out"
    out.mkdir()
    write_yolo(open_source(store), out, lambda done, total: None)
    assert [path.name for path in (out / "images/train").iterdir()] == ["0000000001-h.png"]
    assert [path.name for path in (out / "unboxed/train").iterdir()] == ["0000000000-h.png"]
    assert not (out / "labels/train/0000000000-h.txt").exists()
    data = yaml.safe_load((out / "data.yaml").read_text())
    assert "val" not in data
    ((name, box),) = boxes_of(out, out / "images/train/0000000001-h.png", data["names"])
    assert name == "Hernia"
    np.testing.assert_allclose(box, kept.box, atol=1e-4)
