"""The shape model, fitted on schematic chests: it draws valid, varied masks and survives storage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.doubles.schematic import schematic_mask
from xreal_synth.anatomy.label_map import organ_areas
from xreal_synth.anatomy.shape_model import ShapeModel
from xreal_synth.anatomy.validate import validate_mask
from xreal_synth.errors import AnatomyError, BundleError
from xreal_synth.seeds import stream
from xreal_synth.training import fit_bank
from xreal_synth.types import Mask

COUNT = 40


@pytest.fixture(scope="module")
def masks() -> list[Mask]:
    rng = np.random.default_rng(11)
    return [schematic_mask(96, rng) for _ in range(COUNT)]


@pytest.fixture(scope="module")
def model(masks: list[Mask]) -> ShapeModel:
    return ShapeModel.fit(masks, modes=12)


@pytest.fixture(scope="module")
def bank(model: ShapeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    model.save(folder)
    return folder


def test_the_mean_looks_like_the_mean_chest(model: ShapeModel) -> None:
    mean = model.render(np.zeros(12), 96)
    target = schematic_mask(96)
    for code in (1, 2, 3, 4):
        a, b = mean == code, target == code
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.9, f"organ {code}"


@pytest.mark.parametrize("size", [32, 64, 256])
def test_draws_are_valid_and_varied(model: ShapeModel, size: int) -> None:
    drawn = [model.sample(stream(1, i, 0, "anatomy"), size) for i in range(30)]
    for mask in drawn:
        assert mask.shape == (size, size)
        validate_mask(mask, "draw")
    assert len({mask.tobytes() for mask in drawn}) == 30


def test_draws_have_the_training_masks_areas(model: ShapeModel, masks: list[Mask]) -> None:
    known = np.array([organ_areas(mask)[1:] for mask in masks]) / 96**2
    drawn = np.array([organ_areas(model.sample(stream(2, i, 0, "anatomy"), 96))[1:] for i in range(100)]) / 96**2
    assert drawn.mean(axis=0) == pytest.approx(known.mean(axis=0), rel=0.06)
    assert (drawn.std(axis=0) > 0.5 * known.std(axis=0)).all()


def test_the_picture_does_not_depend_on_its_size(model: ShapeModel) -> None:
    small, large = (model.sample(stream(3, 0, 0, "anatomy"), size) for size in (64, 256))
    assert (large[2::4, 2::4] == small).mean() > 0.97


def test_stored_and_loaded_it_draws_the_same_and_stays_small(model: ShapeModel, bank: Path) -> None:
    loaded = ShapeModel.load(bank)
    again = ShapeModel.load(bank)
    assert sum(file.stat().st_size for file in bank.iterdir()) < 12 * 14_000 + 40_000
    assert loaded.fitted == COUNT
    for i in range(5):
        mask = loaded.sample(stream(4, i, 0, "anatomy"), 128)
        assert np.array_equal(mask, again.sample(stream(4, i, 0, "anatomy"), 128))
        assert (mask == model.sample(stream(4, i, 0, "anatomy"), 128)).mean() > 0.99


def test_a_bank_that_cannot_be_read(bank: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"shape_model\.json"):
        ShapeModel.load(tmp_path)
    about = json.loads((bank / "shape_model.json").read_text())
    (tmp_path / "shape_model.json").write_text(json.dumps({**about, "format_version": 2}))
    with pytest.raises(BundleError, match="format 2"):
        ShapeModel.load(tmp_path)
    (tmp_path / "shape_model.json").write_text(json.dumps(about))
    (tmp_path / "shape_model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(BundleError, match="cannot be read"):
        ShapeModel.load(tmp_path)


def _dataset(folder: Path, count: int, label: str = "") -> Path:
    """Masks, the first not sure and the second of another split; the last third with a label and low lungs."""
    (folder / "masks").mkdir()
    lines = ["mask,mask_score,split,labels"]
    rng = np.random.default_rng(5)
    for i in range(count):
        ill = bool(label) and 3 * i >= 2 * count
        mask = schematic_mask(96, rng)
        if ill:
            mask = np.roll(mask, 8, axis=0)
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
        split = "val" if i == 1 else "train"
        lines.append(f"masks/{i}.png,{0.8 if i == 0 else 0.95},{split},{label if ill else ''}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_the_bank_is_fitted_on_the_sure_training_masks(tmp_path: Path) -> None:
    data = _dataset(tmp_path, 12)
    out = tmp_path / "bank"
    bank = fit_bank.fit_bank(data, out, modes=4)
    assert (bank.fitted, len(bank.modes)) == (10, 4)
    assert ShapeModel.load(out).fitted == 10


def test_a_wrong_mask_is_named(tmp_path: Path) -> None:
    data = _dataset(tmp_path, 3)
    Image.fromarray(schematic_mask(96)[:, ::-1]).save(data / "masks" / "2.png")
    with pytest.raises(AnatomyError, match=r"2\.png"):
        fit_bank.training_masks(data, 0.9)
    with pytest.raises(AnatomyError, match="swapped"):
        fit_bank.fit_bank(data, tmp_path / "bank")
    assert not (tmp_path / "bank").exists()


def test_the_bank_is_of_images_without_findings_and_knows_where_those_with_lie(tmp_path: Path) -> None:
    bank = fit_bank.fit_bank(_dataset(tmp_path, 36, "Effusion"), tmp_path / "bank", modes=20)
    assert (bank.fitted, list(bank.shifts)) == (22, ["Effusion"])

    def height(findings: tuple[str, ...]) -> float:
        drawn = [bank.sample(np.random.default_rng(seed), 96, findings) for seed in range(6)]
        return float(np.mean([np.nonzero(mask)[0].mean() for mask in drawn]))

    healthy = height(())
    assert height(("Effusion",)) > healthy + 3
    assert height(("Edema",)) == healthy, "a finding that no image showed has the outline of the healthy"
