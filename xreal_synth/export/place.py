"""The place of an export: a folder or file that is there whole or not at all."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xreal_synth.dataset.names import SUFFIXES
from xreal_synth.dataset.tar import TarSample
from xreal_synth.errors import StorageError
from xreal_synth.storage import checked_key, scheme_of

PARTIAL = ".partial-"


def free_path(out: str) -> Path:
    """The path, if nothing is there yet and its parent can hold it; raises StorageError."""
    if scheme_of(out):
        raise StorageError(
            found=f"{out} is a remote place",
            wanted="a local folder: exports are written on this machine",
            hint="export to a folder and copy that",
        )
    path = Path(out).expanduser().absolute()
    if path.exists() or path.is_symlink():
        raise StorageError(
            found=f"{path} exists",
            wanted="a place that is still free: an export replaces nothing",
            hint="give another place, or remove it first",
        )
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
    path = folder / checked_key(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image.members[SUFFIXES.index(suffix)])
    return name
