"""The table of figures and the table of choices on drawn images, with the tiny bundle and tiny evaluators."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xreal_synth.evaluation import request
from xreal_synth.evaluation.choices import cells_of
from xreal_synth.evaluation.kept import nan_for_null, null_for_nan
from xreal_synth.evaluation.request import Request

Evaluate = Callable[..., int]
Out = pytest.CaptureFixture[str]


@pytest.fixture
def options(images: Path, evaluators: Path) -> list[str]:
    return ["--data", str(images), "--bundle", "xreal-tiny", "--evaluators", str(evaluators)]


@pytest.fixture
def no_sampling(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, no bundle's networks can be loaded."""

    def forbid() -> None:
        monkeypatch.setattr(request, "load_bundle", lambda *given: pytest.fail("networks were loaded"))

    return forbid


def test_all_figures_and_pictures(
    options: list[str], tmp_path: Path, evaluate: Evaluate, capsys: Out, no_sampling: Callable[[], None]
) -> None:
    kept = ["--images", str(tmp_path / "images"), "--json"]
    pictures = ["--sheet", str(tmp_path / "sheet.png"), "--spectrum", str(tmp_path / "spectrum.png")]
    assert evaluate("bundle", *options, *kept, *pictures) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["with_finding"], found["training_images"]) == (6, 3, 8)
    assert set(found["findings"]) == {"Pneumonia", "Effusion", "Atelectasis", "Edema"}
    assert found["findings"]["Pneumonia"]["positives"] == 2
    assert found["findings"]["Atelectasis"]["positives"] == 0
    assert found["seconds"]["image with a finding"] > found["seconds"]["healthy image"] > 0
    assert found["findings"]["Atelectasis"]["auc"]["value"] is None
    assert found["core_seconds"]["image with a finding"] > 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 2 * 4 * 64
    assert (tmp_path / "spectrum.png").is_file()

    no_sampling()
    assert evaluate("bundle", *options, *kept) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == found
    assert evaluate("bundle", *options, *kept[:2]) == 0
    table = capsys.readouterr().out
    for row in ("Dice heart", "MS-SSIM", "kernel", "AUC", "rises Edema", "sharpness", "copies"):
        assert row in table
    assert (found["in_place"], found["in_place_mean"]) == ({}, None)
    assert "not measured" in table


def test_a_locator_says_whether_findings_are_in_place(
    options: list[str], with_locator: Path, tmp_path: Path, evaluate: Evaluate, capsys: Out
) -> None:
    kept = [*options, "--images", str(tmp_path), "--evaluators", str(with_locator)]
    assert evaluate("bundle", *kept, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["in_place"]) == {"Pneumonia", "Edema"}
    pneumonia, edema = found["in_place"]["Pneumonia"], found["in_place"]["Edema"]
    assert [pneumonia[kind]["n"] for kind in ("asked", "twin", "real")] == [2, 2, 2]
    assert (edema["asked"]["n"], edema["real"]["n"]) == (1, 0), "no radiologist's box"
    assert found["in_place_mean"] == pneumonia
    assert evaluate("bundle", *kept) == 0
    assert "in place Pneumonia" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_an_interrupted_run_goes_on_to_the_same_images(options: list[str], tmp_path: Path, evaluate: Evaluate) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert evaluate("bundle", *options, "--images", str(whole), "--json") == 0
    assert evaluate("bundle", *options, "--images", str(parts), "-n", "3") == 0
    assert len(list((parts / "made").iterdir())) == 3
    cut = sorted((parts / "made").iterdir())[0]
    cut.unlink()
    assert evaluate("bundle", *options, "--images", str(parts)) == 0
    images = {path.name: path.read_bytes() for path in (whole / "images").iterdir()}
    assert images == {path.name: path.read_bytes() for path in (parts / "images").iterdir()}
    assert len(images) == 9
    assert json.loads((parts / "seconds.json").read_text())["images"] == 7


