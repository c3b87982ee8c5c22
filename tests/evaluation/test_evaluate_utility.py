"""Which images each classifier gets, figures by hand, and the command: done once, gone on with, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import from_numpy
from torchmetrics.functional.classification import binary_auroc

from xreal_synth.errors import DatasetError
from xreal_synth.evaluation.findings import area
from xreal_synth.evaluation.intervals import Bootstrap
from xreal_synth.evaluation.utility import Arm, LabelledImages, Trained, UtilityCell, cells_of, phases_of, real_share
from xreal_synth.evaluation.utility_figures import rows_of, table_of

Evaluate = Callable[..., int]
Out = pytest.CaptureFixture[str]


def images_of(positive: list[int], patients: list[int], *, synthetic: bool = False) -> LabelledImages:
    images = np.arange(len(positive), dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    names = np.asarray([f"p{patient}" for patient in patients])
    return LabelledImages(images, ("Pneumonia",), np.asarray(positive)[:, None], names, synthetic)


REAL = images_of([1, 0, 0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
MADE = images_of([1, 0, 1, 0], [0, 0, 1, 1], synthetic=True)


def test_every_way_at_every_share_and_synthetic_once_a_seed() -> None:
    cells = cells_of([0.1, 1.0], 3)
    assert len(cells) == len(set(cells)) == 3 * (1 + 2 * 3)
    assert len({cell.key for cell in cells}) == len(cells)
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)


@given(st.integers(0, 50), st.floats(0.05, 1.0), st.floats(0.05, 1.0))
def test_shares_are_of_patients_and_nested(seed: int, one: float, other: float) -> None:
    small, large = (real_share(REAL, share, seed) for share in sorted((one, other)))
    kept = set(small.patients.tolist())
    assert kept <= set(large.patients.tolist())
    assert {"p0", "p3"} & kept, "someone with the finding"
    assert len(kept - {"p0", "p3"}) == int(np.ceil(min(one, other) * 7 - 1e-9))
    for patient in kept:
        assert (small.patients == patient).sum() == (REAL.patients == patient).sum()


def test_a_share_of_all_is_all() -> None:
    assert len(real_share(REAL, 1.0, 4)) == len(REAL)
    assert len(set(real_share(REAL, 0.25, 4).patients.tolist())) == 1 + 2, "rounded up among each"


def test_a_small_share_has_someone_with_each_finding() -> None:
    """Eight patients with Effusion, one of them alone with Mass too: she counts to the rarer."""
    labels = np.zeros((16, 2), np.int64)
    labels[:8, 0], labels[3, 1] = 1, 1
    names = np.asarray([f"p{at}" for at in range(16)])
    images = LabelledImages(np.zeros((16, 4, 4), np.uint8), ("Effusion", "Mass"), labels, names, synthetic=False)
    part = real_share(images, 0.25, 0)
    assert part.positives() == {"Effusion": 2 + 1, "Mass": 1}
    assert len(part) == 2 + 1 + 2
    assert set(part.patients.tolist()) < set(real_share(images, 0.5, 0).patients.tolist())


def test_phases_have_the_same_steps_in_all() -> None:
    real, both, before = (
        phases_of(UtilityCell(arm, 1.0, 0), REAL, MADE, 9) for arm in (Arm.real, Arm.both, Arm.pretrained)
    )
    alone = phases_of(UtilityCell(Arm.synthetic, 0.0, 0), REAL, MADE, 9)
    for phases in (real, both, before, alone):
        assert sum(phase.steps for phase in phases) == 9
    assert [[one.synthetic for one in phase.sets] for phase in both] == [[False, True]]
    assert [[one.synthetic for one in phase.sets] for phase in before] == [[True], [False]]
    assert [[one.synthetic for one in phase.sets] for phase in alone] == [[True]]


def test_a_set_of_one_kind_is_refused_with_its_name() -> None:
    healthy = images_of([0, 0], [0, 1], synthetic=True)
    with pytest.raises(DatasetError, match="synthetic images: 0 of 2 images show"):
        phases_of(UtilityCell(Arm.both, 1.0, 0), REAL, healthy, 4)
    assert phases_of(UtilityCell(Arm.real, 1.0, 0), REAL, healthy, 4)
    with pytest.raises(DatasetError, match="100% of the real training images: 0 of 2"):
        phases_of(UtilityCell(Arm.real, 1.0, 0), images_of([0, 0], [0, 1]), MADE, 4)


def test_figures_by_hand() -> None:
    """Two images with the finding, two without: the share of the four pairs that stand in the right order."""
    test = images_of([1, 1, 0, 0], [0, 1, 2, 3])
    scores = {
        UtilityCell(Arm.real, 1.0, 0): [3, 1, 2, 0],  # 3 of 4 pairs
        UtilityCell(Arm.real, 1.0, 1): [1, 1, 1, 0],  # 2 pairs and two ties: 3 of 4
        UtilityCell(Arm.both, 1.0, 0): [3, 2, 1, 0],  # 4 of 4
        UtilityCell(Arm.both, 1.0, 1): [0, 3, 1, 2],  # 2 of 4
        UtilityCell(Arm.synthetic, 0.0, 0): [0, 0, 1, 1],  # none
    }
    trained = [Trained(cell, np.asarray(one, float)[:, None], 10, 4, 1.0) for cell, one in scores.items()]
    rows = rows_of(trained, test)
    assert [(row.arm, row.share) for row in rows] == [(Arm.synthetic, 0.0), (Arm.real, 1.0), (Arm.both, 1.0)]
    assert {row.measure for row in rows} == {"AUC"}
    made, real, both = rows
    assert (made.mean.value.value, made.mean.gain) == (0, None)
    assert made.mean.of_real is not None
    assert made.mean.of_real.value == pytest.approx((0 - 0.5) / (0.75 - 0.5))
    assert np.isnan(made.deviation)
    assert real.mean.value.value == pytest.approx(0.75)
    assert (real.mean.of_real, real.deviation) == (None, 0)
    assert both.mean.value.value == pytest.approx(0.75)
    assert both.findings == {"Pneumonia": both.mean}
    assert both.deviation == pytest.approx(np.sqrt(2 * 0.25**2))
    assert both.mean.gain is not None
    assert both.mean.gain.value == pytest.approx(0)
    assert both.mean.gain.ci_low < 0 < both.mean.gain.ci_high
    first, second = table_of(rows).split("\n\n")
    assert len(first.splitlines()) == 2 + 3
    assert first.splitlines()[-1].startswith("| real + synthetic | 10 (100%) | 4 | 0.750 [")
    assert second.splitlines()[0] == "| (AUC - 0.5) of synthetic over real | Pneumonia |"
    assert second.splitlines()[2].startswith("| synthetic alone | -2.000 [")


def test_figures_of_two_findings_are_their_mean() -> None:
    """Mass is unknown of the last image; a ratio to real images is taken finding by finding."""
    labels = np.asarray([[1, 1], [0, 1], [1, 0], [0, 0], [0, -1]])
    names = np.asarray([f"p{at}" for at in range(5)])
    test = LabelledImages(np.zeros((5, 4, 4), np.uint8), ("Effusion", "Mass"), labels, names, synthetic=False)
    scores = {
        UtilityCell(Arm.real, 1.0, 0): ([5, 4, 3, 2, 1], [4, 3, 2, 1, 9]),  # 5 of 6 pairs; all four
        UtilityCell(Arm.synthetic, 0.0, 0): ([5, 3, 4, 2, 1], [4, 1, 2, 3, 9]),  # all six; 2 of 4
    }
    rows = rows_of([Trained(cell, np.asarray(one, float).T, 5, 4, 1.0) for cell, one in scores.items()], test)
    made, real = rows
    assert [one.value.value for one in real.findings.values()] == pytest.approx([5 / 6, 1])
    assert real.mean.value.value == pytest.approx((5 / 6 + 1) / 2)
    ratios = [one.of_real.value for one in made.findings.values() if one.of_real is not None]
    assert ratios == pytest.approx([0.5 / (5 / 6 - 0.5), 0])
    assert made.mean.of_real is not None
    assert made.mean.of_real.value == pytest.approx(np.mean(ratios))
    assert (made.findings["Mass"].value.n, made.findings["Effusion"].value.n) == (4, 5)
    assert table_of(rows).count("| AUC, gain over real alone | real images | Effusion | Mass |") == 1


def test_areas_are_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.random(40).round(1), rng.integers(0, 2, 40)
    own = area(scores, labels, Bootstrap([str(at) for at in range(40)], draws=5))
    assert own.value == pytest.approx(float(binary_auroc(from_numpy(scores), from_numpy(labels))), abs=1e-6)


@pytest.fixture
def options(images: Path, fake_dataset: Path) -> list[str]:
    return [
        "utility", str(fake_dataset), "--real", str(images / "manifest.csv"), "--finding", "Pneumonia",
        "--shares", "0.5,1", "--size", "32", "--steps", "2", "--batch", "4",
    ]  # fmt: skip


def test_the_command_trains_each_once_and_goes_on(
    options: list[str], tmp_path: Path, evaluate: Evaluate, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "utility"
    assert evaluate(*options, "--out", str(out), "--seeds", "1", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert first == json.loads((out / "utility.json").read_text())
    assert len(list((out / "cells").iterdir())) == 7
    assert first["synthetic"] == {"images": 20, "positive": {"Pneumonia": 4}, "patients": 12}
    assert first["real"]["test"] == {"images": 6, "positive": {"Pneumonia": 2}, "patients": 3}
    assert [row["arm"] for row in first["rows"]].count("real + synthetic") == 2
    assert "Tested on 6 real images of 3 patients (2 Pneumonia)" in (out / "utility.md").read_text()
    with Image.open(out / "utility.png") as picture:
        assert picture.width > 600

    (out / "cells" / "both-1-seed0.json").unlink()
    trained: list[int] = []
    from xreal_synth.training import study

    real = study.scores_after
    monkeypatch.setattr(study, "scores_after", lambda *given: (trained.append(given[3]), real(*given))[1])
    assert evaluate(*options, "--out", str(out), "--seeds", "1", "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert trained == [0], "the one that was missing"
    assert again["rows"] == first["rows"], "to the bit"
    assert evaluate(*options, "--out", str(out), "--seeds", "2") == 0
    assert trained == [0] + [1] * 7

    assert evaluate(*options, "--out", str(out), "--steps", "4") == 2
    reported = capsys.readouterr().err
    assert "steps 2, now 4" in reported


def test_several_findings_at_once(options: list[str], tmp_path: Path, evaluate: Evaluate, capsys: Out) -> None:
    more = ["--finding", "Effusion", "--shares", "1", "--seeds", "1", "--json", "--out", str(tmp_path)]
    assert evaluate(*options, *more) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["network"]["findings"] == ["Pneumonia", "Effusion"]
    assert found["real"]["test"]["positive"] == {"Pneumonia": 2, "Effusion": 1}
    assert [row["arm"] for row in found["rows"]] == ["synthetic", "real", "real + synthetic", "synthetic, then real"]
    assert all(set(row["findings"]) == {"Pneumonia", "Effusion"} for row in found["rows"])
    cell = json.loads((tmp_path / "cells" / "synthetic-0-seed0.json").read_text())
    assert np.asarray(cell["outputs"]).shape == (6, 2)


def test_a_detector_is_trained_and_tested_on_boxes(
    options: list[str], tmp_path: Path, evaluate: Evaluate, capsys: Out
) -> None:
    more = ["--task", "localise", "--shares", "1", "--seeds", "2", "--json", "--out", str(tmp_path)]
    assert evaluate(*options, *more) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["measure"], row["arm"]) for row in found["rows"]] == [
        (measure, arm)
        for measure in ("pointing game", "average precision")
        for arm in ("synthetic", "real", "real + synthetic")
    ]
    assert all(0 <= row["mean"]["value"]["value"] <= 1 for row in found["rows"])
    cell = json.loads((tmp_path / "cells" / "both-1-seed1.json").read_text())
    boxes = np.asarray(cell["outputs"])
    assert set(boxes[:, 0].astype(int).tolist()) == set(range(6)), "every map gives a box"
    assert (boxes[:, 4] < boxes[:, 6]).all()
    assert (tmp_path / "utility.png").is_file()
    assert evaluate(*options, *more, "--finding", "Effusion") == 2
    assert "show Effusion in a box" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--finding", "Pneumona"], "Pneumona"),
        (["--shares", "0,1"], "over 0, up to 1"),
        (["--batch", "6"], "multiple of 4"),
        (["--split", "train"], "both in training and in test"),
        (["--finding", "Cardiomegaly"], "test images: 0 of 6 images show Cardiomegaly"),
        (["--real", "other.csv"], "manifest.csv"),
    ],
)
def test_mistakes_are_reported_before_anything_is_trained(
    options: list[str], tmp_path: Path, evaluate: Evaluate, capsys: Out, more: list[str], words: str
) -> None:
    assert evaluate(*options, "--out", str(tmp_path / "out"), *more) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out" / "cells").exists()
