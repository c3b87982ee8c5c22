from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from xreal_synth.errors import TrainingError
from xreal_synth.storage import open_store
from xreal_synth.training.draws import plain_view, warped_view
from xreal_synth.training.images import check_findings, load_images
from xreal_synth.training.settings import DataSettings, WarpSettings

Rows = list[dict[str, str]]
WriteFolder = Callable[[Path], Rows]
WriteManifest = Callable[[Path, Rows], None]
TOLERANT = DataSettings(image_size=32, max_refused=0.5)


def test_labels_are_the_five_findings_and_no_finding(data: Path) -> None:
    images = load_images(data, TOLERANT)
    assert {split: len(found) for split, found in images.items()} == {"train": 6, "val": 2}
    found = images["train"].labels.int().tolist()
    assert found[0] == [0, 0, 0, 0, 0, 1]
    assert found[2] == [1, 0, 0, 1, 0, 0]
    assert found[3] == [0, 0, 0, 0, 0, 0]


def test_other_splits_are_left_out(tmp_path: Path, folder_writer: WriteFolder, manifest_writer: WriteManifest) -> None:
    rows = folder_writer(tmp_path)
    rows[0]["split"] = "minor"
    manifest_writer(tmp_path, rows)
    assert len(load_images(tmp_path, TOLERANT)["train"]) == 5


def test_images_of_the_healthy_alone(
    tmp_path: Path, folder_writer: WriteFolder, manifest_writer: WriteManifest
) -> None:
    rows = folder_writer(tmp_path)
    for row in rows[1:]:
        row["labels"] = "Pneumonia"
    rows[-1] |= {"labels": "No Finding", "split": "val"}
    manifest_writer(tmp_path, rows)
    healthy = replace(TOLERANT, healthy_only=True)
    assert {split: len(found) for split, found in load_images(tmp_path, healthy).items()} == {"train": 1, "val": 1}
    rows[0]["labels"] = "Edema"
    manifest_writer(tmp_path, rows)
    with pytest.raises(TrainingError, match="healthy_only"):
        load_images(tmp_path, healthy)


def _spoil(folder: Path, rows: Rows, fault: str) -> None:
    image, mask = folder / "image1.png", folder / "mask1.png"
    if fault == "unreadable":
        image.write_bytes(b"no image")
    elif fault == "missing":
        image.unlink()
    elif fault == "cut short":
        image.write_bytes(image.read_bytes()[:200])
    elif fault == "mask of another size":
        Image.fromarray(np.zeros((20, 20), np.uint8)).save(mask)
    elif fault == "unknown code":
        Image.fromarray(np.full((40, 40), 9, np.uint8)).save(mask)
    elif fault == "swapped lungs":
        Image.fromarray(np.asarray(Image.open(mask))[:, ::-1].copy()).save(mask)
    elif fault == "no lung":
        label_map = np.array(Image.open(mask))
        Image.fromarray(label_map * (label_map != 2)).save(mask)
    elif fault == "another size":
        for file in (image, mask):
            Image.open(file).resize((48, 48), Image.Resampling.NEAREST).save(file)
    elif fault == "one colour":
        Image.fromarray(np.full((40, 40), 7, np.uint8)).save(image)
    elif fault == "row cut short":
        rows[1]["labels"] = ""
    elif fault == "unknown label":
        rows[1]["labels"] = "Pneumonja"
    else:
        rows[1]["patient_id"] = rows[7]["patient_id"]


@pytest.mark.parametrize(
    ("fault", "reason", "count"),
    [
        ("unreadable", "cannot identify", 1),
        ("missing", "No such file", 1),
        ("cut short", "trunc", 1),
        ("mask of another size", "mask1.png is", 1),
        ("unknown code", "code 9", 1),
        ("swapped lungs", "swapped", 1),
        ("another size", "first image is 40", 1),
        ("no lung", "no right lung", 1),
        ("one colour", "one colour", 1),
        ("unknown label", "'Pneumonja'", 1),
        ("row cut short", "column labels", 1),
        ("patient in two splits", "patient 7 is in two splits", 2),
    ],
)
def test_a_faulty_image_is_refused_and_counted(
    tmp_path: Path, folder_writer: WriteFolder, manifest_writer: WriteManifest, fault: str, reason: str, count: int
) -> None:
    rows = folder_writer(tmp_path)
    _spoil(tmp_path, rows, fault)
    manifest_writer(tmp_path, rows)
    images = load_images(tmp_path, TOLERANT, tmp_path / "refused.json")
    refused = json.loads((tmp_path / "refused.json").read_text(encoding="utf-8"))
    assert sum(map(len, images.values())) == 8 - count
    assert len(refused) == count
    assert "image1.png" in refused[0]["file"]
    assert reason in refused[0]["reason"]
    with pytest.raises(TrainingError, match=r"image1\.png"):
        load_images(tmp_path, DataSettings(image_size=32, max_refused=0.0))


