"""Images edited from real ones: exports say so, and keep the findings that the images came with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.doubles.fakes import fake_groups, fake_head, publish_fakes
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import open_dataset
from xreal_synth.dataset.source import Source, open_source
from xreal_synth.dataset.tar import read_samples
from xreal_synth.export.coco import write_coco
from xreal_synth.export.croissant import croissant_json
from xreal_synth.export.hf import image_row
from xreal_synth.export.txrv import SyntheticDataset
from xreal_synth.storage import LocalStore
from xreal_synth.types import ExistingFinding, Sample, ShardPlan, SourceImage

KEPT = ExistingFinding("Hernia", (40, 40, 50, 60))
MASS = ExistingFinding("Mass", (2, 2, 6, 6))


def from_image(sample: Sample) -> Sample:
    """The fake as if it were a user's own image without organ mask, or edited: its mass painted over."""
    mass = MASS if sample.meta.member == "h" else replace(MASS, removed=(0, 0, 8, 8))
    source = SourceImage("ward/a.png", "0" * 64, ("Hernia", "Mass"), (mass, KEPT))
    meta = replace(sample.meta, source=source, anatomy_source="images", anatomy_id="ward/a.png", ctr=None)
    return replace(sample, meta=meta, anatomy=np.zeros_like(sample.anatomy))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edited")
    store = LocalStore(folder)
    settings = {**fake_head().settings, "anatomy": {"source": {"images": {"content": "f" * 64}}}}
    head = replace(fake_head(), settings=settings)
    open_dataset(store, head, "version: 1\n", lambda there, here: [])
    samples = [from_image(one) for one in fake_groups(0, 4, 64)]
    publish_fakes(store, ShardPlan("fakes", 0, 0, 4), samples)
    finish(store, head)
    return folder


@pytest.fixture
def source(place: Path) -> Source:
    return open_source(LocalStore(place))


def test_coco_has_the_images_own_boxes_and_origins(source: Source, tmp_path: Path) -> None:
    write_coco(source, tmp_path, lambda done, total: None)
    reported = json.loads((tmp_path / "annotations.json").read_text())
    assert reported["info"]["synthetic"] is False
    assert "Patients' chest X-rays" in reported["info"]["description"]
    origins = {image["key"][-2:]: (image["synthetic"], image["origin"]) for image in reported["images"]}
    assert origins == {"-h": (False, "a real film"), "v0": (False, "edited from a real film")}
    names = {one["id"]: one["name"] for one in reported["categories"]}
    keys = {image["id"]: image["key"] for image in reported["images"]}
    boxes = {
        (keys[one["image_id"]], names[one["category_id"]], one["painted"]): one["bbox"]
        for one in reported["annotations"]
    }
    assert boxes == {
        **{(f"000000000{i}-h", "Mass", False): [2, 2, 4, 4] for i in range(4)},
        **{(key, "Hernia", False): [40, 40, 10, 20] for key in keys.values()},
        ("0000000001-v0", "Pneumonia", True): [16, 32, 16, 16],
        ("0000000002-v0", "Effusion", True): [16, 32, 16, 16],
    }


def test_parquet_rows_are_not_called_synthetic(place: Path) -> None:
    rows = [image_row(image) for image in read_samples(place / "shards/fakes-000000.tar")]
    assert {row["synthetic"] for row in rows} == {False}
    assert [row["origin"] for row in rows[:3]] == ["a real film", "a real film", "edited from a real film"]
    assert rows[2]["existing_findings"] == [
        {"name": "Mass", "box_xyxy": [2, 2, 6, 6], "painted_over": True},
        {"name": "Hernia", "box_xyxy": [40, 40, 50, 60], "painted_over": False},
    ]


def test_croissant_says_whose_they_are(source: Source, tmp_path: Path) -> None:
    content = croissant_json(source, tmp_path / "croissant.json", lambda done, total: None)
    reported = json.loads(content)
    assert reported["rai:dataCollectionType"] == "Real images edited by a model"
    assert "patients' images" in reported["rai:personalSensitiveInformation"]
    assert "synthetic" not in reported["keywords"]


def test_the_dataset_class_groups_by_image_and_has_its_own_boxes(place: Path) -> None:
    made = SyntheticDataset(place, pathology_masks=True, semantic_masks=True)
    assert made.csv["patientid"].nunique() == 1
    assert made.csv["patientid"].str.startswith("IMAGE-").all()
    item = made[2]
    masks = {made.pathologies[i]: mask for i, mask in item["pathology_masks"].items()}
    assert set(masks) == {"Pneumonia", "Lung Opacity", "Hernia"}
    assert masks["Hernia"].sum() == masks["Hernia"][0, 40:60, 40:50].sum() == 200
    assert item["semantic_masks"] == {}
