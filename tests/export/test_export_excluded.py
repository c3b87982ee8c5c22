"""excluded.csv is honoured by the dataset class and by every export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from xreal_synth.dataset.source import add_excluded, each_image, open_source
from xreal_synth.errors import DatasetError
from xreal_synth.export.coco import write_coco
from xreal_synth.export.croissant import croissant_json
from xreal_synth.export.txrv import SyntheticDataset
from xreal_synth.storage import LocalStore
from xreal_synth.types import Sample

OUT = {"0000000001-h": "a copy", "0000000004-v0": "a copy", "0000000009-v0": "a copy"}


@pytest.fixture
def thinned(own_dataset: Path) -> LocalStore:
    store = LocalStore(own_dataset)
    add_excluded(store, OUT)
    return store


def test_the_dataset_class_has_the_other_images_with_their_own_pixels(
    thinned: LocalStore, images: dict[str, Sample]
) -> None:
    made = SyntheticDataset(thinned.uri)
    kept = [key for key in images if key not in OUT]
    assert list(made.csv["key"]) == kept
    assert len(made.labels) == len(kept)
    for at, key in enumerate(kept):
        np.testing.assert_allclose(made[at]["img"][0], images[key].image / 255 * 2048.0 - 1024, atol=1e-3)


def test_exports_have_the_other_images(thinned: LocalStore, images: dict[str, Sample], tmp_path: Path) -> None:
    source = open_source(thinned)
    ends: list[tuple[int, int]] = []
    read = list(each_image(source, lambda done, total: ends.append((done, total))))
    kept = [key for key in images if key not in OUT]
    assert [image.sample.meta.key for image in read] == kept
    assert ends[-1] == (len(kept), len(kept))
    assert source.counted.summary().samples == len(kept)
    (tmp_path / "coco").mkdir()
    write_coco(open_source(thinned), tmp_path / "coco", lambda done, total: None)
    listed = json.loads((tmp_path / "coco" / "annotations.json").read_text())["images"]
    assert len(listed) == len(kept)


def test_croissant_names_tars_as_they_are_and_so_refuses(thinned: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="3 images are excluded"):
        croissant_json(open_source(thinned), tmp_path / "c.json", lambda done, total: None)


def test_nothing_left_is_an_error(own_dataset: Path, images: dict[str, Sample]) -> None:
    store = LocalStore(own_dataset)
    add_excluded(store, dict.fromkeys(images, "none is good"))
    with pytest.raises(DatasetError, match="all are excluded"):
        list(each_image(open_source(store), lambda done, total: None))
    with pytest.raises(DatasetError, match="excluded"):
        SyntheticDataset(store.uri)
