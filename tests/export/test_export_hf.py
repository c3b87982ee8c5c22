"""The Hugging Face export, loaded by the datasets library from its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.doubles.fakes import fake_head
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.source import open_source
from xreal_synth.export.hf import schema, write_hf
from xreal_synth.report.build import build
from xreal_synth.report.card import dataset_card
from xreal_synth.storage import LocalStore
from xreal_synth.types import Sample


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Any:
    library = pytest.importorskip("datasets")
    library.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    library.config.HF_HUB_OFFLINE = library.config.HF_DATASETS_OFFLINE = True
    library.disable_progress_bars()
    return library


@pytest.fixture(scope="module")
def exported(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    source = open_source(LocalStore(dataset))
    write_hf(source, folder, lambda done, total: None, file_bytes=30_000)
    counted = source.counted.summary()
    assert counted.samples == 18
    card = dataset_card(source.head, counted, "", bundle=None, layout="parquet", sheet=False)
    (folder / "README.md").write_text(card)
    return folder


def test_datasets_loads_every_split(datasets: Any, exported: Path, images: dict[str, Sample]) -> None:
    loaded = datasets.load_dataset(str(exported), cache_dir=str(datasets.config.HF_DATASETS_CACHE))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 15, "validation": 1, "test": 2}
    assert isinstance(loaded["train"].features["image"], datasets.Image)
    seen = set()
    for rows in loaded.values():
        for row in rows:
            sample = images[row["key"]]
            seen.add(row["key"])
            for column, wanted in (
                ("image", sample.image),
                ("anatomy", sample.anatomy),
                ("pathology", sample.pathology),
                ("change", sample.change),
            ):
                assert row[column].mode == "L"
                np.testing.assert_array_equal(np.asarray(row[column]), wanted)
            assert {name: row[name] for name in ("txrv18", "chexpert14")} == sample.meta.labels
            boxes = [[list(box) for box in finding.boxes] for finding in sample.meta.findings]
            assert [finding["boxes_xyxy"] for finding in row["findings"]] == boxes
            assert [place["of"] for place in row["sham"]] == [place.name for place in sample.meta.sham]
            assert row["synthetic"] is True
    assert seen == set(images)


def test_the_cards_code_runs(
    datasets: Any, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (exported / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(exported)
    exec(code, {})
    assert capsys.readouterr().out.startswith("(64, 64) ")


def test_features_are_those_the_library_would_write(datasets: Any) -> None:
    features = datasets.Features.from_arrow_schema(schema())
    assert features.arrow_schema.remove_metadata() == schema().remove_metadata()


def test_files_are_small_and_numbered(exported: Path) -> None:
    names = sorted(path.name for path in (exported / "data").iterdir())
    total = sum(name.startswith("train-") for name in names)
    assert total > 1
    assert names[-1] == "validation-00000-of-00001.parquet"
    assert f"train-{total - 1:05d}-of-{total:05d}.parquet" in names
    for path in (exported / "data").glob("train-*"):
        groups = pq.read_table(path, columns=["group"]).column("group").to_pylist()
        assert groups == sorted(groups)


def test_a_datasets_own_folder_loads_by_its_card(datasets: Any, own_dataset: Path, images: dict[str, Sample]) -> None:
    build(LocalStore(own_dataset), finish(LocalStore(own_dataset), fake_head(), split_of=lambda group: "train"))
    loaded = datasets.load_dataset(str(own_dataset), cache_dir=str(datasets.config.HF_DATASETS_CACHE))
    assert list(loaded) == ["train"]
    assert loaded["train"]["__key__"][:] == list(images)
