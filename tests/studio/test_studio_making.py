"""What the studio makes: chests, images that are the pipeline's own, recipe rows, and mistakes in our words."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.doubles.schematic import schematic_mask
from xreal_synth.dataset.tar import encode_sample
from xreal_synth.errors import AnatomyError, PlacementError, RecipeError, XrealError
from xreal_synth.from_recipe import Finding
from xreal_synth.generated import GeneratedImage
from xreal_synth.recipe.load import recipe_from_text
from xreal_synth.studio.making import BANK, OWN_IMAGE, OWN_MASK, Canvas, Made, Studio, recipe_rows
from xreal_synth.types import NormBox

PNEUMONIA = Finding("Pneumonia", side="right", zone="lower")


def bank(studio: Studio, seed: int = 7, heart: float = 1.0, findings: Any = ()) -> Canvas:
    return studio.canvas(findings, BANK, seed, heart, None, None)


def made(studio: Studio, canvas: Canvas, findings: list[Finding], seed: int = 7, profile: str = "none") -> Made:
    shares: list[float] = []
    one = studio.make(canvas, findings, seed=seed, guidance=2.0, steps=4, profile=profile, on_share=shares.append)
    assert shares == ([0.5, 1] if findings else [1])
    assert one.seconds > 0
    return one


def in_right_lung(canvas: Canvas) -> NormBox:
    """A box in the middle of the lung, shares of the picture."""
    side = canvas.organs.shape[0]
    y, x = (float(np.median(where)) / side for where in np.nonzero(canvas.organs == 2))
    return x - 0.06, y - 0.08, x + 0.06, y + 0.08


def files(one: GeneratedImage) -> object:
    return encode_sample(one.sample).members


def test_a_chest_of_the_bank_is_the_pipelines(studio: Studio) -> None:
    assert (bank(studio).label_map == studio.pipeline.sample_anatomy(7)).all()
    sizes = [int((bank(studio, heart=scale).organs == 3).sum()) for scale in (0.7, 1.6)]
    assert sizes[1] > 2 * sizes[0]
    small, large = (studio.canvas([], BANK, 7, 1.0, None, None, scale) for scale in (0.8, 1.2))
    assert 2 * np.isin(small.organs, (1, 2)).sum() < np.isin(large.organs, (1, 2)).sum()
    wide = bank(studio, findings=[Finding("Cardiomegaly")])
    assert (wide.organs == 3).sum() > (bank(studio).organs == 3).sum()
    with pytest.raises(RecipeError, match="seed"):
        bank(studio, seed=-1)


def test_an_image_is_the_pipelines_and_its_recipe_gives_it(studio: Studio) -> None:
    one = made(studio, bank(studio), [PNEUMONIA])
    own = studio.pipeline([PNEUMONIA], seed=7, counterfactual=True, guidance=2.0, steps=4, quality={"profile": "none"})
    assert files(one.image) == files(own)
    assert one.image.healthy is not None
    recipe = recipe_from_text(one.image.recipe)
    assert (recipe.seed, recipe.anatomies, recipe.sampling.steps) == (7, 1, 4)
    assert recipe_rows([PNEUMONIA]) == one.rows


def test_the_factors_of_heart_and_lungs_stand_in_the_recipe_rows(studio: Studio) -> None:
    canvas = studio.canvas([PNEUMONIA], BANK, 7, 1.2, None, None, 0.85)
    one = made(studio, canvas, [PNEUMONIA])
    assert (one.image.label_map == canvas.label_map).all()
    assert one.image.recipe == ""
    written = yaml.safe_load(one.rows)
    assert written["anatomy"] == {"augment": {"heart_scale": [1.2, 1.2], "lungs_scale": [0.85, 0.85]}}
    with pytest.raises(RecipeError, match=r"0\.7 to 1\.3"):
        studio.canvas([], BANK, 7, 1.0, None, None, 1.4)


def test_another_seed_paints_on_the_same_chest(studio: Studio) -> None:
    canvas = bank(studio)
    one, other = (made(studio, canvas, [PNEUMONIA], seed=seed).image for seed in (7, 8))
    assert (one.label_map == other.label_map).all()
    assert (np.asarray(one.image) != np.asarray(other.image)).any()
    assert other.recipe == ""


def test_a_heart_that_was_set_is_kept(studio: Studio) -> None:
    canvas = bank(studio, heart=1.8)
    assert (made(studio, canvas, []).image.label_map == canvas.label_map).all()


def test_a_drawn_box_is_where_it_was_drawn(studio: Studio) -> None:
    canvas = bank(studio)
    box = in_right_lung(canvas)
    (placed,) = made(studio, canvas, [Finding("Pneumonia", box=box)]).image.boxes["Pneumonia"]
    apart = [pixel - 64 * share for pixel, share in zip(placed, box, strict=True)]
    assert max(apart[:2]) <= 0 <= min(apart[2:]), "snapped outward"
    assert max(map(abs, apart)) < 4, "to the latent grid"


def test_a_box_without_a_place_is_told_and_no_other_chest_is_taken(studio: Studio) -> None:
    with pytest.raises(PlacementError, match=r"2\.3% of its area in the lungs"):
        made(studio, bank(studio), [Finding("Pneumonia", box=(0.0, 0.0, 0.2, 0.2))])


def test_the_gate_scores_and_refuses_nothing(studio: Studio) -> None:
    meta = made(studio, bank(studio), [PNEUMONIA], profile="strict").image.sample.meta
    assert meta.attempt == 0
    assert meta.quality is not None
    assert meta.quality.profile == "strict"
    assert {name.partition(".")[0] for name in meta.quality.scores} >= {"pixels", "change"}


@pytest.mark.parametrize(
    "findings",
    [
        [],
        [PNEUMONIA, Finding("Effusion", side="left", size=(0.2, 0.2))],
        [Finding("Atelectasis", box=(0.1, 0.2, 0.3, 0.5)), Finding("Cardiomegaly")],
    ],
    ids=["none", "two", "box"],
)
def test_rows_are_those_of_a_recipe(findings: list[Finding]) -> None:
    head = "version: 1\nname: mine\nbundle: xreal-mini\nanatomies: 8\noutput: {uri: out/mine}\n"
    (row,) = recipe_from_text(head + recipe_rows(findings)).findings
    assert [one.model_dump(exclude_unset=True) for one in row.labels] == [
        {name: tuple(value) if isinstance(value, list) else value for name, value in one.label.items()}
        for one in findings
    ]
    assert list(yaml.safe_load(recipe_rows(findings))) == ["findings"]


def save(path: Path, pixels: np.ndarray[Any, Any]) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


def test_an_own_mask_is_used_as_it_is(studio: Studio, tmp_path: Path) -> None:
    mask = schematic_mask(96)
    canvas = studio.canvas([], OWN_MASK, 7, 1.0, save(tmp_path / "m.png", mask), None)
    own = studio.pipeline([PNEUMONIA], anatomy=mask, seed=7, steps=4, guidance=2.0, quality={"profile": "none"})
    assert (np.asarray(made(studio, canvas, [PNEUMONIA]).image.image) == np.asarray(own.image)).all()


def test_an_own_image_gets_a_finding_in_the_drawn_box(studio: Studio, tmp_path: Path) -> None:
    real = np.random.default_rng(1).integers(40, 200, (80, 100), np.uint8)
    canvas = studio.canvas([], OWN_IMAGE, 7, 1.0, None, save(tmp_path / "r.png", real))
    assert (canvas.grey.shape, canvas.grey[0].max()) == ((64, 64), 0), "padded to a square"
    image = made(studio, canvas, [Finding("Pneumonia", box=(0.25, 0.25, 0.5, 0.5))]).image
    assert image.original is not None
    assert image.change.any()
    with pytest.raises(RecipeError, match="nothing to do"):
        made(studio, canvas, [])


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


BAD_MASKS = {
    "colours": (png(np.zeros((64, 64, 3), np.uint8)), "mode RGB"),
    "another code": (png(schematic_mask(64) * 9), "code"),
    "not square": (png(schematic_mask(64)[:40]), "64x40"),
    "a lung missing": (png(np.where(schematic_mask(64) == 1, 0, schematic_mask(64))), "left lung"),
    "text": (b"organ codes", "cannot be read"),
    "cut off": (png(schematic_mask(64))[:200], "cannot be read"),
}


@pytest.mark.parametrize("what", BAD_MASKS)
def test_a_wrong_mask_is_told(studio: Studio, tmp_path: Path, what: str) -> None:
    data, told = BAD_MASKS[what]
    (tmp_path / "mine.png").write_bytes(data)
    with pytest.raises(AnatomyError, match=told) as error:
        studio.canvas([], OWN_MASK, 7, 1.0, str(tmp_path / "mine.png"), None)
    assert error.value.wanted


BAD_IMAGES = {
    "a coloured picture": (png(np.stack([np.full((64, 64), v, np.uint8) for v in (9, 90, 200)], axis=2)), "colour"),
    "16 bits": (png(np.full((64, 64), 900, np.uint16)), "mode I;16"),
    "text": (b"%PDF-1.7", "identify"),
}


@pytest.mark.parametrize("what", BAD_IMAGES)
def test_a_wrong_image_is_told(studio: Studio, tmp_path: Path, what: str) -> None:
    data, told = BAD_IMAGES[what]
    (tmp_path / "mine.png").write_bytes(data)
    with pytest.raises(AnatomyError, match=told) as error:
        studio.canvas([], OWN_IMAGE, 7, 1.0, None, str(tmp_path / "mine.png"))
    assert error.value.where == "mine.png"
    assert "prepare" in error.value.hint


@pytest.mark.parametrize("kind", [OWN_MASK, OWN_IMAGE])
def test_a_chest_that_is_not_there_yet_is_told(studio: Studio, kind: str) -> None:
    with pytest.raises(XrealError, match="no chest yet"):
        studio.canvas([], kind, 7, 1.0, None, None)
