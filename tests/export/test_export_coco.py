"""The COCO export, read back by pycocotools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays
from PIL import Image

from xreal_synth import findings as vocab
from xreal_synth.dataset.source import open_source
from xreal_synth.export.coco import run_lengths, write_coco
from xreal_synth.storage import LocalStore
from xreal_synth.types import Sample

pycocotools = pytest.importorskip("pycocotools")


@pytest.fixture(scope="module")
def coco(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    seen: list[tuple[int, int]] = []
    source = open_source(LocalStore(dataset))
    write_coco(source, folder, lambda done, total: seen.append((done, total)))
    counted = source.counted.summary()
    assert counted.samples == 18
    assert counted.splits == {"train": 15, "val": 1, "test": 2}
    assert seen == [(done, 18) for done in range(1, 19)]
    return folder


def test_images_masks_and_boxes_come_back(coco: Path, images: dict[str, Sample]) -> None:
    from pycocotools.coco import COCO

    read = COCO(str(coco / "annotations.json"))
    assert {image["key"] for image in read.loadImgs(read.getImgIds())} == set(images)
    regions = 0
    for image in read.loadImgs(read.getImgIds()):
        sample = images[image["key"]]
        with Image.open(coco / "images" / image["file_name"]) as picture:
            assert picture.mode == "L"
            np.testing.assert_array_equal(np.asarray(picture), sample.image)
        assert (image["labels"], image["member"]) == (sample.meta.labels, sample.meta.member)
        reported = read.loadAnns(read.getAnnIds(image["id"]))
        boxes = [box for finding in sample.meta.findings for box in finding.boxes]
        assert [one["bbox"] for one in reported] == [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in boxes]
        shown = np.zeros_like(sample.image)
        for one in reported:
            mask = read.annToMask(one)
            assert mask.shape == sample.image.shape
            assert mask.sum() == one["area"] > 0
            shown |= mask
            regions += 1
        np.testing.assert_array_equal(shown, sample.pathology > 0)
    assert regions == 5 + 2 + 3


def test_the_folder_says_where_names_of_files_start(coco: Path) -> None:
    said = (coco / "README.md").read_text()
    assert "`file_name` starts below `images/`" in said
    assert "Synthetic chest X-rays" in said


def test_a_region_is_whole_below_a_later_one(coco: Path) -> None:
    from pycocotools.coco import COCO

    read = COCO(str(coco / "annotations.json"))
    (image,) = (one for one in read.dataset["images"] if one["key"] == "0000000008-v0")
    first, second = read.loadAnns(read.getAnnIds(image["id"]))
    assert (first["area"], second["area"]) == (16 * 16, 12 * 16)
    names = {one["id"]: one["name"] for one in read.dataset["categories"]}
    assert (names[first["category_id"]], names[second["category_id"]]) == ("Pneumonia", "Atelectasis")


def test_results_score_as_perfect_against_themselves(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(coco / "annotations.json"))
    results = truth.loadRes([{**one, "score": 0.9} for one in truth.dataset["annotations"]])
    for kind in ("bbox", "segm"):
        judged = COCOeval(truth, results, kind)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
        assert judged.stats[0] == pytest.approx(1.0)
    assert "Average Precision" in capsys.readouterr().out


def test_split_files_share_ids_with_the_whole(coco: Path) -> None:
    whole = json.loads((coco / "annotations.json").read_text())
    assert sorted(path.name for path in coco.iterdir()) == [
        "README.md", "annotations.json", "annotations_test.json", "annotations_train.json",
        "annotations_val.json", "images",
    ]  # fmt: skip
    for kind in ("images", "annotations"):
        parts = [
            json.loads((coco / f"annotations_{split}.json").read_text())[kind] for split in ("train", "val", "test")
        ]
        assert sorted(one["id"] for part in parts for one in part) == [one["id"] for one in whole[kind]]
    (only,) = json.loads((coco / "annotations_val.json").read_text())["images"]
    assert only["file_name"] == "val/0000000000-h.png"


def test_the_file_says_what_it_is(coco: Path) -> None:
    head = json.loads((coco / "annotations_train.json").read_text())
    assert head["info"]["synthetic"] is True
    assert "not for diagnosis" in head["info"]["description"]
    assert head["info"]["digest"] == "d" * 64
    assert head["licenses"][0]["id"] == 1
    assert [one["name"] for one in head["categories"]] == [
        *vocab.FINDINGS, "Hernia", "Fracture", "Enlarged Cardiomediastinum", "Pleural Other", "Support Devices",
    ]  # fmt: skip
    parents = {one["name"]: one["supercategory"] for one in head["categories"]}
    assert parents["Pneumonia"] == "Lung Opacity"
    assert parents["Pneumothorax"] == "finding"


@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)))
@settings(max_examples=60, deadline=None)
def test_run_lengths_are_pycocotools_own(mask: np.ndarray) -> None:
    from pycocotools import mask as coco_mask

    reported = run_lengths(mask)
    assert sum(reported["counts"]) == mask.size  # type: ignore[arg-type]
    assert all(count > 0 for count in reported["counts"][1:])  # type: ignore[index]
    encoded = coco_mask.frPyObjects(reported, *mask.shape)
    np.testing.assert_array_equal(coco_mask.decode(encoded), mask)
    assert encoded["counts"] == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
