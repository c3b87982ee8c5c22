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

from xreal_synth.errors import TrainingError
from xreal_synth.images.manifest import read_manifest
from xreal_synth.prepare.choose import Choice, Shares
from xreal_synth.prepare.command import Report, prepare
from xreal_synth.prepare.found import FolderColumns
from xreal_synth.prepare.images import Shape
from xreal_synth.prepare.run import JOURNAL, PrepareTask
from xreal_synth.storage import LocalStore
from xreal_synth.training.images import load_images
from xreal_synth.training.settings import DataSettings

COLUMNS = FolderColumns(
    table="list.csv", image="file", patient="pid", labels="report", unknown="unsure", mask="mask",
    rename={"pleural fluid": "Effusion"},
)  # fmt: skip
SETTINGS = DataSettings(image_size=64, findings=("Pneumonia", "Effusion", "Edema"))


def folder_task(root: Path, out: Path, **more: Any) -> PrepareTask:
    choice = Choice(Shares(0.5, 0.5), any_view=True)
    return replace(PrepareTask("folder", str(root), out, Shape(64, "crop"), choice, columns=COLUMNS, workers=1), **more)


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*.png")}


@pytest.mark.parametrize("kind", ["nih", "chexpert", "mimic", "mimic-dicom"])
def test_a_public_set_becomes_a_folder_that_training_reads(
    trees: Any, tiny_bundle: Path, tmp_path: Path, kind: str
) -> None:
    build = {"nih": trees.nih, "chexpert": trees.chexpert, "mimic": trees.mimic}[kind.partition("-")[0]]
    root = build(tmp_path / "source", ".dcm") if kind == "mimic-dicom" else build(tmp_path / "source")
    task = PrepareTask(
        kind.partition("-")[0],  # type: ignore[arg-type]
        str(root), tmp_path / "images", Shape(64, "crop"), Choice(splits="official"),
        segmenter=str(tiny_bundle), workers=2,
    )  # fmt: skip
    report = prepare(task)
    refused = {r.file: r.reason for r in report.found.refused}
    assert refused == {}
    images = load_images(tmp_path / "images", DataSettings(image_size=64))
    assert sum(map(len, images.values())) == sum(row["split"] != "test" for row in report.rows) >= 6
    assert bool(images["train"].labels.any())
    assert bool((~images["train"].known).any()) == (kind != "nih")
    account = json.loads((tmp_path / "images/prepared.json").read_text())
    assert account["images"] == len(report.rows)
    assert "xreal-tiny segmenter" in account["masks"]
    assert sum(account["left_out"].values()) == 1
    assert all(0 < float(row["mask_score"]) < 1 for row in report.rows)


