"""Images of every kind as square 8-bit grey, and the masks drawn for them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from xreal_synth.errors import BundleError, TrainingError
from xreal_synth.images.manifest import BadImage, ImageBox, RowFault
from xreal_synth.prepare.found import FoundImage
from xreal_synth.prepare.grey import Square, decode_dicom, decode_picture, is_dicom
from xreal_synth.prepare.images import Shape, read_image
from xreal_synth.prepare.segmenters import PSPNET_FILE, drawn, open_segmenter, painted_targets, without_crumbs
from xreal_synth.storage import Store, open_store


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [True, False])
def test_dicom_is_shown_as_a_viewer_shows_it(trees: Any, kind: str, window: bool) -> None:
    picture, _ = trees.pair(1)
    data = trees.dicom(picture, kind, window)
    assert is_dicom(data)
    found, facts = decode_dicom(data)
    assert facts.view == "AP"
    wanted = 255.0 - picture if kind == "MONOCHROME1" else picture.astype(float)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.99
    assert (found.min(), found.max()) == (0, 255)


def test_a_dicom_window_hides_what_lies_outside_it(trees: Any) -> None:
    picture, _ = trees.pair(1)
    narrow, _ = decode_dicom(trees.dicom(picture, WindowCenter=140 * 16 - 100, WindowWidth=400))
    assert (narrow[picture < 100] == 0).all()
    assert (narrow[picture > 180] == 255).all()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[:400], "DICOM"),
        (lambda data: data[:-2000], "DICOM"),
        (lambda data: data[:132] + b"\xff" * 500, "DICOM"),
    ],
)
def test_a_truncated_dicom_is_refused(trees: Any, spoil: Any, reason: str) -> None:
    with pytest.raises(BadImage, match=reason) as caught:
        decode_dicom(spoil(trees.dicom(trees.pair(1)[0])))
    assert caught.value.fault == RowFault.UNREADABLE


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ({"PhotometricInterpretation": "RGB"}, RowFault.UNREADABLE),
        ({"NumberOfFrames": 2}, RowFault.UNREADABLE),
        ({"WindowCenter": 9000, "WindowWidth": 2}, RowFault.ONE_COLOUR),
    ],
)
def test_a_dicom_without_one_grey_frame_is_refused(trees: Any, extra: dict[str, Any], fault: RowFault) -> None:
    with pytest.raises(BadImage) as caught:
        decode_dicom(trees.dicom(trees.pair(1)[0], **extra))
    assert caught.value.fault == fault


def test_a_deep_png_is_shown_by_percentiles(trees: Any) -> None:
    picture, _ = trees.pair(1)
    deep = picture.astype(np.uint16) * 9 + 3000
    deep[0, 0] = 65535
    found = decode_picture(png(deep))
    assert np.corrcoef(found.ravel()[1:], picture.ravel()[1:])[0, 1] > 0.99
    assert found.std() > 30
    assert np.array_equal(decode_picture(png(picture)), picture)


@given(
    width=st.integers(20, 60),
    height=st.integers(20, 60),
    fit=st.sampled_from(["crop", "pad"]),
    corner=st.tuples(st.integers(0, 12), st.integers(0, 12)),
)
def test_a_box_stays_on_what_it_marks(width: int, height: int, fit: Any, corner: tuple[int, int]) -> None:
    x, y = corner
    picture = np.zeros((height, width), np.uint8)
    picture[y : y + 8, x : x + 8] = 255
    square = Square.of(width, height, fit)
    size = square.side
    shown = square.image(picture, size)
    box = ImageBox("Mass", (x / width, y / height, (x + 8) / width, (y + 8) / height))
    moved = square.boxes((box,), width, height)
    if not shown.any():
        assert moved == ()
        return
    ys, xs = np.nonzero(shown == 255)
    x0, y0, x1, y1 = (round(value * size) for value in moved[0].box)
    assert (x0, y0, x1, y1) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    assert np.array_equal(square.mask((picture > 0).astype(np.uint8), size), (shown == 255).astype(np.uint8))


@pytest.fixture
def store() -> Iterator[Store]:
    yield open_store("memory://prepare-images")
    fsspec.filesystem("memory").rm("/prepare-images", recursive=True)


def source(*files: str, mask: str = "") -> FoundImage:
    return FoundImage("k", files, "1", ("Mass",), (), mask=mask)


def test_an_oblong_image_is_cropped_or_padded_with_its_mask(trees: Any, store: Store) -> None:
    picture, mask = trees.pair(3, 80)
    store.replace("wide.png", png(np.pad(picture, ((0, 0), (20, 20)), constant_values=90)))
    store.replace("mask.png", png(np.pad(mask, ((0, 0), (20, 20)))))
    given = source("gone.jpg", "wide.png", mask="mask.png")
    cropped = read_image(store, given, Shape(80, "crop"))
    assert cropped is not None
    assert (cropped.width, cropped.height) == (120, 80)
    assert np.array_equal(cropped.image, picture)
    assert np.array_equal(cropped.mask, mask)
    padded = read_image(store, given, Shape(120, "pad"))
    assert padded is not None
    assert read_image(store, given, Shape(120, "pad"), former=padded.content) is None
    assert not padded.image[:20].any()
    assert np.array_equal(padded.image[20:100, 20:100], picture)


@pytest.mark.parametrize(
    ("image", "mask", "fault", "reason"),
    [
        (None, "m", RowFault.MISSING, "no image.png"),
        (b"", "m", RowFault.UNREADABLE, "identify"),
        ("half", "m", RowFault.UNREADABLE, "trunc"),
        ("small", "m", RowFault.SHAPE, "40 x 40"),
        ("flat", "m", RowFault.ONE_COLOUR, "one colour"),
        ("colours", "m", RowFault.COLOURED, "channels"),
        ("image", "gone", RowFault.MISSING, "no gone"),
        ("image", "broken", RowFault.MASK_UNREADABLE, "broken"),
        ("image", "other size", RowFault.MASK_SHAPE, "40 x 48"),
    ],
)
def test_a_image_that_cannot_be_used_is_refused(
    trees: Any, store: Store, image: Any, mask: str, fault: RowFault, reason: str
) -> None:
    picture, label_map = trees.pair(3)
    kinds = {
        "image": png(picture),
        "half": png(picture)[:900],
        "small": png(picture[:40, :40]),
        "flat": png(np.full((64, 64), 80, np.uint8)),
        "colours": png(np.stack([picture, picture // 3, 255 - picture], axis=2)),
    }
    if image is not None:
        store.replace("image.png", kinds.get(image, image))
    store.replace("m", png(label_map))
    store.replace("broken", b"no mask")
    store.replace("other size", png(np.zeros((48, 40), np.uint8)))
    with pytest.raises(BadImage, match=reason) as caught:
        read_image(store, source("image.png", mask=mask), Shape(64, "crop"))
    assert caught.value.fault == fault


def test_a_bundles_segmenter_draws_what_is_there(trees: Any, tiny_bundle: Path) -> None:
    segmenter = open_segmenter(str(tiny_bundle))
    images, masks = zip(*(trees.pair(n) for n in range(4)), strict=True)
    found = segmenter.draw(list(images))
    for one, mask in zip(found, masks, strict=True):
        assert np.mean(one.mask == mask) > 0.93
        assert 0.5 < one.score < 1
    assert segmenter.name.startswith("xreal-tiny segmenter ")


def test_a_bundle_without_segmenter_is_an_error() -> None:
    with pytest.raises(BundleError, match="no segmenter"):
        open_segmenter("xreal-tiny")


def test_certainty_is_one_for_a_sure_network_and_less_for_a_doubtful_one(trees: Any) -> None:
    _, mask = trees.pair(0)
    sure = np.eye(5, dtype=np.float32)[mask].transpose(2, 0, 1)
    assert drawn(sure, mask).score == pytest.approx(1)
    assert drawn(sure * 0.6 + 0.08, mask).score < 0.7
    assert drawn(sure, np.zeros_like(mask)).score == 0


def test_crumbs_take_the_code_round_them_and_large_pieces_stay(trees: Any) -> None:
    _, mask = trees.pair(0, 128)
    spoilt = mask.copy()
    ys, xs = np.nonzero(mask == 1)
    middle = (int(ys.mean()), int(xs.mean()))
    spoilt[middle[0] : middle[0] + 3, middle[1] : middle[1] + 3] = 3
    spoilt[2:5, 2:5] = 2
    assert np.array_equal(without_crumbs(spoilt), mask)
    spoilt[100:125, 2:20] = 2
    assert (without_crumbs(spoilt)[100:125, 2:20] == 2).all()


def test_pspnet_is_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchxrayvision as xrv

    def fetch(*_: Any) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(xrv.utils, "download", fetch)
    with pytest.raises(TrainingError, match="never fetched"):
        open_segmenter("pspnet", tmp_path)
    (tmp_path / PSPNET_FILE).write_bytes(b"no weights")
    with pytest.raises(TrainingError, match=PSPNET_FILE):
        open_segmenter("pspnet", tmp_path)


def test_pspnet_targets_become_codes() -> None:
    chances = np.zeros((4, 8, 8), np.float32)
    chances[0, :, 4:], chances[1, :, :4] = 0.9, 0.9
    chances[2, 4:, 2:6], chances[3, 4:6, 4:6] = 0.8, 0.7
    found = painted_targets(chances)
    assert found.mask[0, 7] == 1
    assert found.mask[0, 0] == 2
    assert found.mask[7, 3] == 3
    assert found.mask[4, 4] == 4
    assert 0.7 < found.score < 1


@pytest.mark.slow
def test_pspnet_runs_from_a_file_of_weights(tmp_path: Path, trees: Any) -> None:
    from torchxrayvision.baseline_models.chestx_det.ptsemseg.pspnet import pspnet

    torch.manual_seed(0)
    weights = {f"module.{name}": value for name, value in pspnet(14).state_dict().items()}
    torch.save(weights, tmp_path / PSPNET_FILE)
    segmenter = open_segmenter("pspnet", tmp_path)
    (found,) = segmenter.draw([trees.pair(0)[0]])
    assert found.mask.shape == (64, 64)
    assert found.mask.max() <= 4
    assert segmenter.name.startswith("torchxrayvision PSPNet ")


def test_a_small_image_is_enlarged_only_if_asked(trees: Any, store: Store) -> None:
    picture, mask = trees.pair(3, 48)
    store.replace("small.png", png(picture))
    store.replace("half.png", png(mask[::2, ::2].copy()))
    given = source("small.png", mask="half.png")
    with pytest.raises(BadImage, match="--enlarge"):
        read_image(store, given, Shape(64, "crop"))
    found = read_image(store, given, Shape(64, "crop", enlarge=True))
    assert found is not None
    assert (found.width, found.image.shape) == (48, (64, 64))
    small = np.asarray(Image.fromarray(found.image).resize((48, 48), Image.Resampling.LANCZOS))
    assert np.abs(small.astype(int) - picture).mean() < 3
    assert found.mask is not None
    assert np.mean(found.mask[::4, ::4] == mask[::3, ::3]) > 0.9
