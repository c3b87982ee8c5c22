"""A folder of real images: what is read of it, what identifies it, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xreal_synth.errors import AnatomyError
from xreal_synth.images.folder import ImageFolder, padded, resize_image
from xreal_synth.recipe.findings import ImagesFolder

Write = Callable[..., Path]


def opened(folder: Path, size: int = 64, **settings: object) -> ImageFolder:
    return ImageFolder(ImagesFolder(path=str(folder), **{"boxes": "boxes.csv", **settings}), size)  # type: ignore[arg-type]


def refused(folder: Path, size: int = 64, **settings: object) -> str:
    with pytest.raises(AnatomyError) as caught:
        opened(folder, size, **settings)
    return str(caught.value)


def test_images_come_with_masks_labels_and_boxes(image_folder: Write) -> None:
    images = opened(image_folder())
    assert [image.id for image in images.images] == [f"{name}.png" for name in "abcdef"]
    assert images.images[2].row.labels == ("Pneumonia", "Mass")
    assert [(box.name, box.box) for box in images.images[1].own] == [
        ("Pneumonia", pytest.approx((0.625, 5 / 12, 5 / 6, 0.625)))
    ]
    image, mask = images.image(0, 64), images.mask(0, 64)
    assert image.shape == (64, 64)
    assert mask is not None
    assert set(np.unique(mask)) == {0, 1, 2, 3, 4}
    assert opened(image_folder("split"), splits=("val",)).images[0].id == "d.png"


def test_images_of_minors_are_left_out_and_told_unless_their_split_is_named(image_folder: Write) -> None:
    rows = (image_folder() / "manifest.csv").read_text().replace(",61,train", ",17,train").replace("62,train", ",minor")
    images = opened(image_folder("young", manifest=rows))
    assert [image.id for image in images.images] == ["c.png", "d.png", "e.png", "f.png"]
    assert "2 images of minors are left out" in images.notes[0]
    assert len(opened(image_folder("asked", manifest=rows), splits=("train", "minor", "val"))) == 6


def test_an_image_of_one_colour_is_not_edited(image_folder: Write) -> None:
    folder = image_folder()
    Image.new("L", (96, 96), 3).save(folder / "a.png")
    images = opened(folder)
    with pytest.raises(AnatomyError, match=r"a\.png: image has only one colour"):
        images.image(0, 64)


def test_a_image_of_the_models_size_keeps_its_bytes(image_folder: Write) -> None:
    folder = image_folder()
    stored = np.asarray(Image.open(folder / "a.png"))
    assert np.array_equal(opened(folder, 96).image(0, 96), stored)
    small = resize_image(stored, 32)
    assert small.shape == (32, 32)
    assert abs(float(small.mean()) - float(stored.mean())) < 1


def test_an_oblong_image_is_padded_and_its_boxes_and_mask_go_with_it(image_folder: Write) -> None:
    folder = image_folder()
    for file in ("b.png", "masks/b.png"):
        with Image.open(folder / file) as image:
            image.crop((0, 8, 96, 88)).save(folder / file)
    (folder / "boxes.csv").write_text("image,finding,x0,y0,x1,y1\nb.png,Pneumonia,0,0,96,80\n")
    images = opened(folder, 96)
    assert images.images[1].own[0].box == pytest.approx((0, 8 / 96, 1, 88 / 96))
    image, mask = images.image(1, 96), images.mask(1, 96)
    assert mask is not None
    assert not image[:8].any()
    assert image[8:88].all()
    assert not image[88:].any()
    whole = np.asarray(Image.open(image_folder("square") / "masks" / "b.png"))
    assert np.array_equal(mask[8:88], whole[8:88])
    odd = padded(np.ones((3, 6), dtype=np.uint8))
    assert odd.sum(axis=1).tolist() == [0, 6, 6, 6, 0, 0]


def test_without_a_manifest_every_picture_is_a_image(image_folder: Write) -> None:
    folder = image_folder(manifest=None)
    (folder / "masks" / "f.png").unlink()
    images = opened(folder)
    assert [bool(image.row.mask) for image in images.images] == [True] * 5 + [False]
    assert images.mask(5, 64) is None
    assert images.images[0].patient == "image a.png"


def _labels(folder: Path) -> None:
    path = folder / "manifest.csv"
    path.write_text(path.read_text().replace("Pneumonia|Mass", "Mass"))


def _box(folder: Path) -> None:
    path = folder / "boxes.csv"
    path.write_text(path.read_text().replace("60,40,80,60", "60,40,80,61"))


def _image(folder: Path) -> None:
    pixels = np.array(Image.open(folder / "f.png"))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(folder / "f.png")


def _mask(folder: Path) -> None:
    shutil.copy(folder / "masks" / "a.png", folder / "masks" / "b.png")


def _fewer(folder: Path) -> None:
    path = folder / "manifest.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize("change", [_labels, _box, _image, _mask, _fewer])
def test_any_change_changes_the_digest_and_a_given_digest_is_held_to(
    image_folder: Write, change: Callable[[Path], None]
) -> None:
    folder = image_folder()
    content = opened(folder).content
    assert content == opened(image_folder("copy")).content
    assert opened(folder, content=content).content == content
    change(folder)
    assert opened(folder).content != content
    assert "the same images" in refused(folder, content=content)


def test_patients_and_ages_are_no_part_of_the_digest(image_folder: Write) -> None:
    folder = image_folder()
    content = opened(folder).content
    path = folder / "manifest.csv"
    path.write_text(path.read_text().replace(",2,62,", ",9,99,"))
    assert opened(folder).content == content


def test_a_image_that_changes_while_it_is_used_is_refused(image_folder: Write) -> None:
    folder = image_folder()
    images = opened(folder)
    _image(folder)
    _mask(folder)
    with pytest.raises(AnatomyError, match="has changed"):
        images.image(5, 64)
    with pytest.raises(AnatomyError, match="has changed"):
        images.mask(1, 64)


def test_a_mask_that_is_no_chest_is_refused_when_it_is_drawn(image_folder: Write) -> None:
    folder = image_folder()
    Image.fromarray(np.zeros((96, 96), dtype=np.uint8)).save(folder / "masks" / "a.png")
    Image.fromarray(np.zeros((96, 48), dtype=np.uint8)).save(folder / "masks" / "b.png")
    images = opened(folder)
    with pytest.raises(AnatomyError, match="no left lung"):
        images.mask(0, 64)
    with pytest.raises(AnatomyError, match="proportions"):
        images.mask(1, 64)


def test_everything_wrong_comes_at_once(image_folder: Write) -> None:
    folder = image_folder()
    (folder / "a.png").unlink()
    (folder / "b.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((96, 96), dtype=np.uint16)).save(folder / "c.png")
    Image.fromarray(np.zeros((40, 40), dtype=np.uint8)).save(folder / "d.png")
    (folder / "boxes.csv").write_text("image,finding,x0,y0,x1,y1\ne.png,Mass,1,1,200,9\nz.png,Mass,1,1,2,2\n")
    (folder / "places.csv").write_text("image,finding,x0,y0,x1,y1\ne.png,Edema,1,1,20,9\n")
    reported = refused(folder, places="places.csv")
    assert "6 problems" in reported
    for part in ("a.png", "b.png: cannot be read", "c.png: an image of mode I;16", "d.png: 40 x 40",
                 "on an image of 96 x 96", "Edema takes in an organ"):  # fmt: skip
        assert part in reported


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"boxes": "none.csv"}, "none.csv"),
        ({"boxes": "../boxes.csv"}, "unsafe"),
        ({"splits": ("tain",)}, "no images of split tain"),
    ],
)
def test_wrong_settings_are_reported(image_folder: Write, settings: dict[str, object], part: str) -> None:
    assert part in refused(image_folder(), **settings)


def test_boxes_of_other_images_are_noted_but_not_if_there_are_no_others(image_folder: Write) -> None:
    folder = image_folder()
    assert opened(folder, splits=("val",)).notes == ("boxes.csv: 3 of 4 boxes are of images that are not used",)
    (folder / "boxes.csv").write_text("image,finding,x0,y0,x1,y1\nz.png,Mass,1,1,20,9\n")
    assert "none of its 1 boxes" in refused(folder)


def test_no_folder_and_no_images(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "images")
    (tmp_path / "empty").mkdir()
    assert "no images" in refused(tmp_path / "empty", boxes=None)
