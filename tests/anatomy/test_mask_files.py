"""Masks in tars: read like those of a folder; whatever else a tar may hold is refused or passed over."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.doubles.schematic import schematic_mask
from xreal_synth.anatomy import mask_files as module
from xreal_synth.anatomy.augment import Augmentation
from xreal_synth.anatomy.mask_files import mask_files
from xreal_synth.anatomy.sources import FolderSource
from xreal_synth.errors import AnatomyError
from xreal_synth.seeds import stream

MODES = {".tar": "w:", ".tar.gz": "w:gz", ".tgz": "w:gz"}


def png(number: int, size: int = 96) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(schematic_mask(size, np.random.default_rng(number))).save(buffer, "PNG")
    return buffer.getvalue()


def write(
    path: Path, members: list[tuple[str, bytes]], change: Callable[[tarfile.TarInfo], None] | None = None
) -> Path:
    mode = next(mode for ending, mode in MODES.items() if path.name.endswith(ending))
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if change is not None:
                change(info)
            tar.addfile(info, io.BytesIO(data))
    return path


def folder(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.mkdir()
    for name, data in members:
        (path / name).write_bytes(data)
    return path


MASKS = [(f"image-{number}.png", png(number)) for number in range(4)]


@pytest.mark.parametrize("ending", list(MODES))
def test_a_tar_gives_the_draws_of_its_folder(tmp_path: Path, ending: str) -> None:
    """The same names and the same masks: where they lie changes no image. Elastic warps come on top."""
    elastic = Augmentation(rotate_deg=0, shift=0, scale=0, elastic=0.03, heart_scale=(1.0, 1.0))
    tar = write(tmp_path / f"masks{ending}", [("notes.txt", b"no mask"), *MASKS[::-1]])
    packed = FolderSource(tar, elastic)
    loose = FolderSource(folder(tmp_path / "masks", MASKS), elastic)
    plain = FolderSource(tar, Augmentation(rotate_deg=0, shift=0, scale=0, elastic=0, heart_scale=(1.0, 1.0)))
    warped = 0
    for index in range(12):
        ours, theirs, still = (one.draw(stream(1, index, 0, "anatomy"), 64) for one in (packed, loose, plain))
        assert ours[1] == theirs[1] == still[1]
        assert np.array_equal(ours[0], theirs[0])
        warped += not np.array_equal(ours[0], still[0])
    assert warped == 12
    assert len(packed) == 4


def test_names_and_bytes_are_the_content_wherever_they_lie(tmp_path: Path) -> None:
    loose = folder(tmp_path / "masks", MASKS)
    known = FolderSource(loose).content
    moved = loose.rename(tmp_path / "moved")
    assert FolderSource(moved, content=known).content == known
    for ending in MODES:
        assert FolderSource(write(tmp_path / f"masks{ending}", MASKS[::-1])).content == known
    renamed = folder(tmp_path / "renamed", [("other.png", MASKS[0][1]), *MASKS[1:]])
    fewer = folder(tmp_path / "fewer", MASKS[1:])
    assert len({known, FolderSource(renamed).content, FolderSource(fewer).content}) == 3
    (moved / MASKS[2][0]).write_bytes(png(9))
    assert FolderSource(moved).content != known, "one mask has changed"
    with pytest.raises(AnatomyError, match=f"{known[:12]}: the same masks"):
        FolderSource(moved, content=known)


def test_a_mask_that_changes_meanwhile_is_reported(tmp_path: Path) -> None:
    loose = folder(tmp_path / "masks", MASKS[:1])
    source = FolderSource(loose)
    module._load.cache_clear()
    (loose / MASKS[0][0]).write_bytes(png(9))
    with pytest.raises(AnatomyError, match="has changed since it was opened"):
        source.draw(stream(1, 0, 0, "anatomy"), 64)


def test_what_has_not_changed_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loose = folder(tmp_path / "masks", MASKS)
    known = FolderSource(loose).content

    def opened(path: Path, *given: object) -> None:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(Path, "open", opened)
    assert module.content_of(mask_files(loose)) == known


def test_a_folder_of_tars_and_the_shards_of_a_dataset(tmp_path: Path) -> None:
    members = [(f"{number:010d}-h.{kind}", png(number)) for number in range(2) for kind in ("png", "anatomy.png")]
    write(tmp_path / "a.tar", members[:2])
    write(tmp_path / "b.tar.gz", members[2:])
    found = mask_files(tmp_path, ".anatomy.png")
    assert [mask.id for mask in found] == ["a.tar/0000000000-h.anatomy.png", "b.tar.gz/0000000001-h.anatomy.png"]
    assert [mask.load().shape for mask in found] == [(96, 96)] * 2
    assert len(mask_files(tmp_path)) == 4


def test_folders_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    tar = write(tmp_path / "m.tar", [("./deep/x.PNG", png(1)), ("._x.png", b"resource fork"), ("read.me", b"")])
    with tarfile.open(tar, "a:") as opened:
        opened.addfile(_folder("deep"))
    assert [mask.id for mask in mask_files(tar)] == ["deep/x.PNG"]


def _folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def _kind(kind: bytes) -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.size, info.linkname = kind, 0, "/etc/passwd"

    return change


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("../out.png", None, "leads out"),
        ("a/../../out.png", None, "leads out"),
        ("/etc/out.png", None, "leads out"),
        ("C:/out.png", None, "leads out"),
        ("a\\..\\out.png", None, "leads out"),
        ("a\nb.png", None, "leads out"),
        ("../out.txt", None, "leads out"),
        ("link.png", _kind(tarfile.SYMTYPE), "neither a plain file"),
        ("link.png", _kind(tarfile.LNKTYPE), "neither a plain file"),
        ("pipe.png", _kind(tarfile.FIFOTYPE), "neither a plain file"),
        ("disk.png", _kind(tarfile.BLKTYPE), "neither a plain file"),
        (f"{'x' * 1100}.png", None, "too long"),
        ("image-0.png", None, "stands twice"),
        ("./image-0.png", None, "stands twice"),
    ],
)
def test_a_tar_that_is_more_than_files_is_refused(
    tmp_path: Path, ending: str, name: str, change: Callable[[tarfile.TarInfo], None] | None, found: str
) -> None:
    tar = tmp_path / f"bad{ending}"
    with tarfile.open(tar, MODES[ending]) as opened:  # type: ignore[call-overload]
        for member, data in (*MASKS[:1], (name, png(1))):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            if member == name and change is not None:
                change(info)
            opened.addfile(info, io.BytesIO(data[: info.size]))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(AnatomyError, match=found):
        FolderSource(tar)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_sizes_are_limited(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write(tmp_path / f"m{ending}", MASKS)
    monkeypatch.setattr(module, "MAX_MASK", 100)
    with pytest.raises(AnatomyError, match="at most 100"):
        mask_files(tar)
    monkeypatch.setattr(module, "MAX_MASK", 16 << 20)
    monkeypatch.setattr(module, "MAX_MEMBERS", 3)
    with pytest.raises(AnatomyError, match="more members"):
        mask_files(tar)


def test_a_compressed_tar_must_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not a mask counts too: zeros pack a thousandfold."""
    tar = write(tmp_path / "m.tar.gz", [*MASKS, ("zeros.bin", bytes(1 << 20))])
    monkeypatch.setattr(module, "MAX_PACKED", 1 << 20)
    with pytest.raises(AnatomyError, match=r"more than 1 MiB"):
        mask_files(tar)
    assert len(mask_files(write(tmp_path / "m.tar", [*MASKS, ("zeros.bin", bytes(1 << 20))]))) == 4


