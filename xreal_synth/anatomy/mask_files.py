"""Organ masks in a folder, or in tars: listed by name, read one at a time, never unpacked to a disk.

A tar may come from anywhere. Its members' names are checked, links and devices are refused, sizes are limited;
a plain tar is read where its masks lie, a compressed one is held in memory as far as MAX_PACKED.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Final

from xreal_synth.anatomy.label_map import decode_mask
from xreal_synth.anatomy.validate import validate_mask
from xreal_synth.errors import AnatomyError
from xreal_synth.opening import MAX_IMAGE, UnreadableError, open_file, open_tar, read_file, roots_of
from xreal_synth.types import Mask

PLAIN: Final = ".tar"
PACKED: Final = (".tar.gz", ".tgz")
MAX_MASK: Final = 16 << 20
"""Bytes of one mask's file in a tar."""
MAX_PACKED: Final = 512 << 20
"""Bytes of a compressed tar, unpacked: all of it has to be read, and its masks are held in memory."""
MAX_MEMBERS: Final = 1_000_000

_CACHE: Final = 256
_READERS: Final = 4
_CONTENTS: Final[dict[str, str]] = {}
"""Contents by the versions of the files."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask's name, as images tell it, where it lies, and how to read its file's bytes, which raises AnatomyError.
    `version` is another where the file is another, or has changed."""

    id: str
    where: str
    read: Callable[[], bytes] = field(compare=False)
    version: tuple[str | int, ...]

    def load(self) -> Mask:
        """The mask, validated and read-only, uint8 [H, W]. Raises AnatomyError."""
        return _load(self)


@lru_cache(maxsize=_CACHE)
def _load(file: MaskFile) -> Mask:
    mask = decode_mask(file.read(), file.where)
    validate_mask(mask, file.where)
    mask.flags.writeable = False
    return mask


def content_of(files: Sequence[MaskFile]) -> str:
    """sha256 (hex) over the masks' names and bytes, wherever they lie: a folder has that of a tar of its files.

    Every file is read, once per process as long as none changes. Raises AnatomyError.
    """
    reported = hashlib.sha256(repr([(file.id, file.version) for file in files]).encode()).hexdigest()
    if reported not in _CONTENTS:
        with ThreadPoolExecutor(_READERS) as readers:
            hashes = readers.map(lambda file: hashlib.sha256(file.read()).hexdigest(), files)
            named = [[file.id, sha] for file, sha in zip(files, hashes, strict=True)]
        _CONTENTS[reported] = hashlib.sha256(json.dumps(named, separators=(",", ":")).encode()).hexdigest()
    return _CONTENTS[reported]


def mask_files(path: Path, suffix: str = ".png") -> list[MaskFile]:
    """The masks at a path, by name: the files of a folder that end in `suffix`, those in a tar, or those in the
    tars of a folder without such files.

    Raises AnatomyError where there are none, and for a tar that is no plain collection of files.
    """
    if path.is_file() and is_tar(path):
        found = _packed(path, suffix, "")
    elif path.is_dir():
        files = sorted(path.iterdir())
        found = [_loose(file) for file in files if file.name.lower().endswith(suffix.lower()) and file.is_file()] or [
            mask for tar in files if is_tar(tar) for mask in _packed(tar, suffix, f"{tar.name}/")
        ]
    else:
        raise AnatomyError(
            where=str(path),
            found="a file" if path.exists() else "no such file" if is_tar(path) else "no such folder",
            wanted="a folder of organ masks (*.png), or a .tar, .tar.gz or .tgz of them",
            hint="--set anatomy.source.masks.path=FOLDER; the recipe's first lines say what goes there",
        )
    if not found:
        raise AnatomyError(
            where=str(path),
            found="no PNG in the folder" if suffix == ".png" and path.is_dir() else f"no file that ends in {suffix}",
            wanted=f"one organ mask or more (*{suffix})",
        )
    return sorted(found, key=lambda mask: mask.id)


def is_tar(path: Path) -> bool:
    """Whether the name is a tar's: .tar, .tar.gz, .tgz, in any case."""
    return path.name.lower().endswith((PLAIN, *PACKED))


