"""`xreal-synth export` as a user types it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.doubles.fakes import fake_groups, fake_head, publish_fakes
from xreal_synth.cli.main import main
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import open_dataset
from xreal_synth.report.build import build
from xreal_synth.storage import LocalStore
from xreal_synth.types import ShardPlan

Call = Callable[..., int]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    store = LocalStore(folder)
    open_dataset(store, fake_head(), "version: 1\n", lambda there, here: [])
    for k in range(3):
        publish_fakes(store, ShardPlan("fakes", k, 4 * k, 4 * k + 4), fake_groups(4 * k, 4 * k + 4))
    build(store, finish(store, fake_head(), split_of=lambda group: "val" if group < 2 else "train"))
    return folder


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "made")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    def run(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["xreal-synth", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return run


@pytest.mark.parametrize(
    ("to", "out", "wanted"),
    [
        ("coco", "out", {"README.md", "annotations.json", "annotations_train.json", "annotations_val.json", "images"}),
        ("yolo", "out", {"data.yaml", "images", "labels", "labels.csv"}),
        ("monai", "out", {"datalist.json", "images", "labels"}),
        ("hf", "out", {"README.md", "contact_sheet.png", "data"}),
        ("dicom", "out", {"images", "segmentations", "masks", "labels.csv"}),
        ("croissant", "croissant.json", set()),
    ],
)
def test_each_format(
    dataset: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str], to: str, out: str, wanted: set[str]
) -> None:
    target = tmp_path / out
    assert call(dataset, target, "--to", to, "--json") == 0
    reported = json.loads(capsys.readouterr().out)
    assert reported == {
        "out": str(target), "format": to, "images": 20, "splits": {"train": 17, "val": 3}, "left_out": [],
        "excluded": 0, "pushed": None,
    }  # fmt: skip
    assert {path.name for path in target.iterdir()} == wanted if wanted else target.is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["made", out])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert call(dataset, target, "--to", to) == 2
    assert "exists" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_shards_left_out_are_listed_and_the_code_is_3(
    dataset: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    (dataset / "records/fakes-000000.json").unlink()
    tar = dataset / "shards/fakes-000001.tar"
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(bytes(data))
    assert call(dataset, tmp_path / "out", "--to", "coco") == 3
    said = capsys.readouterr()
    assert "shard fakes-000000 is left out: it has no records/fakes-000000.json" in said.err
    assert "fakes-000001 is left out: shards/fakes-000001.tar is not the file" in said.err
    assert "7 images (train 7)" in said.out
    images = json.loads((tmp_path / "out/annotations.json").read_text())["images"]
    assert {image["group"] for image in images} == {8, 9, 10, 11}


def test_a_split_that_ultralytics_misses_is_named(
    dataset: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    (dataset / "records/fakes-000000.json").unlink()
    assert call(dataset, tmp_path / "out", "--to", "yolo") == 3
    assert "no image is in val: Ultralytics takes no data.yaml without train and val" in " ".join(
        capsys.readouterr().err.split()
    )


def test_nothing_is_left_where_nothing_can_be_exported(
    dataset: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    for tar in (dataset / "shards").iterdir():
        tar.write_bytes(b"\0" * tar.stat().st_size)
    assert call(dataset, tmp_path / "out", "--to", "hf") == 2
    assert "no image to export" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_what_a_killed_export_left_is_named(
    dataset: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".out.partial-1234abcd").mkdir()
    assert call(dataset, tmp_path / "out", "--to", "coco") == 0
    assert ".out.partial-1234abcd may be deleted" in capsys.readouterr().err.replace("\n", "")


def test_a_full_disk_is_an_error_of_ours(
    dataset: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert call(dataset, tmp_path / "out", "--to", "coco") == 2
    assert "No space left" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
