"""Images and masks from their files' bytes, from folders and from tars."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.doubles.schematic import schematic_mask
from xreal_synth.images.files import ImageFiles, checked_pair, decode_image, shown_size
from xreal_synth.images.manifest import BadImage, ImageRow, RowFault
from xreal_synth.storage import LocalStore

MASK = schematic_mask(64)
IMAGE = (200 - 30 * MASK.astype(int)).astype(np.uint8)


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_grey_images_are_read_whatever_their_channels(mode: str) -> None:
    pair = checked_pair(png(IMAGE, mode), png(MASK))
    assert np.abs(pair.image.astype(int) - IMAGE).max() <= 1
    assert np.array_equal(pair.mask, MASK)


@pytest.mark.parametrize(
    ("image", "mask", "fault", "reason"),
    [
        (b"no image", png(MASK), RowFault.UNREADABLE, "cannot identify"),
        (png(IMAGE)[:300], png(MASK), RowFault.UNREADABLE, "trunc"),
        (png(IMAGE.astype(np.uint16) * 200), png(MASK), RowFault.UNREADABLE, "prepare"),
        (png(np.stack([IMAGE, IMAGE // 2, IMAGE // 4], axis=2)), png(MASK), RowFault.COLOURED, "channels"),
        (png(np.full((64, 64), 90, np.uint8)), png(MASK), RowFault.ONE_COLOUR, "one colour"),
        (png(IMAGE[:50]), png(MASK[:50]), RowFault.SHAPE, "square"),
        (png(IMAGE), b"", RowFault.MASK_UNREADABLE, "cannot be read"),
        (png(IMAGE), png(MASK, "RGB"), RowFault.MASK_UNREADABLE, "mode RGB"),
        (png(IMAGE), png(schematic_mask(48)), RowFault.MASK_SHAPE, "(48, 48)"),
        (png(IMAGE), png(MASK * 60), RowFault.MASK_CODE, "code 60"),
        (png(IMAGE), png(np.ascontiguousarray(MASK[:, ::-1])), RowFault.SWAPPED, "swapped"),
        (png(IMAGE), png(MASK * (MASK != 3)), RowFault.ANATOMY, "no heart"),
    ],
)
def test_what_no_network_can_learn_from_is_refused(image: bytes, mask: bytes, fault: RowFault, reason: str) -> None:
    with pytest.raises(BadImage) as caught:
        checked_pair(image, mask, "mask m.png")
    assert caught.value.fault == fault
    assert reason in caught.value.reason


def _tar(path: Path, members: dict[str, bytes], change: Callable[[tarfile.TarInfo], None] | None = None) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if change:
                change(info)
            tar.addfile(info, io.BytesIO(content))


def test_members_of_tars_are_read_in_any_order(tmp_path: Path) -> None:
    for number in range(4):
        _tar(tmp_path / f"{number}.tar", {f"{n}.png": bytes([number, n]) for n in range(3)})
    (tmp_path / "loose.png").write_bytes(b"loose")
    files = ImageFiles(LocalStore(tmp_path))
    found = [files.read(f"{number}.tar", f"{n}.png") for n in range(3) for number in range(4)]
    assert found == [bytes([number, n]) for n in range(3) for number in range(4)]
    row = ImageRow(image="loose.png", mask="loose.png")
    assert files.pair(row) == (b"loose", b"loose")
    files.close()


@pytest.mark.parametrize(
    ("shard", "name", "reason"),
    [
        ("a.tar", "gone.png", "gone.png"),
        ("gone.tar", "a.png", "No such file"),
        ("link.tar", "a.png", "plain file"),
        ("text.tar", "a.png", "text.tar"),
        ("", "gone.png", "No such file"),
    ],
)
def test_a_missing_member_is_refused(tmp_path: Path, shard: str, name: str, reason: str) -> None:
    def linked(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0

    _tar(tmp_path / "a.tar", {"a.png": b"a"})
    _tar(tmp_path / "link.tar", {"a.png": b""}, linked)
    (tmp_path / "text.tar").write_text("no tar at all")
    with pytest.raises(BadImage) as caught:
        ImageFiles(LocalStore(tmp_path)).read(shard, name)
    assert caught.value.fault == RowFault.MISSING
    assert reason in caught.value.reason


def test_a_picture_on_its_side_is_read_upright_and_has_its_upright_size() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 64)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    assert np.array_equal(decode_image(buffer.getvalue()), pixels)
    with Image.open(buffer) as image:
        assert (image.size, shown_size(image)) == ((40, 64), (64, 40))
