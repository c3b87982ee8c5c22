"""The shipped prior holds what it claims; the fit command makes such a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.doubles.schematic import schematic_mask
from tests.planning import fit_prior
from xreal_synth.errors import PlacementError
from xreal_synth.findings import FINDINGS
from xreal_synth.planning.prior import PATH, Lung, Prior

WITH_BOXES = {"Atelectasis", "Effusion", "Infiltration", "Lung Opacity", "Mass", "Nodule", "Pneumonia", "Pneumothorax"}
SIDES: tuple[Lung, Lung] = ("left", "right")


@pytest.fixture(scope="module")
def prior() -> Prior:
    return Prior.load()


def test_the_shipped_prior_covers_the_tables_findings(prior: Prior) -> None:
    assert set(prior.findings) == WITH_BOXES
    for known in prior.findings.values():
        assert 0.3 < known.left_share < 0.7
        for lung in SIDES:
            assert known.sides[lung].points.shape[1] == 4
            assert len(known.sides[lung].points) >= 30
            assert (known.sides[lung].bandwidth > 0).all()
    assert PATH.stat().st_size < 200_000


def test_the_shipped_prior_was_checked_against_images_with_masks() -> None:
    check = json.loads(PATH.read_text())["check"]
    assert check["boxes"] >= 35
    assert 0.8 <= check["share_of_centres_in_90_region"] <= 1.0
    assert abs(check["mean_share_of_box_in_lungs"] - check["mean_share_in_lungs_of_prior_draws"]) < 0.1


def test_draws_follow_what_is_known_of_the_findings(prior: Prior) -> None:
    """Effusions lie low, pneumothoraces high, nodules are small."""

    def median(name: str) -> np.ndarray:
        rng = np.random.default_rng(0)
        both = [prior.draw(name, lung, rng, 2000, fill=0.65) for lung in SIDES]
        return np.asarray(np.median(np.concatenate(both), axis=0))

    assert median("Effusion")[1] > median("Pneumonia")[1] > median("Pneumothorax")[1]
    assert median("Nodule")[2:].prod() < 0.2 * median("Pneumonia")[2:].prod()


def test_side_is_drawn_by_share(prior: Prior) -> None:
    rng = np.random.default_rng(1)
    drawn = [prior.draw_lung("Pneumonia", rng) for _ in range(4000)]
    assert np.mean([lung == "left" for lung in drawn]) == pytest.approx(
        prior.findings["Pneumonia"].left_share, abs=0.03
    )


@pytest.mark.parametrize("name", [name for name, f in FINDINGS.items() if f.region == "box" and name not in WITH_BOXES])
def test_findings_without_boxes_use_their_zone_weights_and_sizes(prior: Prior, name: str) -> None:
    drawn = prior.draw(name, "left", np.random.default_rng(2), 6000, fill=0.6)
    zone = np.floor(drawn[:, 1] * 3).astype(int)
    weights = np.array(FINDINGS[name].zone_weights)
    assert np.bincount(zone, minlength=3) / 6000 == pytest.approx(weights / weights.sum(), abs=0.03)
    size = drawn[:, 2] * drawn[:, 3] / 0.6
    low, high = FINDINGS[name].size
    assert size.min() >= low - 1e-9
    assert size.max() <= high + 1e-9


def test_density_integrates_to_one_and_peaks_where_the_boxes_are(prior: Prior) -> None:
    side = prior.findings["Effusion"].sides["right"]
    grid = np.stack(np.meshgrid(np.linspace(-1.5, 2.5, 161), np.linspace(-1.5, 2.5, 161)), axis=-1).reshape(-1, 2)
    density = fit_prior.centre_density(side, grid)
    assert density.sum() * (4 / 160) ** 2 == pytest.approx(1.0, abs=0.02)
    assert grid[density.argmax(), 1] > 0.5


def test_a_broken_or_newer_prior_is_refused(tmp_path: Path) -> None:
    stored = json.loads(PATH.read_text())
    for name, text in {
        "newer.json": json.dumps({**stored, "format_version": 2}),
        "broken.json": "{",
        "empty.json": json.dumps({"format_version": 1, "findings": {"Mass": {"left_share": 0.5}}}),
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(PlacementError, match=name):
            Prior.load(tmp_path / name)
    with pytest.raises(PlacementError, match="cannot be read"):
        Prior.load(tmp_path / "nowhere.json")


def test_frame_reads_a_box_in_the_lung_it_lies_in() -> None:
    frame = fit_prior.Frame(left=(0.5, 0.2, 0.9, 0.8), right=(0.1, 0.2, 0.4, 0.8))
    assert frame.lung_of((0.6, 0.3, 0.7, 0.4)) == "left"
    assert frame.lung_of((0.3, 0.3, 0.58, 0.4)) == "right"
    u, v, log_w, log_h = frame.read((0.5, 0.2, 0.7, 0.5), "left")
    assert (u, v) == pytest.approx((0.25, 0.25))
    assert np.exp([log_w, log_h]) == pytest.approx([0.5, 0.5])


def test_the_fit_command_makes_a_prior_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "masks").mkdir()
    boxes = '"[[""Pneumonia"", 0.2, 0.4, 0.15, 0.2], [""Cardiomegaly"", 0.4, 0.5, 0.3, 0.3]]"'
    lines = ["original_id,mask,mask_score,split,view,boxes_xywh_norm"]
    for i, (view, split) in enumerate([("PA", "train"), ("AP", "train"), ("PA", "val"), ("AP", "minor")]):
        Image.fromarray(schematic_mask(96, np.random.default_rng(i))).save(tmp_path / "masks" / f"{i}.png")
        lines.append(f"{i}.png,masks/{i}.png,0.95,{split},{view},{boxes if i > 1 else ''}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "prior.json"
    assert fit_prior.main(["--data", str(tmp_path), "--out", str(out)]) == 0
    assert set(Prior.load(out).findings) == WITH_BOXES
    check = json.loads(out.read_text())["check"]
    assert check["films"] == check["boxes"] == 1
    assert check["share_of_centres_in_90_region"] == 1.0
    assert "share of centres in 90 region: 1" in capsys.readouterr().out
