"""`xreal-synth prepare` as a user meets it: what it makes, says and refuses, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xreal_synth.cli.main import main
from xreal_synth.report.contact_sheet import ReviewImage, review_sheet

OWN = [
    "--table", "list.csv", "--image-column", "file", "--patient-column", "pid", "--labels-column", "report",
    "--unknown-column", "unsure", "--mask-column", "mask", "--rename", "pleural fluid=Effusion", "--size", "64",
    "--splits", "0.5/0.5", "--workers", "1",
]  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["xreal-synth", "prepare", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def root(trees: Any, tmp_path: Path) -> Path:
    trees.folder(tmp_path / "source")
    return tmp_path


def test_a_folder_is_prepared_and_reported_of(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "source/images/f3.png").unlink()
    given = ["folder", root / "source", "--out", root / "images", *OWN, "--review", "9", "--shards", "5"]
    assert run(monkeypatch, *given) == 0
    reported = capsys.readouterr().out
    assert "11 images of 6 patients" in reported
    assert "refused: 1 missing file" in reported
    assert "images/f3.png: no images/f3.png" in reported
    assert f"--data {root / 'images'}" in reported
    made = {path.name for path in (root / "images").iterdir()}
    assert made == {
        "manifest.csv", "images", "masks", "shards", "prepared.json", "prepared.jsonl", "refused.json", "review.png",
    }  # fmt: skip
    with Image.open(root / "images/review.png") as sheet:
        assert sheet.size == (2 * 24 + 6 * 264 - 8, 70 + 2 * 314 + 24)
    assert run(monkeypatch, *given, "--json") == 0
    account = json.loads(capsys.readouterr().out)
    assert account["labels"]["Effusion"] == {"positive": 3, "negative": 8, "unknown": 0}
    assert account["refused"] == {"missing file": 1}


def test_too_many_refused_images_end_with_3(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(6):
        Image.fromarray(np.full((64, 64), 30 * n, np.uint8)).save(root / f"source/images/f{n}.png")
    given = ["folder", root / "source", "--out", root / "images", *OWN]
    assert run(monkeypatch, *given) == 3
    reported = capsys.readouterr()
    assert "refused: 6 one-colour image" in reported.out
    assert "and 1 more" in reported.out
    assert "50% of the images were refused" in reported.err
    assert run(monkeypatch, *given, "--max-refused", "0.6") == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["folder", "SOURCE", "--out", "OUT"], "without --table"),
        (["nih", "SOURCE", "--out", "OUT", "--table", "list.csv"], "with --table"),
        (["nih", "SOURCE", "--out", "OUT"], "Data_Entry_2017_v2020.csv"),
        (["nih", "SOURCE/nowhere", "--out", "OUT"], "nowhere"),
        (["folder", "SOURCE", "--out", "OUT", *OWN, "--rename", "wet=Wet"], "--rename 'wet=Wet'"),
        (["folder", "SOURCE", "--out", "OUT", *OWN, "--splits", "80/20"], "--splits 80/20"),
        (["folder", "SOURCE", "--out", "OUT", *OWN, "--splits", "official"], "no splits"),
        (["folder", "SOURCE", "--out", "OUT", *OWN, "--image-column", "nam"], "file, pid, report"),
        (["folder", "SOURCE", "--out", "SOURCE", *OWN], "something else"),
        (["folder", "SOURCE", "--out", "OUT", *OWN, "--size", "512"], "12 image of another size"),
        (["folder", "gopher://x/y", "--out", "OUT", *OWN], "gopher"),
        (["mimick", "SOURCE", "--out", "OUT"], "mimick"),
    ],
)
def test_a_mistake_is_named_and_ends_with_2(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], named: str
) -> None:
    places = {"SOURCE": str(root / "source"), "OUT": str(root / "images")}
    assert run(monkeypatch, *(places.get(o, o.replace("SOURCE/", f"{root}/source/")) for o in options)) == 2
    reported = capsys.readouterr()
    assert named in reported.err.replace("\n", " ")
    assert "Traceback" not in reported.err


def test_a_segmenter_that_is_not_there_is_named_before_anything_is_made(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [option for option in OWN if option not in ("--mask-column", "mask")]
    given = ["folder", root / "source", "--out", root / "images", *own]
    for segmenter, named in (
        ("xreal-mono", "xreal-mini"),
        ("xreal-tiny", "no segmenter/"),
        ("pspnet", "never fetched"),
    ):
        weights = ["--weights", root] if segmenter == "pspnet" else []
        assert run(monkeypatch, *given, "--segmenter", segmenter, *weights) == 2
        assert named in capsys.readouterr().err.replace("\n", " ")
    assert not (root / "images").exists()


def test_the_review_sheet_shows_images_in_the_order_given(trees: Any, tmp_path: Path) -> None:
    image, mask = trees.pair(1)
    images = [
        ReviewImage(image, mask, f"a/very/long/path/that/does/not/fit/on/one/line/{n}.png", 0.5 + n / 100, "x " * 90)
        for n in range(3)
    ]
    review_sheet([*images, ReviewImage(image, mask, "d")], tmp_path / "sheets/sheet.png", title="t", columns=2)
    with Image.open(tmp_path / "sheets/sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    first = pixels[70 + 8 : 70 + 248, 24 + 8 : 24 + 248]
    assert np.ptp(first, axis=2).max() > 60
    assert np.abs(first.mean(axis=2) - np.asarray(Image.fromarray(image).resize((240, 240)))).mean() < 12
