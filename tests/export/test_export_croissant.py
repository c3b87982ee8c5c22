"""The Croissant export, validated and read by mlcroissant."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xreal_synth.dataset.source import open_source
from xreal_synth.errors import DatasetError
from xreal_synth.export.croissant import croissant_json
from xreal_synth.storage import LocalStore, RemoteStore
from xreal_synth.types import Sample


@pytest.fixture(scope="module")
def mlc(tmp_path_factory: pytest.TempPathFactory) -> Any:
    library = pytest.importorskip("mlcroissant")
    from etils import epath
    from mlcroissant._src.operation_graph.operations import extract

    extract.EXTRACT_PATH = epath.Path(tmp_path_factory.mktemp("croissant"))
    return library


def write(dataset: Path, out: Path) -> Path:
    source = open_source(LocalStore(dataset))
    content = croissant_json(source, out, lambda done, total: None)
    assert source.counted.summary().samples == 18
    out.write_bytes(content)
    return out


def test_mlcroissant_finds_nothing_wrong(mlc: Any, dataset: Path, tmp_path: Path) -> None:
    for out in (dataset / "croissant.json", tmp_path / "elsewhere.json"):
        read = mlc.Dataset(jsonld=write(dataset, out))
        assert not read.metadata.issues.errors
        reported = [warning for warning in read.metadata.issues.warnings if "datePublished" not in warning]
        assert reported == []


def test_records_are_the_images(mlc: Any, dataset: Path, images: dict[str, Sample]) -> None:
    read = mlc.Dataset(jsonld=write(dataset, dataset / "croissant.json"))
    rows = list(read.records("samples"))
    assert [row["samples/key"].decode() for row in rows] == list(images)
    assert [row["samples/split"] for row in rows[:3]] == [b"val", b"test", b"test"]
    pneumonia = [row["samples/txrv18.Pneumonia"] for row in rows]
    assert pneumonia == [sample.meta.labels["txrv18"]["Pneumonia"] for sample in images.values()]
    for name in ("image", "anatomy", "pathology"):
        by_key = {row[f"{name}/key"].decode(): row for row in read.records(name)}
        assert set(by_key) == set(images)
        for key, row in by_key.items():
            pixels = np.asarray(row[f"{name}/image"].convert("L"))
            np.testing.assert_array_equal(pixels, getattr(images[key], name))
        assert by_key["0000000000-h"][f"{name}/split"] == b"val"


def test_every_file_is_named_with_its_hash(dataset: Path, tmp_path: Path) -> None:
    out = write(dataset, tmp_path / "far.json")
    content = json.loads(out.read_bytes())
    files = [one for one in content["distribution"] if one["@type"] == "cr:FileObject"]
    assert len(files) == 4
    for one in files:
        path = tmp_path / one["contentUrl"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == one["sha256"]
    assert "not for diagnosis" in content["description"]
    assert content["rai:dataCollectionType"] == "Synthetic data"


def test_a_remote_dataset_is_named_by_its_uri(dataset: Path, tmp_path: Path) -> None:
    local, remote = LocalStore(dataset), RemoteStore(f"memory://{dataset}")
    for folder in ("", "shards", "tables", "records"):
        for key in local.list(folder):
            remote.replace(key, local.read_bytes(key))
    content = croissant_json(open_source(remote), tmp_path / "x.json", lambda done, total: None)
    urls = {one.get("contentUrl") for one in json.loads(content)["distribution"]}
    assert f"{remote.uri}/shards/fakes-000000.tar" in urls


def test_a_dataset_with_holes_is_refused(own_dataset: Path) -> None:
    (own_dataset / "records/fakes-000001.json").unlink()
    with pytest.raises(DatasetError, match="fakes-000001 is left out"):
        croissant_json(open_source(LocalStore(own_dataset)), own_dataset / "x.json", lambda done, total: None)
    (own_dataset / "index.json").unlink()
    with pytest.raises(DatasetError, match="xreal-synth report"):
        croissant_json(open_source(LocalStore(own_dataset)), own_dataset / "x.json", lambda done, total: None)
