"""What the studio browses and how images are shown: filters, order, pages, real images beside, pictures, scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xreal_synth.errors import AnatomyError, DatasetError, XrealError
from xreal_synth.studio.browsing import BESIDE, PAGE, RealPictures, Shelf, thumbnail
from xreal_synth.studio.making import Canvas
from xreal_synth.studio.pictures import SIDE, box_between, chest_picture, facts, four_pictures, scores
from xreal_synth.types import Role


@pytest.fixture(scope="module")
def shelf(dataset: Path) -> Shelf:
    return Shelf.opened(str(dataset), "")


def filtered(shelf: Shelf, *, finding: str | None = None, role: Role | None = None, by: str | None = None) -> Shelf:
    return shelf.filtered(finding=finding, flag=None, role=role, worst_by=by)


def test_images_are_found_by_finding_and_role(shelf: Shelf) -> None:
    assert shelf.findings["Pneumonia"] == 6
    effusions = shelf.findings["Effusion"]
    assert list(shelf.findings.values()) == sorted(shelf.findings.values(), reverse=True)
    shown = [filtered(shelf, finding="Effusion").image(number) for number in range(effusions)]
    assert all(set(one.boxes) == {"Effusion", "Atelectasis"} for one in shown)
    by_role = {role: len(filtered(shelf, role=role).places) for role in Role}
    assert by_role[Role.healthy] == 12
    assert by_role[Role.variant] == 6 + effusions
    assert sum(by_role.values()) == len(shelf.dataset)
    assert "browsed: " in shelf.words


def test_flagged_images_are_found_and_their_flags_told(shelf: Shelf) -> None:
    variants = filtered(shelf, role=Role.variant)
    assert shelf.dataset.flags["change.inside"] == len(variants.places)
    left = shelf.filtered(finding=None, flag="change.inside", role=None, worst_by=None)
    assert [left.image(n).key for n in range(2)] == [variants.image(n).key for n in range(2)]
    assert scores(left.image(0)).startswith("<table class='facts'><tr><th>flagged: Mean change")
    assert thumbnail(left.image(0))[1].endswith("change.inside")
    assert "flagged" not in scores(filtered(shelf, role=Role.healthy).image(0))


@pytest.mark.parametrize(("score", "least"), [("change.inside", True), ("pixels.blur", False)])
def test_the_worst_by_a_score_come_first(shelf: Shelf, score: str, least: bool) -> None:
    assert score in shelf.scores
    ordered = filtered(shelf, by=score)
    quality = [one.sample.meta.quality for one in map(ordered.image, range(len(ordered.places)))]
    values = [one.scores[score] for one in quality if one is not None]
    assert values == sorted(values, reverse=not least)
    assert len(set(values)) > 1
    assert (len(values) < len(shelf.dataset)) is least, "healthy images have no change"


def test_pages_hold_every_image_once(shelf: Shelf) -> None:
    assert len(shelf.dataset) > PAGE
    keys = [one.key for page in range(1, 4) for one in shelf.page(page)]
    assert keys == [one.key for one in shelf.dataset]
    assert len(shelf.page(1)) == PAGE


def test_a_variant_stands_beside_its_twin(shelf: Shelf) -> None:
    one = filtered(shelf, finding="Pneumonia", role=Role.variant).image(0)
    twin, itself, change, marked = four_pictures(one)
    assert one.twin is not None
    assert (np.asarray(twin) == one.twin.image).all()
    assert (np.asarray(itself) == one.sample.image).all()
    assert np.asarray(change).shape == (64, 64, 3)
    assert marked is not None
    assert marked.width == SIDE
    assert "Lung Opacity, Pneumonia" in facts(one)
    picture, caption = thumbnail(one)
    assert picture.width == 256
    assert caption.startswith(f"{one.sample.meta.group}-v0 · Pneumonia")


def test_what_is_no_dataset_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        Shelf.opened(str(tmp_path), "")


def test_real_images_are_those_with_the_same_finding(real_images: Path) -> None:
    real = RealPictures(str(real_images))
    captions = [caption for _, caption in real.beside(["Pneumonia"], 0)]
    assert captions == ["Pneumonia · b.png", "Pneumonia, Mass · c.png"]
    assert [caption for _, caption in real.beside(["Effusion"], 5)] == ["Effusion · d.png"]
    assert len(real.beside(["Hernia"], 0)) == BESIDE, "none has it: any"
    first, second = ([caption for _, caption in real.beside(["Hernia"], number)] for number in (0, 1))
    assert first != second


def test_plain_pictures_are_shown_and_broken_ones_passed_over(tmp_path: Path) -> None:
    for name in "ab":
        Image.effect_noise((90, 70), 50).save(tmp_path / f"{name}.png")
    (tmp_path / "0.png").write_bytes(b"no image")
    shown = RealPictures(str(tmp_path)).beside(["Pneumonia"], 0)
    assert [caption for _, caption in shown] == ["a.png", "b.png"]
    assert shown[0][0].size == (256, 256)
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"")
    with pytest.raises(AnatomyError, match=r"0\.png"):
        RealPictures(str(tmp_path)).beside([], 0)


@pytest.mark.parametrize("place", ["no/such/folder", "."])
def test_a_folder_without_images_is_told(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(XrealError):
        RealPictures(place)


def test_a_box_is_drawn_by_any_two_corners() -> None:
    assert box_between((0.5, 0.2), (0.25, 0.6)) == box_between((0.25, 0.6), (0.5, 0.2)) == (0.25, 0.2, 0.5, 0.6)
    assert box_between((1 / 3, 0), (1, 2 / 3)) == (0.3333, 0, 1, 0.6667)


def test_boxes_and_the_first_corner_show_on_the_chest() -> None:
    nothing = np.zeros((64, 64), np.uint8)
    canvas = Canvas(nothing, nothing, nothing)
    bare = np.asarray(chest_picture(canvas, {}, None))
    boxed = np.asarray(chest_picture(canvas, {0: ("Mass", (0.25, 0.25, 0.5, 0.75))}, None)) != bare
    rows, columns = np.nonzero(boxed.any(axis=2)[SIDE // 4 :])
    assert (columns.min(), columns.max() + 1) == pytest.approx((SIDE / 4, SIDE / 2), abs=3)
    assert rows.max() + 1 + SIDE // 4 == pytest.approx(0.75 * SIDE, abs=3)
    marked = np.asarray(chest_picture(canvas, {}, (0.5, 0.5))) != bare
    assert marked[SIDE // 2, SIDE // 2].all()
    assert marked.any(axis=2).sum() < 200
