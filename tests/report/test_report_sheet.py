from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.doubles.fakes import box_finding, fake, fake_groups
from xreal_synth import findings as vocab
from xreal_synth.errors import DatasetError
from xreal_synth.report.contact_sheet import CELL, NOTICE, contact_sheet, sheet_png
from xreal_synth.report.drawing import FINDING_COLOURS, ORGAN_COLOURS, annotated, plain
from xreal_synth.types import PlacedFinding, Sample

BOX = (64, 128, 128, 192)


@pytest.fixture
def sample() -> Sample:
    return fake(1, "v0", [box_finding("Pneumonia", BOX)], size=256)


def tinted(image: Image.Image) -> np.ndarray:
    """Where the picture is not grey -> bool [H, W]."""
    pixels = np.asarray(image).astype(int)
    return np.ptp(pixels, axis=2) > 12


def test_the_plain_image_is_untouched(sample: Sample) -> None:
    assert not tinted(plain(sample, 256)).any()
    assert np.array_equal(np.asarray(plain(sample, 256))[..., 0], sample.image)


def test_outlines_follow_the_organs_and_the_tint_the_region(sample: Sample) -> None:
    colour = tinted(annotated(sample, 256))
    x0, y0, x1, y1 = BOX
    assert colour[y0:y1, x0:x1].mean() > 0.95
    inside = np.zeros((256, 256), bool)
    inside[y0 - 20 : y1 + 4, x0 - 4 : x1 + 30] = True
    edges = np.zeros((256, 256), bool)
    for code in vocab.ORGANS.values():
        organ = sample.anatomy == code
        grown = np.pad(organ, 3)
        shifts = [grown[3 + dy : 259 + dy, 3 + dx : 259 + dx] for dy in (-3, 0, 3) for dx in (-3, 0, 3)]
        edges |= np.any(shifts, axis=0) & ~np.all(shifts, axis=0)
    assert not colour[~inside & ~edges].any()
    assert colour[~inside & edges].mean() > 0.2


def test_a_region_without_boxes_of_its_own_is_outlined() -> None:
    edema = PlacedFinding("Edema", "both", "any", "lungs", ((20, 20, 240, 200),))
    lungs = np.isin(fake(1, "h", size=256).anatomy, vocab.LUNGS)
    without = tinted(annotated(fake(1, "h", size=256), 256))
    with_it = tinted(annotated(fake(1, "v0", [edema], size=256), 256))
    assert (with_it & lungs).sum() > 4 * (without & lungs).sum()


@pytest.mark.parametrize("columns", [1, 2, 3, 6])
def test_every_image_gets_its_cells(columns: int, tmp_path: Path) -> None:
    samples = fake_groups(0, 4, size=64)
    contact_sheet(iter(samples), tmp_path / "deep" / "sheet.png", columns=columns, title="fakes")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["sheet.png"]
    sheet = Image.open(tmp_path / "deep" / "sheet.png")
    assert sheet.text["Description"] == NOTICE
    pixels = np.asarray(sheet.convert("RGB"))
    assert sheet.width < columns * (CELL + 40) + 700
    found = {place for sample in samples for place in _places(pixels, np.asarray(plain(sample, CELL)))}
    assert len(found) == len(samples)


def _places(page: np.ndarray, image: np.ndarray) -> list[tuple[int, int]]:
    """Top left corners at which the page shows the image exactly."""
    height, width = image.shape[:2]
    start = image[0, :12].tobytes()
    places = []
    for y in range(page.shape[0] - height + 1):
        line, at = page[y].tobytes(), -1
        while (at := line.find(start, at + 1)) >= 0:
            if np.array_equal(page[y : y + height, at // 3 : at // 3 + width], image):
                places.append((y, at // 3))
    return places


def test_long_names_many_findings_and_odd_sides_are_drawn() -> None:
    findings = [box_finding("Pleural_Thickening", (i, i, i + 3, i + 3)) for i in range(0, 40, 5)]
    crowded = fake(2, "v0", findings, size=64)
    wide = fake(3, "h", size=64)
    wide = dataclasses.replace(wide, image=wide.image[:32], anatomy=wide.anatomy[:32], pathology=wide.pathology[:32])
    assert Image.open(io.BytesIO(sheet_png([crowded, wide], columns=2, title="t" * 200))).width >= 720


def test_same_samples_same_sheet() -> None:
    samples = fake_groups(0, 2)
    assert sheet_png(samples, columns=4, title="x") == sheet_png(samples, columns=4, title="x")


def test_no_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images"):
        contact_sheet([], tmp_path / "x.png", columns=4, title="x")
    assert not (tmp_path / "x.png").exists()


def test_colours_can_be_reported_apart() -> None:
    colours = [*ORGAN_COLOURS.values(), *FINDING_COLOURS]
    apart = [np.abs(np.subtract(a, b)).sum() for i, a in enumerate(colours) for b in colours[:i]]
    assert min(apart) > 45