def test_unknown_labels_are_not_known_and_not_positive(
    tmp_path: Path, folder_writer: WriteFolder, manifest_writer: WriteManifest
) -> None:
    rows = folder_writer(tmp_path)
    rows[0].update(labels="Effusion", unknown="Pneumonia|No Finding|Mass")
    rows[1].update(labels="", unknown="Effusion|No Finding")
    manifest_writer(tmp_path, [{**row, "unknown": row.get("unknown", "")} for row in rows])
    settings = DataSettings(image_size=32, findings=("Pleural Effusion", "Pneumonia"))
    assert settings.findings == ("Effusion", "Pneumonia")
    images = load_images(tmp_path, settings)["train"]
    assert images.labels[:3].tolist() == [[True, False, False], [False] * 3, [True, True, False]]
    assert images.known[:3].tolist() == [[True, False, False], [False, True, False], [True] * 3]
    batch = images.draw(torch.tensor([1, 0]), torch.Generator().manual_seed(0)).to(torch.device("cpu"))
    assert batch.known.tolist() == images.known[[1, 0]].tolist() == images.take(torch.tensor([1, 0])).known.tolist()


def test_a_finding_that_no_training_image_shows_is_an_error(
    tmp_path: Path, folder_writer: WriteFolder, manifest_writer: WriteManifest
) -> None:
    rows = folder_writer(tmp_path)
    manifest_writer(tmp_path, [{**row, "unknown": "Mass"} for row in rows])
    check_findings(load_images(tmp_path, DataSettings(image_size=32))["train"])
    settings = DataSettings(image_size=32, findings=("Pneumonia", "Mass", "Edema", "Fracture"))
    with pytest.raises(TrainingError, match=r"Mass, Fracture\n(.|\n)*\[Pneumonia, Edema\]"):
        check_findings(load_images(tmp_path, settings)["train"])


@pytest.mark.parametrize(
    ("findings", "named"),
    [([], "at least 1"), (["Pneumonja"], "'Pneumonja'"), (["No Finding"], "'No Finding'"), (["Mass", "Mass"], "twice")],
)
def test_findings_are_checked(findings: list[str], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        DataSettings(findings=tuple(findings))


def test_images_are_read_from_any_store_and_from_tars(tmp_path: Path, folder_writer: WriteFolder) -> None:
    folder_writer(tmp_path)
    wanted = load_images(tmp_path, TOLERANT)
    memory = open_store("memory://images-test")
    shards = tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "all.tar", "w") as tar:
        for file in sorted(tmp_path.glob("*.png")):
            tar.add(file, file.name)
            memory.replace(file.name, file)
    memory.replace("manifest.csv", tmp_path / "manifest.csv")
    lines = (tmp_path / "manifest.csv").read_text().splitlines()
    (shards / "manifest.csv").write_text("\n".join([f"{lines[0]},shard", *(f"{r},all.tar" for r in lines[1:])]))
    for place in ("memory://images-test", shards):
        found = load_images(place, TOLERANT)
        for split in ("train", "val"):
            assert torch.equal(found[split].images, wanted[split].images)
            assert torch.equal(found[split].label_map, wanted[split].label_map)
            assert torch.equal(found[split].labels, wanted[split].labels)


def test_too_many_faults_are_counted_in_the_error(tmp_path: Path, folder_writer: WriteFolder) -> None:
    folder_writer(tmp_path)
    for number in range(3):
        (tmp_path / f"image{number}.png").unlink()
    (tmp_path / "mask4.png").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"4 images refused .3 missing file, 1 unreadable mask., 4 used"):
        load_images(tmp_path, DataSettings(image_size=32))


@pytest.mark.parametrize("content", [None, "", "image,mask\na,b\n"])
def test_a_manifest_without_its_columns_is_an_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.csv").write_text(content, encoding="utf-8")
    with pytest.raises(TrainingError, match=r"manifest\.csv"):
        load_images(tmp_path, TOLERANT)


def test_image_and_mask_are_warped_together_and_never_mirrored() -> None:
    label_map = torch.zeros(4, 64, 64, dtype=torch.uint8)
    label_map[:, 8:40, 36:60] = 1
    warp = WarpSettings(rotate_deg=10, scale=0.1, shift=0.05, gamma=0, brightness=0, contrast=0)
    image, warped, _ = warped_view(label_map * 200, label_map, 48, warp, torch.Generator().manual_seed(1))
    same = (image[:, 0] > 100 / 255) == (warped == 1)
    assert same.float().mean() > 0.99
    columns = (warped == 1).float().mean(dim=1)
    assert bool((columns[:, 24:].sum(dim=1) > columns[:, :24].sum(dim=1)).all())
    assert not torch.equal(warped[0], warped[1])


def test_a_plain_view_keeps_image_and_codes() -> None:
    label_map = torch.zeros(1, 64, 64, dtype=torch.uint8)
    label_map[:, 16:48, 32:] = 3
    image, plain = plain_view(label_map * 50, label_map, 32)
    assert plain[0, 8:24, 16:].eq(3).all()
    assert plain.sum() == 3 * 16 * 16
    assert torch.allclose(image[0, 0, 12, 24], torch.tensor(150 / 255), atol=1e-3)