def test_a_image_with_a_finding_differs_from_its_twin_within_its_boxes_alone(
    options: list[str], tmp_path: Path, evaluate: Evaluate
) -> None:
    assert evaluate("bundle", *options, "--images", str(tmp_path)) == 0
    asked = [json.loads(path.read_text()) for path in sorted((tmp_path / "made").iterdir())]
    numbers = [path.stem for path in sorted((tmp_path / "made").iterdir())]
    edited = 0
    for number, case in zip(numbers, asked, strict=True):
        twin = np.asarray(Image.open(tmp_path / "images" / f"{number}-h.png"))
        if not case["findings"]:
            assert not (tmp_path / "images" / f"{number}-v0.png").exists()
            continue
        variant = np.asarray(Image.open(tmp_path / "images" / f"{number}-v0.png"))
        inside = np.zeros(twin.shape, bool)
        for x0, y0, x1, y1 in [box for finding in case["findings"] for box in finding["boxes"]]:
            inside[y0:y1, x0:x1] = True
        assert (twin != variant)[inside].any()
        assert not (twin != variant)[~inside].any()
        edited += 1
    assert edited == 3


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["--set", "hold"], "KEY=VALUE"),
        (["--set", "holt=0.5"], "hold"),
        (["--set", "hold=1.5"], "hold"),
        (["--set", "hold=[1"], "hold"),
        (["--split", "tset"], "tset"),
        (["--train-split", "val"], "patients both"),
        (["-n", "7"], "lower -n"),
        (["--bundle", "xreal-huge"], "xreal-huge"),
        (["--evaluators", "no-such-folder"], "evaluators.json"),
    ],
)
def test_mistakes(options: list[str], evaluate: Evaluate, capsys: Out, wrong: list[str], named: str) -> None:
    assert evaluate("bundle", *options, *wrong) == 2
    assert named in capsys.readouterr().err.replace("\n", " ")


def test_images_generated_otherwise_are_refused(
    options: list[str], tmp_path: Path, evaluate: Evaluate, capsys: Out
) -> None:
    kept = [*options, "-n", "3", "--images", str(tmp_path)]
    assert evaluate("bundle", *kept) == 0
    assert evaluate("bundle", *kept, "--seed", "1") == 2
    assert "seed 0, now 1" in capsys.readouterr().err
    mark = sorted((tmp_path / "made").iterdir())[0]
    mark.write_text("{}")
    assert evaluate("bundle", *kept) == 2
    assert "other findings or boxes" in capsys.readouterr().err


def test_choices_vary_one_thing_at_a_time_and_resume(
    options: list[str], tmp_path: Path, evaluate: Evaluate, capsys: Out, no_sampling: Callable[[], None]
) -> None:
    grid = ["--grid", "hold=0.25,0.5", "--grid", "guidance=1", "-n", "3", "--out", str(tmp_path)]
    assert evaluate("choices", *options, *grid, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["cell"] for row in rows] == ["base", "hold=0.25", "guidance=1"]  # 0.5 is the bundle's own
    table = (tmp_path / "choices.md").read_text()
    assert table.count("\n| ") == 4
    assert "\n| real images | " in table
    assert "3 images a row" in table
    (tmp_path / "base" / "figures.json").write_text("{")
    no_sampling()
    assert evaluate("choices", *options, *grid) == 0
    assert (tmp_path / "choices.md").read_text() == table
    assert "hold=0.25" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("grid", "named"),
    [("hold", "KEY=VALUE"), ("hold=", "KEY=VALUE"), ("hold=0.1,2", "hold"), ("bundle=no-such", "no-such")],
)
def test_a_wrong_grid_makes_nothing(
    options: list[str], tmp_path: Path, evaluate: Evaluate, capsys: Out, grid: str, named: str
) -> None:
    assert evaluate("choices", *options, "-n", "3", "--grid", grid, "--out", str(tmp_path / "new")) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def cell_changes(cross: bool) -> list[dict[str, Any]]:
    base = Request("a", "images", "val", 3, 0, {"eta": 0.5}, "auto", 4)
    cells = cells_of(base, {"hold": [0.3, 0.5], "bundle": ["a", "../b"]}, cross=cross)
    assert [cell.request.bundle for cell in cells] == [cell.changes.get("bundle", "a") for cell in cells]
    assert all(cell.request.sampling["eta"] == 0.5 for cell in cells)
    assert all("/" not in cell.name for cell in cells)
    return [dict(cell.changes) for cell in cells]


def test_figures_that_are_not_there_survive_json() -> None:
    figures = {"a": [1.5, math.nan], "b": {"c": math.nan}, "d": "word"}
    text = json.dumps(null_for_nan(figures), allow_nan=False)
    again = nan_for_null(json.loads(text))
    assert again["a"][0] == 1.5
    assert again["d"] == "word"
    assert math.isnan(again["a"][1])
    assert math.isnan(again["b"]["c"])


def test_a_grid_is_crossed_or_not() -> None:
    assert cell_changes(cross=False) == [{}, {"hold": 0.3}, {"hold": 0.5}, {"bundle": "a"}, {"bundle": "../b"}]
    assert cell_changes(cross=True) == [
        {"hold": hold, "bundle": bundle} for hold in (0.3, 0.5) for bundle in ("a", "../b")
    ]
