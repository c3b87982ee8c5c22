"""A folder on this machine as a store.

Nothing is ever opened for writing under its final name: a file is written beside its target and linked (put-if-absent)
or renamed (replace). On a file system without hard links, put-if-absent looks before it renames: whole files still,
but two writers that come within an instant of each other both succeed, and the later one's file stays.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO

from xreal_synth.errors import StorageError
from xreal_synth.opening import MAX_FILE, UnreadableError, capped, open_file, read_file, roots_of
from xreal_synth.store import CHUNK, Store, checked_key, whole

TEMPORARY_PREFIX = ".tmp-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class LocalStore:
    """A folder on this machine (or on a network mount); itself it may be a link.

    Files are written, and deleted, in folders that are opened without following a link: who may write into one of
    them cannot turn it elsewhere. A link is read where it leads to a plain file that `roots_of` the folder takes in;
    with `farm`, also to one of the same name anywhere, whose folder is then in `mirrored`.
    """

    def __init__(self, root: Path, *, farm: bool = False) -> None:
        self.local_path: Path = root.expanduser().absolute()
        self.uri = str(self.local_path)
        self.mirrored: set[Path] | None = set() if farm else None

    @cached_property
    def _roots(self) -> tuple[Path, ...]:
        return roots_of(self.local_path)

    def _path(self, key: str) -> Path:
        return self.local_path / checked_key(key)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def size(self, key: str) -> int | None:
        try:
            return self._path(key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_bytes(self, key: str, limit: int = MAX_FILE) -> bytes:
        """The file, if it lies in the folder or where its links may lead; raises StorageError."""
        with self._reading(key) as path:
            return read_file(path, limit, self._roots, self.mirrored)

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        with self._reading(key) as path, open_file(path, self._roots, self.mirrored) as file:
            file.seek(start)
            return whole(file.read(stop - start), stop - start, str(path))

    def chunks(self, key: str, limit: int | None = None) -> Iterator[bytes]:
        with self._reading(key) as path, open_file(path, self._roots, self.mirrored) as file:
            yield from capped(iter(lambda: file.read(CHUNK), b""), limit)

    def open(self, key: str) -> IO[bytes]:
        """The file, to be read in place. Raises StorageError."""
        with self._reading(key) as path:
            return open_file(path, self._roots, self.mirrored)

    def append(self, key: str) -> IO[bytes]:
        """The file, unbuffered, to be written on at its end; made if it is not there, no link followed."""
        with self._folder(key, make=True) as (folder, name):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            return os.fdopen(os.open(name, flags, 0o666, dir_fd=folder), "ab", buffering=0)

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        """Writes a temporary file and links it under its name, which fails where the name is taken.

        On a disk without hard links the folder is looked at first, and the file renamed.
        """
        with self._folder(key, make=True) as (folder, name), _temporary(folder, data) as temporary:
            try:
                os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                if name in os.listdir(folder):  # noqa: PTH208 (of a descriptor)
                    return False
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        return True

    def replace(self, key: str, data: bytes | Path) -> None:
        """Writes a temporary file, renames it over the old one, and has the disk keep the change."""
        with self._folder(key, make=True) as (folder, name), _temporary(folder, data) as temporary:
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError, NotADirectoryError), self._folder(key) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def list(self, prefix: str) -> list[str]:
        """Sorted keys of the files in one folder; StorageError where the folder is a link that leads elsewhere."""
        folder = self._path(prefix) if prefix else self.local_path
        if not folder.is_dir():
            return []
        real = folder.resolve()
        farm = self.mirrored is not None and real.name == folder.name
        if not farm and not any(real.is_relative_to(root) for root in self._roots):
            raise StorageError(where=str(folder), found="a link that leads out of the folder", wanted="a folder in it")
        names = (entry.name for entry in os.scandir(folder) if _is_file(entry))
        base = f"{prefix.rstrip('/')}/" if prefix else ""
        return sorted(f"{base}{name}" for name in names if not name.startswith(TEMPORARY_PREFIX))

    def stats(self, prefix: str) -> dict[str, tuple[int, float]]:
        """Each file's bytes and time of change by this machine's disk; files that vanish meanwhile are left out."""
        found = {}
        for key in self.list(prefix):
            with suppress(OSError):
                there = self._path(key).stat()
                found[key] = there.st_size, there.st_mtime
        return found

    def sweep(self, older_than_s: float = 3600.0) -> int:
        """Removes temporary files that killed writers left, in all folders; returns how many."""
        limit, swept = time.time() - older_than_s, 0
        for path in self.local_path.rglob(f"{TEMPORARY_PREFIX}*"):
            with suppress(FileNotFoundError):
                if path.lstat().st_mtime < limit:
                    path.unlink()
                    swept += 1
        return swept

    @contextmanager
    def _reading(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        try:
            yield path
        except UnreadableError as error:
            raise StorageError(where=str(path), found=str(error), wanted="a plain file") from error
        except OSError as error:
            raise StorageError(found=f"cannot read {path}: {error.strerror}") from error

    @contextmanager
    def _folder(self, key: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The key's folder, open, no link followed below the root, and the file's name in it."""
        *inner, name = PurePosixPath(checked_key(key)).parts
        if make:
            self.local_path.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.local_path, _FOLDER)
        try:
            for part in inner:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=folder)
                try:
                    below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                except OSError as error:
                    if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                        raise
                    raise StorageError(
                        where=f"{self.local_path}/{key}", found=f"{part} is no folder, or a link to one",
                        wanted="a folder of its own", hint="put the folder itself in its place",
                    ) from error  # fmt: skip
                os.close(folder)
                folder = below
            yield folder, name
        finally:
            os.close(folder)


@contextmanager
def local_copy(store: Store, key: str) -> Iterator[Path]:
    """The file on this machine: itself in a local store, else a temporary copy. Raises StorageError."""
    if store.local_path is not None:
        if not store.exists(key):
            raise StorageError(found=f"{key} is missing")
        if isinstance(store, LocalStore):
            store.open(key).close()
        yield store.local_path / key
        return
    with tempfile.NamedTemporaryFile(prefix="xreal-synth-") as file:
        for chunk in store.chunks(key):
            file.write(chunk)
        file.flush()
        yield Path(file.name)


@contextmanager
def _temporary(folder: int, data: bytes | Path) -> Iterator[str]:
    """The name of a new file in an open folder that holds the data; taken away at the end if it is still there."""
    name = f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
    try:
        with os.fdopen(made, "wb") as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                with data.open("rb") as source:
                    while chunk := source.read(CHUNK):
                        file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        yield name
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A plain file, or a link to anything but a folder: whether it leads anywhere is told when it is read."""
    if entry.is_symlink():
        return not Path(entry.path).is_dir()
    return entry.is_file(follow_symlinks=False)
