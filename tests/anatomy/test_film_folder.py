"""A folder of real films: what is read of it, what identifies it, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xreal_synth.anatomy.film_folder import FilmFolder, FolderSettings, padded, resize_film
from xreal_synth.errors import AnatomyError

Write = Callable[..., Path]


def opened(folder: Path, size: int = 64, **settings: object) -> FilmFolder:
    return FilmFolder(FolderSettings(str(folder), **{"boxes": "boxes.csv", **settings}), size)  # type: ignore[arg-type]


def refused(folder: Path, size: int = 64, **settings: object) -> str:
    with pytest.raises(AnatomyError) as caught:
        opened(folder, size, **settings)
    return str(caught.value)


def test_films_come_with_masks_labels_and_boxes(film_folder: Write) -> None:
    films = opened(film_folder())
    assert [film.id for film in films.films] == [f"{name}.png" for name in "abcdef"]
    assert films.films[2].row.labels == ("Pneumonia", "Mass")
    assert [(box.name, box.box) for box in films.films[1].own] == [
        ("Pneumonia", pytest.approx((0.625, 5 / 12, 5 / 6, 0.625)))
    ]
    film, mask = films.film(0, 64), films.mask(0, 64)
    assert film.shape == (64, 64)
    assert mask is not None
    assert set(np.unique(mask)) == {0, 1, 2, 3, 4}
    assert opened(film_folder("split"), splits=("val",)).films[0].id == "d.png"


def test_a_film_of_the_models_size_keeps_its_bytes(film_folder: Write) -> None:
    folder = film_folder()
    stored = np.asarray(Image.open(folder / "a.png"))
    assert np.array_equal(opened(folder, 96).film(0, 96), stored)
    small = resize_film(stored, 32)
    assert small.shape == (32, 32)
    assert abs(float(small.mean()) - float(stored.mean())) < 1


def test_an_oblong_film_is_padded_and_its_boxes_and_mask_go_with_it(film_folder: Write) -> None:
    folder = film_folder()
    for file in ("b.png", "masks/b.png"):
        with Image.open(folder / file) as image:
            image.crop((0, 8, 96, 88)).save(folder / file)
    (folder / "boxes.csv").write_text("image,finding,x0,y0,x1,y1\nb.png,Pneumonia,0,0,96,80\n")
    films = opened(folder, 96)
    assert films.films[1].own[0].box == pytest.approx((0, 8 / 96, 1, 88 / 96))
    film, mask = films.film(1, 96), films.mask(1, 96)
    assert mask is not None
    assert not film[:8].any()
    assert film[8:88].all()
    assert not film[88:].any()
    whole = np.asarray(Image.open(film_folder("square") / "masks" / "b.png"))
    assert np.array_equal(mask[8:88], whole[8:88])
    odd = padded(np.ones((3, 6), dtype=np.uint8), 0)
    assert odd.sum(axis=1).tolist() == [0, 6, 6, 6, 0, 0]


def test_without_a_manifest_every_picture_is_a_film(film_folder: Write) -> None:
    folder = film_folder(manifest=None)
    (folder / "masks" / "f.png").unlink()
    films = opened(folder)
    assert [bool(film.row.mask) for film in films.films] == [True] * 5 + [False]
    assert films.mask(5, 64) is None
    assert films.films[0].patient == "film a.png"


def _labels(folder: Path) -> None:
    path = folder / "manifest.csv"
    path.write_text(path.read_text().replace("Pneumonia|Mass", "Mass"))


def _box(folder: Path) -> None:
    path = folder / "boxes.csv"
    path.write_text(path.read_text().replace("60,40,80,60", "60,40,80,61"))


def _film(folder: Path) -> None:
    pixels = np.array(Image.open(folder / "f.png"))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(folder / "f.png")


def _mask(folder: Path) -> None:
    shutil.copy(folder / "masks" / "a.png", folder / "masks" / "b.png")


def _fewer(folder: Path) -> None:
    path = folder / "manifest.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize("change", [_labels, _box, _film, _mask, _fewer])
def test_any_change_changes_the_digest_and_a_given_digest_is_held_to(
    film_folder: Write, change: Callable[[Path], None]
) -> None:
    folder = film_folder()
    content = opened(folder).content
    assert content == opened(film_folder("copy")).content
    assert opened(folder, content=content).content == content
    change(folder)
    assert opened(folder).content != content
    assert "the same films" in refused(folder, content=content)


def test_patients_and_ages_are_no_part_of_the_digest(film_folder: Write) -> None:
    folder = film_folder()
    content = opened(folder).content
    path = folder / "manifest.csv"
    path.write_text(path.read_text().replace(",2,62,", ",9,99,"))
    assert opened(folder).content == content


def test_a_film_that_changes_while_it_is_used_is_refused(film_folder: Write) -> None:
    folder = film_folder()
    films = opened(folder)
    _film(folder)
    _mask(folder)
    with pytest.raises(AnatomyError, match="has changed"):
        films.film(5, 64)
    with pytest.raises(AnatomyError, match="has changed"):
        films.mask(1, 64)


def test_a_mask_that_is_no_chest_is_refused_when_it_is_drawn(film_folder: Write) -> None:
    folder = film_folder()
    Image.fromarray(np.zeros((96, 96), dtype=np.uint8)).save(folder / "masks" / "a.png")
    Image.fromarray(np.zeros((96, 48), dtype=np.uint8)).save(folder / "masks" / "b.png")
    films = opened(folder)
    with pytest.raises(AnatomyError, match="no left lung"):
        films.mask(0, 64)
    with pytest.raises(AnatomyError, match="proportions"):
        films.mask(1, 64)


def test_everything_wrong_comes_at_once(film_folder: Write) -> None:
    folder = film_folder()
    (folder / "a.png").unlink()
    (folder / "b.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((96, 96), dtype=np.uint16)).save(folder / "c.png")
    Image.fromarray(np.zeros((40, 40), dtype=np.uint8)).save(folder / "d.png")
    (folder / "boxes.csv").write_text("image,finding,x0,y0,x1,y1\ne.png,Mass,1,1,200,9\nz.png,Mass,1,1,2,2\n")
    (folder / "places.csv").write_text("image,finding,x0,y0,x1,y1\ne.png,Edema,1,1,20,9\n")
    told = refused(folder, places="places.csv")
    assert "6 problems" in told
    for part in ("a.png", "b.png: cannot be read", "c.png: an image of mode I;16", "d.png: 40 x 40",
                 "on a film of 96 x 96", "Edema takes in an organ"):  # fmt: skip
        assert part in told


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"boxes": "none.csv"}, "none.csv"),
        ({"boxes": "../boxes.csv"}, "unsafe"),
        ({"splits": ("tain",)}, "no films of split tain"),
    ],
)
def test_wrong_settings_are_told(film_folder: Write, settings: dict[str, object], part: str) -> None:
    assert part in refused(film_folder(), **settings)


def test_boxes_of_other_films_are_noted_but_not_if_there_are_no_others(film_folder: Write) -> None:
    folder = film_folder()
    assert opened(folder, splits=("val",)).notes == (
        "boxes.csv: 3 of 4 boxes are of films that are not used",
    )
    (folder / "boxes.csv").write_text("image,finding,x0,y0,x1,y1\nz.png,Mass,1,1,20,9\n")
    assert "none of its 1 boxes" in refused(folder)


def test_no_folder_and_no_films(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "films")
    (tmp_path / "empty").mkdir()
    assert "no films" in refused(tmp_path / "empty", boxes=None)