def test_a_bad_mask_is_named_with_its_tar(tmp_path: Path) -> None:
    tar = write(tmp_path / "m.tar", [*MASKS, ("image-9.png", b"GIF89a")])
    with pytest.raises(AnatomyError) as caught:
        FolderSource(tar)
    assert f"{tar}:image-9.png: " in caught.value.found


def test_a_tar_that_changes_under_a_run_is_reported(tmp_path: Path) -> None:
    tar = write(tmp_path / "m.tar", MASKS)
    found = mask_files(tar)
    write(tar, MASKS[::-1])
    os.utime(tar, ns=(1, 1))
    with pytest.raises(AnatomyError, match="has changed"):
        found[0].load()


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_what_is_no_tar_is_reported(tmp_path: Path, ending: str) -> None:
    whole = write(tmp_path / f"m{ending}", MASKS).read_bytes()
    for data in (b"no tar" * 300, b"", whole[:700], gzip.compress(b"no tar" * 300)):
        (tmp_path / f"n{ending}").write_bytes(data)
        with pytest.raises(AnatomyError):
            FolderSource(tmp_path / f"n{ending}")
    with pytest.raises(AnatomyError, match=r"a \.tar"):
        mask_files(tmp_path / "none.tar")
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(AnatomyError, match="a file"):
        mask_files(tmp_path / "x.zip")
