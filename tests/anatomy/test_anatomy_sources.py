"""Mask folders and the bank as sources: every bad file is named, every draw is valid and repeatable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.doubles.schematic import schematic_mask
from xreal_synth.anatomy.augment import Augmentation
from xreal_synth.anatomy.shape_model import ShapeModel
from xreal_synth.anatomy.sources import AnatomySource, BankSource, FolderSource
from xreal_synth.anatomy.validate import validate_mask
from xreal_synth.errors import AnatomyError, BundleError
from xreal_synth.seeds import stream
from xreal_synth.types import ANATOMY_SOURCES

MILD = Augmentation(rotate_deg=5, shift=0.03, scale=0.06, elastic=0.02, heart_scale=(0.9, 1.25))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    for i in range(4):
        Image.fromarray(schematic_mask(96, rng)).save(tmp_path / f"image-{i}.png")
    (tmp_path / "notes.txt").write_text("not a mask")
    return tmp_path


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(11)
    folder = tmp_path_factory.mktemp("bank")
    ShapeModel.fit([schematic_mask(64, rng) for _ in range(16)], modes=6).save(folder)
    return folder


def _check_draws(source: AnatomySource, ids: set[str]) -> None:
    assert source.source_name in ANATOMY_SOURCES
    seen = set()
    for i in range(40):
        mask, name = source.draw(stream(1, i, 0, "anatomy"), 64)
        again, _ = source.draw(stream(1, i, 0, "anatomy"), 64)
        assert np.array_equal(mask, again)
        assert mask.flags.writeable
        validate_mask(mask, name)
        seen.add(name)
    assert seen == ids


@pytest.mark.parametrize("settings", [None, MILD])
def test_folder_draws(folder: Path, settings: Augmentation | None) -> None:
    source = FolderSource(folder, settings)
    assert len(source) == 4
    _check_draws(source, {f"image-{i}.png" for i in range(4)})


@pytest.mark.parametrize("settings", [None, MILD])
def test_bank_draws(bank: Path, settings: Augmentation | None) -> None:
    _check_draws(BankSource(bank, settings), {"bank"})


def test_a_palette_image_is_read_by_its_codes(tmp_path: Path) -> None:
    image = Image.fromarray(schematic_mask(64)).convert("P")
    image.putdata(schematic_mask(64).ravel().tolist())
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    image.save(tmp_path / "palette.png")
    mask, _ = FolderSource(tmp_path).draw(stream(1, 0, 0, "anatomy"), 64)
    assert np.array_equal(mask, schematic_mask(64))


def _damage(path: Path, kind: str) -> None:
    mask = schematic_mask(96)
    if kind == "text":
        path.write_bytes(b"hello")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:60])
    elif kind == "colours":
        Image.fromarray(np.stack([mask] * 3, axis=2)).save(path)
    elif kind == "code":
        Image.fromarray(np.where(mask == 3, 30, mask).astype(np.uint8)).save(path)
    elif kind == "swapped":
        Image.fromarray(mask[:, ::-1]).save(path)
    else:
        Image.fromarray(mask[:80]).save(path)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("text", "cannot be read"),
        ("cut", "cannot be read"),
        ("colours", "mode RGB"),
        ("code", "code 30"),
        ("swapped", "swapped"),
        ("wide", "96x80"),
    ],
)
def test_bad_files_are_named_together_when_the_folder_is_opened_and_can_be_left_out(
    folder: Path, kind: str, found: str
) -> None:
    whole = len(FolderSource(folder))
    for name in ("image-1.png", "image-2.png"):
        _damage(folder / name, kind)
    with pytest.raises(AnatomyError) as caught:
        FolderSource(folder)
    assert f"2 of {whole} organ masks" in caught.value.found
    assert caught.value.found.count(found) == 2
    assert "exclude: [image-1.png, image-2.png]" in caught.value.hint
    assert len(FolderSource(folder, exclude=("image-1.png", "image-2.png"))) == whole - 2
    with pytest.raises(AnatomyError, match=r"no mask image-9.png to leave out"):
        FolderSource(folder, exclude=("image-9.png",))


def test_no_folder_no_masks_no_bank(tmp_path: Path) -> None:
    with pytest.raises(AnatomyError, match="no such folder"):
        FolderSource(tmp_path / "nowhere")
    with pytest.raises(AnatomyError, match="no PNG"):
        FolderSource(tmp_path)
    with pytest.raises(BundleError, match="mask bank"):
        BankSource(tmp_path)


def test_an_augmentation_that_spoils_every_mask_is_the_users_mistake(folder: Path) -> None:
    source = FolderSource(folder, Augmentation(heart_scale=(3.5, 3.6)))
    with pytest.raises(AnatomyError, match=r"25 times") as caught:
        source.draw(stream(1, 0, 0, "anatomy"), 64)
    assert "heart_scale" in caught.value.hint
