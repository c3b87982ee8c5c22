"""The place of an export, a folder or file that is there whole or not at all, and files that are written into it."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from xreal_synth.dataset.tar import TarSample
from xreal_synth.errors import StorageError
from xreal_synth.storage import checked_key, scheme_of

PARTIAL = ".partial-"


def free_path(out: str) -> Path:
    """The path, if nothing is there yet and its parent can hold it; raises StorageError."""
    if scheme_of(out):
        raise StorageError(
            found=f"{out} is a remote place", wanted="a local folder: exports are written on this machine",
            hint="export to a folder and copy that",
        )  # fmt: skip
    path = Path(out).expanduser().absolute()
    if path.exists() or path.is_symlink():
        raise StorageError(
            found=f"{path} exists", wanted="a place that is still free: an export replaces nothing",
            hint="give another place, or remove it first",
        )  # fmt: skip
    return path


def left_behind(path: Path) -> list[Path]:
    """Folders of exports to this place that were killed: whole nowhere, so they may be deleted."""
    if not path.parent.is_dir():
        return []
    return sorted(path.parent.glob(f".{path.name}{PARTIAL}*"))


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write into; it takes the name `path` when the block ends well.

    If the block raises, what was written is removed. Raises StorageError where the disk fails.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
        yield partial
        free_path(str(path))
        partial.rename(path)
    except OSError as error:
        raise StorageError(found=f"cannot write {path}: {error}", hint="see to the disk, then repeat") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_member(folder: Path, name: str, image: TarSample, suffix: str) -> str:
    """Writes an image's file of that suffix, its bytes as they are, to `name` in the folder; returns the name."""
    new_file(folder, name).write_bytes(image.member(suffix))
    return name


def new_file(folder: Path, name: str) -> Path:
    """The path of `name` in the folder, whose own folder is there then. Raises StorageError for an unsafe name."""
    path = folder / checked_key(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


class JsonLists:
    """A JSON object: the fields of `head`, then lists, each waiting in a file beside it until the block ends.

    It takes no more memory than one entry. `head` is written last, with what has been added to it in the block.
    Lists named in `lists` are there even if empty, others from their first entry on, in that order.
    """

    def __init__(self, path: Path, head: Mapping[str, object], lists: Iterable[str] = ()) -> None:
        self._path, self._head = path, head
        self._waiting: dict[str, IO[str]] = {}
        for name in lists:
            self._open(name)

    def __enter__(self) -> JsonLists:
        return self

    def add(self, name: str, entry: Mapping[str, object]) -> None:
        """Adds an entry to the list called `name`."""
        file = self._waiting.get(name) or self._open(name)
        file.write(",\n" if file.tell() else "\n")
        file.write(json.dumps(entry, separators=(",", ":"), allow_nan=False))

    def __exit__(self, *_: object) -> None:
        with self._path.open("w", encoding="utf-8", newline="\n") as out:
            out.write("{" + "".join(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in self._head.items()))
            for number, (name, file) in enumerate(self._waiting.items()):
                with file:
                    out.write((",\n" if number else "") + f"{json.dumps(name)}: [")
                    file.seek(0)
                    shutil.copyfileobj(file, out)
                    out.write("\n]")
                self._rest(name).unlink()
            out.write("}\n")

    def _rest(self, name: str) -> Path:
        return self._path.with_suffix(f".{name}")

    def _open(self, name: str) -> IO[str]:
        file = self._waiting[name] = self._rest(name).open("w+", encoding="utf-8", newline="\n")
        return file
