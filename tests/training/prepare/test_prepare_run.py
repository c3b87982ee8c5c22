"""From a source to a folder that training reads: whole, resumed, refused, in tars."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from xreal_synth.anatomy.manifest import read_manifest
from xreal_synth.errors import TrainingError
from xreal_synth.storage import LocalStore
from xreal_synth.training.films import load_films
from xreal_synth.training.prepare.choose import Choice
from xreal_synth.training.prepare.command import Report, Task, prepare
from xreal_synth.training.prepare.films import Shape
from xreal_synth.training.prepare.found import FolderColumns
from xreal_synth.training.prepare.journal import JOURNAL
from xreal_synth.training.prepare.splits import Shares
from xreal_synth.training.settings.common import DataSettings

COLUMNS = FolderColumns(
    table="list.csv", image="file", patient="pid", labels="report", unknown="unsure", mask="mask",
    rename={"pleural fluid": "Effusion"},
)  # fmt: skip
SETTINGS = DataSettings(image_size=64, findings=("Pneumonia", "Effusion", "Edema"))


def folder_task(root: Path, out: Path, **more: Any) -> Task:
    choice = Choice(Shares(0.5, 0.5), any_view=True)
    return replace(
        Task("folder", str(root), out, Shape(64, "crop"), choice, columns=COLUMNS, workers=1), **more
    )


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*.png")}


@pytest.mark.parametrize("kind", ["nih", "chexpert", "mimic", "mimic-dicom"])
def test_a_public_set_becomes_a_folder_that_training_reads(
    trees: Any, tiny_bundle: Path, tmp_path: Path, kind: str
) -> None:
    build = {"nih": trees.nih, "chexpert": trees.chexpert, "mimic": trees.mimic}[kind.partition("-")[0]]
    root = build(tmp_path / "source", ".dcm") if kind == "mimic-dicom" else build(tmp_path / "source")
    task = Task(
        kind.partition("-")[0],  # type: ignore[arg-type]
        str(root), tmp_path / "films", Shape(64, "crop"), Choice(splits="official"),
        segmenter=str(tiny_bundle), workers=2,
    )  # fmt: skip
    report = prepare(task)
    refused = {r.file: r.reason for r in report.found.refused}
    assert refused == {}
    films = load_films(tmp_path / "films", DataSettings(image_size=64))
    assert sum(map(len, films.values())) == sum(row["split"] != "test" for row in report.rows) >= 6
    assert bool(films["train"].labels.any())
    assert bool((~films["train"].known).any()) == (kind != "nih")
    account = json.loads((tmp_path / "films/prepared.json").read_text())
    assert account["films"] == len(report.rows)
    assert "xreal-tiny segmenter" in account["masks"]
    assert sum(account["left_out"].values()) == 1
    assert all(0 < float(row["mask_score"]) < 1 for row in report.rows)


def test_boxes_reach_the_manifest(trees: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    root = trees.nih(tmp_path / "source")
    prepare(Task("nih", str(root), tmp_path / "films", Shape(64, "crop"), segmenter=str(tiny_bundle)))
    rows = read_manifest(LocalStore(tmp_path / "films")).rows
    ((boxed),) = (row for row in rows if row.boxes)
    assert boxed.boxes[0].name == "Infiltration"
    assert boxed.boxes[0].box == (0.25, 0.5, 0.375, 0.75)


def test_a_repeated_command_makes_nothing_twice(trees: Any, tmp_path: Path) -> None:
    trees.folder(tmp_path / "source")
    task = folder_task(tmp_path / "source", tmp_path / "films")
    first = prepare(replace(task, choice=replace(task.choice, limit=5)))
    before = files(tmp_path / "films")
    assert len(first.rows) == 5
    second = prepare(task)
    after = files(tmp_path / "films")
    assert len(second.rows) == 12
    assert {name: after[name] for name in before} == before
    assert second.rows[:5] == first.rows


def test_a_run_that_was_killed_goes_on(trees: Any, tmp_path: Path) -> None:
    trees.folder(tmp_path / "source")
    task = folder_task(tmp_path / "source", tmp_path / "films")

    def stop(films: int) -> None:
        if films:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(task, on_films=stop)
    assert not (tmp_path / "films/manifest.csv").exists()
    before = files(tmp_path / "films")
    assert len(before) == 16
    with (tmp_path / "films" / JOURNAL).open("a") as journal:
        journal.write('{"key": "films--f1')
    report = prepare(task)
    after = files(tmp_path / "films")
    assert {name: after[name] for name in before} == before
    whole = prepare(replace(task, out=tmp_path / "whole"))
    assert report.rows == whole.rows
    assert {name: data for name, (_, data) in after.items()} == {
        name: data for name, (_, data) in files(tmp_path / "whole").items()
    }
    prepare(task)


def test_a_lost_file_is_made_again(trees: Any, tmp_path: Path) -> None:
    trees.folder(tmp_path / "source", 4)
    task = folder_task(tmp_path / "source", tmp_path / "films")
    prepare(task)
    before = files(tmp_path / "films")
    (tmp_path / "films/masks/films--f2.png").unlink()
    prepare(task)
    assert {n: d for n, (_, d) in files(tmp_path / "films").items()} == {n: d for n, (_, d) in before.items()}


@pytest.mark.parametrize("change", [{"shape": Shape(32, "crop")}, {"shape": Shape(64, "pad")}])
def test_other_settings_need_another_folder(trees: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    trees.folder(tmp_path / "source", 4)
    task = folder_task(tmp_path / "source", tmp_path / "films")
    prepare(task)
    with pytest.raises(TrainingError, match=r"other settings: (size|fit)"):
        prepare(replace(task, **change))


def test_a_folder_with_something_else_is_left_alone(trees: Any, tmp_path: Path) -> None:
    trees.folder(tmp_path / "source", 4)
    with pytest.raises(TrainingError, match="something else"):
        prepare(folder_task(tmp_path / "source", tmp_path / "source"))


def spoil(root: Path, rows: list[dict[str, str]], trees: Any) -> None:
    """One fault a film, from film 1 on."""
    film, mask = trees.pair(61)
    (root / "films/f1.png").write_bytes(b"no film")
    Image.fromarray(mask[:48, :40]).save(root / "masks/m2.png")
    rows[3]["report"] = "Pneumonja"
    Image.fromarray(np.full((64, 64), 90, np.uint8)).save(root / "films/f4.png")
    Image.fromarray(mask * 50).save(root / "masks/m5.png")
    Image.fromarray(mask[:, ::-1].copy()).save(root / "masks/m6.png")
    rows[7] = rows[0]
    (root / "films/f8.png").unlink()
    (root / "films/f9.png").write_bytes(trees.dicom(film)[:-500])
    Image.fromarray(mask * (mask == 1)).save(root / "masks/m10.png")
    Image.open(root / "films/f0.png").save(root / "films/f11.png")
    rows.append({**rows[0], "file": "films/f12.png", "view": "LATERAL"})


def bad_tree(trees: Any, root: Path) -> None:
    rows = trees.folder(root)
    spoil(root, rows, trees)
    trees.table(root / "list.csv", rows)


FAULTS = {
    "unreadable film": 2, "mask of another size": 1, "unknown label": 1, "one-colour film": 1,
    "wrong code in the mask": 1, "swapped lungs": 1, "duplicate image": 1, "missing file": 1,
    "no usable anatomy in the mask": 1,
}  # fmt: skip


def test_bad_data_is_refused_counted_and_never_ends_a_run(trees: Any, tmp_path: Path) -> None:
    bad_tree(trees, tmp_path / "source")
    report: Report = prepare(folder_task(tmp_path / "source", tmp_path / "films"))
    assert report.account["refused"] == FAULTS
    assert [row["original_id"] for row in report.rows] == ["films/f0.png"]
    listed = json.loads((tmp_path / "films/refused.json").read_text())
    assert sorted({entry["file"] for entry in listed}) == sorted(
        {f"films/f{n}.png" for n in range(1, 12) if n != 7}
    )
    assert all(entry["fault"] in FAULTS and entry["reason"] for entry in listed)
    assert report.account["left_out"] == {"view LATERAL": 1}
    assert report.refused_share == pytest.approx(10 / 11)
    assert {one.refusal.file for one in report.outcome.refused_masks} == {
        "films/f5.png", "films/f6.png", "films/f10.png",
    }  # fmt: skip


def test_no_film_left_is_an_error_with_the_counts(trees: Any, tmp_path: Path) -> None:
    rows = trees.folder(tmp_path / "source", 3)
    for n in range(3):
        (tmp_path / f"source/films/f{n}.png").unlink()
    with pytest.raises(TrainingError, match="3 missing file"):
        prepare(folder_task(tmp_path / "source", tmp_path / "films"))
    assert len(json.loads((tmp_path / "films/refused.json").read_text())) == 3
    trees.table(tmp_path / "source/list.csv", [row | {"view": "LL"} for row in rows])
    with pytest.raises(TrainingError, match="3 view LL"):
        prepare(folder_task(tmp_path / "source", tmp_path / "films"))


def test_an_unsure_mask_is_refused_also_when_it_was_made_before(
    trees: Any, tiny_bundle: Path, tmp_path: Path
) -> None:
    trees.folder(tmp_path / "source", 4)
    columns = replace(COLUMNS, mask="")
    task = folder_task(tmp_path / "source", tmp_path / "films", columns=columns, segmenter=str(tiny_bundle))
    scores = sorted(float(row["mask_score"]) for row in prepare(task).rows)
    least = (scores[1] + scores[2]) / 2
    for out in (tmp_path / "films", tmp_path / "new"):
        report = prepare(replace(task, min_score=least, out=out))
        assert report.account["refused"] == {"segmenter too unsure": 2}
        assert sorted(float(row["mask_score"]) for row in report.rows) == scores[2:]


def test_tars_hold_the_same_films_in_the_same_order(trees: Any, tmp_path: Path) -> None:
    trees.folder(tmp_path / "source")
    task = folder_task(tmp_path / "source", tmp_path / "films", shard_films=2)
    prepare(task)
    shards = tmp_path / "films/shards"
    tars = {path.name: path.read_bytes() for path in shards.glob("*.tar")}
    found, wanted = load_films(shards, SETTINGS), load_films(tmp_path / "films", SETTINGS)
    for split in ("train", "val"):
        for name in ("films", "codes", "labels", "known"):
            assert torch.equal(getattr(found[split], name), getattr(wanted[split], name)), (split, name)
    with tarfile.open(shards / "train-000000.tar") as tar:
        names = tar.getnames()
    assert [name.partition(".")[2] for name in names] == ["png", "mask.png", "json"] * 2
    prepare(task)
    assert {path.name: path.read_bytes() for path in shards.glob("*.tar")} == tars
    prepare(replace(task, shard_films=100))
    assert sorted(path.name for path in shards.iterdir()) == [
        "manifest.csv",
        "train-000000.tar",
        "val-000000.tar",
    ]


def test_tars_are_webdatasets(trees: Any, tmp_path: Path) -> None:
    import webdataset as wds

    trees.folder(tmp_path / "source", 4)
    prepare(folder_task(tmp_path / "source", tmp_path / "films", shard_films=100))
    tars = sorted(str(path) for path in (tmp_path / "films/shards").glob("*.tar"))
    samples = list(wds.WebDataset(tars, shardshuffle=False).decode("l8"))
    assert sorted(sample["__key__"] for sample in samples) == [f"films--f{n}" for n in range(4)]
    assert all(sample["png"].shape == sample["mask.png"].shape == (64, 64) for sample in samples)
    assert {sample["json"]["patient_id"] for sample in samples} == {"P0", "P1"}
