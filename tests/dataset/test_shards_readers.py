"""The readers people train with: webdataset and a torch DataLoader, parquet through pyarrow."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from torch.utils.data import DataLoader

from tests.doubles.fakes import fake_groups, fake_head, publish_fakes
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import open_dataset
from xreal_synth.dataset.table import meta_columns
from xreal_synth.dataset.tar import read_tar
from xreal_synth.storage import LocalStore
from xreal_synth.types import ShardPlan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readers")
    store = LocalStore(path)
    head = fake_head()
    open_dataset(store, head, "", lambda there, here: [])
    for k in range(5):
        shard = ShardPlan("fakes", k, 4 * k, 4 * k + 4)
        publish_fakes(store, shard, fake_groups(shard.start, shard.stop))
    finish(store, head)
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_webdataset_reads_every_sample_once(folder: Path, workers: int) -> None:
    urls = sorted(map(str, (folder / "shards").glob("*.tar")))
    dataset = (
        wds.WebDataset(urls, shardshuffle=False)
        .decode("l8")
        .to_tuple("__key__", "png", "json", "anatomy.png", "pathology.png", "change.png")
    )
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    read = {key: rest for key, *rest in loader}
    keys = Counter(key for key, *_ in DataLoader(dataset, batch_size=None, num_workers=workers))
    made = {sample.meta.key: sample for sample in fake_groups(0, 20)}
    assert keys == Counter(list(made))
    rows = {row["key"]: row for row in pq.read_table(folder / "samples.parquet").to_pylist()}
    assert set(rows) == set(made)
    for key, (image, meta, anatomy, pathology, change) in read.items():
        sample = made[key]
        assert np.array_equal(np.asarray(image), sample.image)
        assert np.array_equal(np.asarray(anatomy), sample.anatomy)
        assert np.array_equal(np.asarray(pathology), sample.pathology)
        assert np.array_equal(np.asarray(change), sample.change)
        assert meta["findings"] == rows[key]["findings"]
        for set_name, labels in meta["labels"].items():
            assert labels == {name: rows[key][f"{set_name}.{name}"] for name in labels}
        for value, finding in enumerate(meta["findings"], start=1):
            x0, y0, x1, y1 = finding["box_xyxy"]
            assert (np.asarray(pathology)[y0:y1, x0:x1] == value).all()
            assert (np.asarray(pathology) == value).sum() == (x1 - x0) * (y1 - y0)


def test_the_index_and_our_reader_agree(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    read = [sample.meta for shard in index["shards"] for sample in read_tar(folder / shard["path"])]
    rows = pq.read_table(folder / "samples.parquet").to_pylist()
    assert len(rows) == len(read) == index["samples"]
    for row, meta in zip(rows, read, strict=True):
        assert row.items() >= meta_columns(meta).items()