def test_boxes_reach_the_manifest(trees: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    root = trees.nih(tmp_path / "source")
    prepare(PrepareTask("nih", str(root), tmp_path / "images", Shape(64, "crop"), segmenter=str(tiny_bundle)))
    rows = read_manifest(LocalStore(tmp_path / "images")).rows
    ((boxed),) = (row for row in rows if row.boxes)
    assert boxed.boxes[0].name == "Infiltration"
    assert boxed.boxes[0].box == (0.25, 0.5, 0.375, 0.75)


def test_a_repeated_command_makes_nothing_twice(trees: Any, tmp_path: Path) -> None:
    trees.folder(tmp_path / "source")
    task = folder_task(tmp_path / "source", tmp_path / "images")
    first = prepare(replace(task, choice=replace(task.choice, limit=5)))
    before = files(tmp_path / "images")
    assert len(first.rows) == 5
    second = prepare(task)
    after = files(tmp_path / "images")
    assert len(second.rows) == 12
    assert {name: after[name] for name in before} == before
    assert second.rows[:5] == first.rows


def test_a_run_that_was_killed_goes_on(trees: Any, tmp_path: Path) -> None:
    trees.folder(tmp_path / "source")
    task = folder_task(tmp_path / "source", tmp_path / "images")

    def stop(images: int) -> None:
        if images:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(task, on_images=stop)
    assert not (tmp_path / "images/manifest.csv").exists()
    before = files(tmp_path / "images")
    assert len(before) == 16
    with (tmp_path / "images" / JOURNAL).open("a") as journal:
        journal.write('{"key": "images--f1')
    report = prepare(task)
    after = files(tmp_path / "images")
    assert {name: after[name] for name in before} == before
    whole = prepare(replace(task, out=tmp_path / "whole"))
    assert report.rows == whole.rows
    assert {name: data for name, (_, data) in after.items()} == {
        name: data for name, (_, data) in files(tmp_path / "whole").items()
    }
    prepare(task)


def test_a_lost_file_is_made_again(trees: Any, tmp_path: Path) -> None:
    trees.folder(tmp_path / "source", 4)
    task = folder_task(tmp_path / "source", tmp_path / "images")
    prepare(task)
    before = files(tmp_path / "images")
    (tmp_path / "images/masks/images--f2.png").unlink()
    prepare(task)
    assert {n: d for n, (_, d) in files(tmp_path / "images").items()} == {n: d for n, (_, d) in before.items()}


@pytest.mark.parametrize("change", [{"shape": Shape(32, "crop")}, {"shape": Shape(64, "pad")}])
def test_other_settings_need_another_folder(trees: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    trees.folder(tmp_path / "source", 4)
    task = folder_task(tmp_path / "source", tmp_path / "images")
    prepare(task)
    with pytest.raises(TrainingError, match=r"other settings: (size|fit)"):
        prepare(replace(task, **change))


def test_a_folder_with_something_else_is_left_alone(trees: Any, tmp_path: Path) -> None:
    trees.folder(tmp_path / "source", 4)
    with pytest.raises(TrainingError, match="something else"):
        prepare(folder_task(tmp_path / "source", tmp_path / "source"))


def spoil(root: Path, rows: list[dict[str, str]], trees: Any) -> None:
    """One fault an image, from image 1 on."""
    image, mask = trees.pair(61)
    (root / "images/f1.png").write_bytes(b"no image")
    Image.fromarray(mask[:48, :40]).save(root / "masks/m2.png")
    rows[3]["report"] = "Pneumonja"
    Image.fromarray(np.full((64, 64), 90, np.uint8)).save(root / "images/f4.png")
    Image.fromarray(mask * 50).save(root / "masks/m5.png")
    Image.fromarray(mask[:, ::-1].copy()).save(root / "masks/m6.png")
    rows[7] = rows[0]
    (root / "images/f8.png").unlink()
    (root / "images/f9.png").write_bytes(trees.dicom(image)[:-500])
    Image.fromarray(mask * (mask == 1)).save(root / "masks/m10.png")
    Image.open(root / "images/f0.png").save(root / "images/f11.png")
    rows.append({**rows[0], "file": "images/f12.png", "view": "LATERAL"})


def bad_tree(trees: Any, root: Path) -> None:
    rows = trees.folder(root)
    spoil(root, rows, trees)
    trees.table(root / "list.csv", rows)


FAULTS = {
    "unreadable image": 2, "mask of another size": 1, "unknown label": 1, "one-colour image": 1,
    "wrong code in the mask": 1, "swapped lungs": 1, "duplicate image": 1, "missing file": 1,
    "no usable anatomy in the mask": 1,
}  # fmt: skip


def test_bad_data_is_refused_counted_and_never_ends_a_run(trees: Any, tmp_path: Path) -> None:
    bad_tree(trees, tmp_path / "source")
    report: Report = prepare(folder_task(tmp_path / "source", tmp_path / "images"))
    assert report.account["refused"] == FAULTS
    assert [row["original_id"] for row in report.rows] == ["images/f0.png"]
    listed = json.loads((tmp_path / "images/refused.json").read_text())
    assert sorted({entry["file"] for entry in listed}) == sorted({f"images/f{n}.png" for n in range(1, 12) if n != 7})
    assert all(entry["fault"] in FAULTS and entry["reason"] for entry in listed)
    assert report.account["left_out"] == {"view LATERAL": 1}
    assert report.refused_share == pytest.approx(10 / 11)
    assert set(files(tmp_path / "images")) == {"images/images--f0.png", "masks/images--f0.png"}
    again = prepare(folder_task(tmp_path / "source", tmp_path / "images"))
    assert (again.rows, again.account["refused"]) == (report.rows, FAULTS)
    assert len(files(tmp_path / "images")) == 2
    assert {refusal.file for _, refusal in report.refused_masks} == {"images/f5.png", "images/f6.png", "images/f10.png"}


def test_no_image_left_is_an_error_with_the_counts(trees: Any, tmp_path: Path) -> None:
    rows = trees.folder(tmp_path / "source", 3)
    for n in range(3):
        (tmp_path / f"source/images/f{n}.png").unlink()
    with pytest.raises(TrainingError, match="3 missing file"):
        prepare(folder_task(tmp_path / "source", tmp_path / "images"))
    assert len(json.loads((tmp_path / "images/refused.json").read_text())) == 3
    trees.table(tmp_path / "source/list.csv", [row | {"view": "LL"} for row in rows])
    with pytest.raises(TrainingError, match="3 view LL"):
        prepare(folder_task(tmp_path / "source", tmp_path / "images"))


def test_an_unsure_mask_is_refused_also_when_it_was_made_before(trees: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    trees.folder(tmp_path / "source", 4)
    columns = replace(COLUMNS, mask="")
    task = folder_task(tmp_path / "source", tmp_path / "images", columns=columns, segmenter=str(tiny_bundle))
    scores = sorted(float(row["mask_score"]) for row in prepare(task).rows)
    least = (scores[1] + scores[2]) / 2
    for out in (tmp_path / "images", tmp_path / "new"):
        report = prepare(replace(task, min_score=least, out=out))
        assert report.account["refused"] == {"segmenter too unsure": 2}
        assert sorted(float(row["mask_score"]) for row in report.rows) == scores[2:]


def test_tars_hold_the_same_images_in_the_same_order(trees: Any, tmp_path: Path) -> None:
    trees.folder(tmp_path / "source")
    task = folder_task(tmp_path / "source", tmp_path / "images", shard_images=2)
    prepare(task)
    shards = tmp_path / "images/shards"
    tars = {path.name: path.read_bytes() for path in shards.glob("*.tar")}
    found, wanted = load_images(shards, SETTINGS), load_images(tmp_path / "images", SETTINGS)
    for split in ("train", "val"):
        for name in ("images", "label_map", "labels", "known"):
            assert torch.equal(getattr(found[split], name), getattr(wanted[split], name)), (split, name)
    with tarfile.open(shards / "train-000000.tar") as tar:
        names = tar.getnames()
    assert [name.partition(".")[2] for name in names] == ["png", "mask.png", "json"] * 2
    prepare(task)
    assert {path.name: path.read_bytes() for path in shards.glob("*.tar")} == tars
    prepare(replace(task, shard_images=100))
    assert sorted(path.name for path in shards.iterdir()) == ["manifest.csv", "train-000000.tar", "val-000000.tar"]


def test_tars_are_webdatasets(trees: Any, tmp_path: Path) -> None:
    import webdataset as wds

    trees.folder(tmp_path / "source", 4)
    prepare(folder_task(tmp_path / "source", tmp_path / "images", shard_images=100))
    tars = sorted(str(path) for path in (tmp_path / "images/shards").glob("*.tar"))
    samples = list(wds.WebDataset(tars, shardshuffle=False).decode("l8"))
    assert sorted(sample["__key__"] for sample in samples) == [f"images--f{n}" for n in range(4)]
    assert all(sample["png"].shape == sample["mask.png"].shape == (64, 64) for sample in samples)
    assert {sample["json"]["patient_id"] for sample in samples} == {"P0", "P1"}
