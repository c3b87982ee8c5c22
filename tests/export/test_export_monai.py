"""The MONAI export: the datalist as load_decathlon_datalist joins it, its files and its boxes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.doubles.fakes import fake_groups, fake_head, publish_fakes
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import open_dataset
from xreal_synth.dataset.source import open_source
from xreal_synth.export.monai import write_monai
from xreal_synth.storage import LocalStore
from xreal_synth.types import Sample, ShardPlan


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def monai(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("monai")
    source = open_source(LocalStore(dataset))
    write_monai(source, folder, lambda done, total: None)
    counted = source.counted.summary()
    assert counted.samples == 18
    return folder


def test_every_list_has_its_images_masks_and_boxes(monai: Path, images: dict[str, Sample]) -> None:
    datalist = json.loads((monai / "datalist.json").read_text())
    assert {name: len(datalist[name]) for name in ("training", "validation", "test")} == {
        "training": 15, "validation": 1, "test": 2,
    }  # fmt: skip
    for entry in (*datalist["training"], *datalist["validation"], *datalist["test"]):
        sample = images[entry["key"]]
        np.testing.assert_array_equal(read(monai / entry["image"]), sample.image)
        np.testing.assert_array_equal(read(monai / entry["label"]), sample.anatomy)
        placed = [(finding.name, list(box)) for finding in sample.meta.findings for box in finding.boxes]
        names = [datalist["box_labels"][str(number)] for number in entry["box_label"]]
        assert list(zip(names, entry["box"], strict=True)) == placed
        assert entry["labels"] == sample.meta.labels
        assert entry["synthetic"] is True
    assert (datalist["numTraining"], datalist["numTest"]) == (15, 2)
    assert datalist["labels"] == {"0": "background", "1": "left_lung", "2": "right_lung", "3": "heart", "4": "aorta"}
    assert sorted(path.name for path in monai.iterdir()) == ["datalist.json", "images", "labels"]


def test_masks_that_images_do_not_follow_are_no_labels(tmp_path: Path) -> None:
    head = replace(fake_head(), settings={**fake_head().settings, "sampling": {"control": "none"}})
    store, out = LocalStore(tmp_path / "made"), tmp_path / "out"
    open_dataset(store, head, "version: 1\n", lambda there, here: [])
    publish_fakes(store, ShardPlan("fakes", 0, 0, 2), fake_groups(0, 2))
    finish(store, head, split_of=lambda group: "train")
    out.mkdir()
    write_monai(open_source(store), out, lambda done, total: None)
    datalist = json.loads((out / "datalist.json").read_text())
    assert "test" not in datalist
    assert [("label" in entry, entry["image"]) for entry in datalist["training"]] == [
        (False, f"images/train/{key}.png") for key in ("0000000000-h", "0000000001-h", "0000000001-v0")
    ]
    assert not (out / "labels").exists()
