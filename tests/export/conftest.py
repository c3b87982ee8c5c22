"""A small dataset with every kind of region, hidden pixels, unknown labels and three splits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.doubles.fakes import box_finding, fake, fake_groups, fake_head, publish_fakes
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import open_dataset
from xreal_synth.dataset.source import open_source
from xreal_synth.export.dicom import write_dicom
from xreal_synth.storage import LocalStore, Store
from xreal_synth.types import PlacedFinding, Sample, ShardPlan, Split

SIZE = 64
SHARDS = [ShardPlan("fakes", 0, 0, 4), ShardPlan("fakes", 1, 4, 8), ShardPlan("fakes", 2, 8, 10)]
BOTH = PlacedFinding("Effusion", "both", "lower", "box", ((8, 32, 24, 48), (40, 32, 56, 48)), 0.2)
HEART = PlacedFinding("Cardiomegaly", "any", "any", "heart", ((24, 28, 48, 52),))
HIDDEN = box_finding("Pneumonia", (12, 20, 28, 36))
OVER = box_finding("Atelectasis", (20, 28, 32, 44))


def split_of(group: int) -> Split:
    return ("val", "test")[group] if group < 2 else "train"


def samples_of(shard: ShardPlan) -> list[Sample]:
    """The fake groups, and in group 8 an image with two findings that overlap and its sham, in 9 two regions."""
    if shard.shard < 2:
        return fake_groups(shard.start, shard.stop, SIZE)
    return [
        fake(8, "h", size=SIZE),
        fake(8, "v0", [HIDDEN, OVER], size=SIZE),
        fake(8, "s0", size=SIZE, sham=[HIDDEN, OVER]),
        fake(9, "h", size=SIZE),
        fake(9, "v0", [BOTH, HEART], size=SIZE),
    ]


def make(store: Store) -> Store:
    open_dataset(store, fake_head(), "version: 1\n", lambda there, here: [])
    for shard in SHARDS:
        publish_fakes(store, shard, samples_of(shard))
    finish(store, fake_head(), split_of=split_of)
    return store


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    make(LocalStore(folder))
    return folder


@pytest.fixture(scope="session")
def dicom(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dicom")
    source = open_source(LocalStore(dataset))
    write_dicom(source, folder, lambda done, total: None)
    assert source.counted.summary().samples == 18
    return folder


@pytest.fixture
def own_dataset(dataset: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return shutil.copytree(dataset, tmp_path / "fakes")


@pytest.fixture(scope="session")
def images() -> dict[str, Sample]:
    return {sample.meta.key: sample for shard in SHARDS for sample in samples_of(shard)}