def _loose(file: Path) -> MaskFile:
    stamp = _stamp(file)
    return MaskFile(file.name, str(file), partial(_read, file, stamp), (str(file), *stamp))


def _read(file: Path, stamp: tuple[int, int], offset: int = 0, size: int = -1) -> bytes:
    """Of a file that is as it was; raises AnatomyError if it has changed."""
    try:
        if _stamp(file) != stamp:
            what = "tar" if is_tar(file) else "mask"
            raise AnatomyError(
                where=str(file), found=f"the {what} has changed since it was opened", hint="start the run again"
            )
        if size < 0:
            return read_file(file, MAX_IMAGE, roots_of(file.parent))
        with open_file(file) as opened:
            opened.seek(offset)
            return opened.read(size)
    except (OSError, UnreadableError) as error:
        raise AnatomyError(where=str(file), found=f"cannot be read ({error})", wanted="an organ mask") from error


def _packed(tar: Path, suffix: str, folder: str) -> list[MaskFile]:
    """The masks of a tar; `folder` comes before their names. A plain tar is read where each mask lies in it, the
    masks of a compressed one, which cannot be read from the middle, are held in memory."""
    packed, stamp = tar.name.lower().endswith(PACKED), _stamp(tar)
    found = []
    try:
        with open_tar(tar, "r|gz" if packed else "r:") as opened:
            for name, info in _masks(opened, tar, suffix, MAX_PACKED if packed else None):
                if packed:
                    member = opened.extractfile(info)
                    assert member is not None, "a plain file"
                    read = partial(bytes, member.read())
                else:
                    read = partial(_read, tar, stamp, info.offset_data, info.size)
                found.append(MaskFile(folder + name, f"{tar}:{name}", read, (str(tar), *stamp, name)))
    except (tarfile.TarError, OSError, EOFError, UnreadableError, zlib.error) as error:
        raise AnatomyError(
            where=str(tar), found=f"cannot be read as a tar ({error})", wanted="a whole tar of organ masks",
            hint="make it again: tar cf masks.tar -C FOLDER .",
        ) from error  # fmt: skip
    return found


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _masks(opened: tarfile.TarFile, tar: Path, suffix: str, most: int | None) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """(name, member) of each mask, every member checked; folders, hidden files and others are passed over.

    `most` limits the bytes of the tar.
    """
    seen: set[str] = set()
    count = 0
    while (info := opened.next()) is not None:
        opened.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has read
        count += 1
        problem = _problem(info) or ("more members than that" if count > MAX_MEMBERS else "")
        if problem:
            raise AnatomyError(
                where=str(tar), found=f"member {info.name[:120]!r}: {problem}",
                wanted=f"plain files with names below the tar's top, at most {MAX_MEMBERS:,}",
                hint="make the tar anew from the masks' folder: tar cf masks.tar -C FOLDER .",
            )  # fmt: skip
        if most is not None and info.offset_data + info.size > most:
            raise AnatomyError(
                where=str(tar), found=f"more than {most >> 20} MiB in a compressed tar",
                hint="unpack it to a plain .tar, which is read in place",
            )  # fmt: skip
        name = str(PurePosixPath(info.name))
        if info.isdir() or not name.lower().endswith(suffix.lower()) or PurePosixPath(name).name.startswith("."):
            continue
        if info.size > MAX_MASK or name in seen:
            found = "stands twice" if name in seen else f"{info.size} bytes, at most {MAX_MASK} are read"
            raise AnatomyError(where=f"{tar}:{name}", found=found, hint="make the tar anew")
        seen.add(name)
        yield name, info


def _problem(info: tarfile.TarInfo) -> str:
    """Why nothing of a tar with such a member is read; empty if nothing is wrong."""
    path = PurePosixPath(info.name)
    if not (info.isreg() or info.isdir()) or info.sparse is not None:
        return "neither a plain file nor a folder"
    if path.is_absolute() or ".." in path.parts or _CONTROL.search(info.name) or re.match("[A-Za-z]:", info.name):
        return "its name leads out of the tar"
    return "" if len(info.name) <= 1024 else "its name is too long"
