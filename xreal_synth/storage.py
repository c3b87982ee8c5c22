"""Local and remote places behind one seam: put-if-absent, atomic replacement, sha256.

Nothing is ever opened for writing under its final name. Locally a file is written beside its target and
linked (put-if-absent) or renamed (replace); remotely an object appears only when complete. On a file system
without hard links, put-if-absent looks before it renames: whole files still, but two writers that come
within an instant of each other both succeed, and the later one's file stays.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import fsspec

from xreal_synth.errors import StorageError

TEMPORARY_PREFIX = ".tmp-"
_CHUNK = 1 << 20
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Store(Protocol):
    """A folder of files named by relative posix keys."""

    @property
    def uri(self) -> str: ...

    @property
    def local_path(self) -> Path | None:
        """The folder, if the store is on this machine's file system."""
        ...

    def exists(self, key: str) -> bool: ...

    def size(self, key: str) -> int | None:
        """Bytes of the file, None if it is not there."""
        ...

    def read_bytes(self, key: str) -> bytes: ...

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of the file; raises StorageError if it has fewer."""
        ...

    def chunks(self, key: str) -> Iterator[bytes]: ...

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        """Publishes the file whole; False (and nothing written) if the key already exists."""
        ...

    def replace(self, key: str, data: bytes | Path) -> None: ...

    def delete(self, key: str) -> None:
        """Deletes the file; nothing happens if it is not there."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Sorted keys below the folder `prefix`, one level, without temporary files."""
        ...

    def times(self, prefix: str) -> dict[str, float]:
        """Keys as in `list` with the time each was last written, seconds since 1970 by the store's clock."""
        ...

    def sweep(self, older_than_s: float = 3600.0) -> int:
        """Removes abandoned temporary files older than this; returns how many."""
        ...


def checked_key(key: str) -> str:
    """The key itself, if it stays inside its store; raises StorageError otherwise."""
    path = PurePosixPath(key)
    if not key or path.is_absolute() or ".." in path.parts or "\\" in key or "\0" in key:
        raise StorageError(found=f"unsafe file name {key!r}", wanted="a relative path inside the dataset")
    return key


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(store: Store, key: str) -> str:
    digest = hashlib.sha256()
    for chunk in store.chunks(key):
        digest.update(chunk)
    return digest.hexdigest()


class LocalStore:
    """A folder on this machine (or on a network mount)."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()

    @property
    def uri(self) -> str:
        return str(self._root)

    @property
    def local_path(self) -> Path | None:
        return self._root

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def size(self, key: str) -> int | None:
        try:
            return self._path(key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_bytes(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except OSError as error:
            raise StorageError(found=f"cannot read {self._path(key)}: {error.strerror}") from error

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        try:
            with self._path(key).open("rb") as file:
                file.seek(start)
                return _whole(file.read(stop - start), stop - start, str(self._path(key)))
        except OSError as error:
            raise StorageError(found=f"cannot read {self._path(key)}: {error.strerror}") from error

    def chunks(self, key: str) -> Iterator[bytes]:
        with self._path(key).open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        target = self._path(key)
        temporary = self._write_temporary(target, data)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if target.exists():
                return False
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
        return True

    def replace(self, key: str, data: bytes | Path) -> None:
        target = self._path(key)
        temporary = self._write_temporary(target, data)
        os.replace(temporary, target)
        _sync_folder(target.parent)

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def list(self, prefix: str) -> list[str]:
        folder = self._path(prefix) if prefix else self._root
        if not folder.is_dir():
            return []
        names = (entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False))
        base = f"{prefix.rstrip('/')}/" if prefix else ""
        return sorted(f"{base}{name}" for name in names if not name.startswith(TEMPORARY_PREFIX))

    def times(self, prefix: str) -> dict[str, float]:
        found = {}
        for key in self.list(prefix):
            try:
                found[key] = self._path(key).stat().st_mtime
            except FileNotFoundError:
                continue
        return found

    def sweep(self, older_than_s: float = 3600.0) -> int:
        limit, swept = time.time() - older_than_s, 0
        for path in self._root.rglob(f"{TEMPORARY_PREFIX}*"):
            try:
                if path.stat().st_mtime < limit:
                    path.unlink()
                    swept += 1
            except FileNotFoundError:
                continue
        return swept

    def _write_temporary(self, target: Path, data: bytes | Path) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        try:
            with temporary.open("wb") as file:
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    with data.open("rb") as source:
                        while chunk := source.read(_CHUNK):
                            file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


def _whole(data: bytes, wanted: int, where: str) -> bytes:
    if len(data) != wanted:
        raise StorageError(where=where, found=f"ends {wanted - len(data)} bytes too early")
    return data


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RemoteStore:
    """Any fsspec file system (s3://, gs://, memory://)."""

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        try:
            filesystem, root = fsspec.core.url_to_fs(self._uri)
        except (ImportError, ValueError) as error:
            raise StorageError(
                found=f"cannot open {scheme_of(uri)}://: {error}",
                wanted="a storage scheme whose driver is installed",
                mend="pip install 'xreal-synth[s3]' or 'xreal-synth[gcs]', or use a local folder",
            ) from error
        self._fs: Any = filesystem
        self._root = str(root).rstrip("/")

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def local_path(self) -> Path | None:
        return None

    def _path(self, key: str) -> str:
        return f"{self._root}/{checked_key(key)}"

    def exists(self, key: str) -> bool:
        return bool(self._fs.isfile(self._path(key)))

    def size(self, key: str) -> int | None:
        try:
            return int(self._fs.size(self._path(key)))
        except FileNotFoundError:
            return None

    def read_bytes(self, key: str) -> bytes:
        try:
            return bytes(self._fs.cat_file(self._path(key)))
        except OSError as error:
            raise StorageError(found=f"cannot read {self._uri}/{key}: {error}") from error

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        try:
            data = bytes(self._fs.cat_file(self._path(key), start=start, end=stop))
        except OSError as error:
            raise StorageError(found=f"cannot read {self._uri}/{key}: {error}") from error
        return _whole(data, stop - start, f"{self._uri}/{key}")

    def chunks(self, key: str) -> Iterator[bytes]:
        with self._fs.open(self._path(key), "rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        content = data if isinstance(data, bytes) else data.read_bytes()
        if self.exists(key):
            return False
        try:
            self._fs.pipe_file(self._path(key), content, mode="create")
        except FileExistsError:
            return False
        return True

    def replace(self, key: str, data: bytes | Path) -> None:
        if isinstance(data, bytes):
            self._fs.pipe_file(self._path(key), data)
        else:
            self._fs.put_file(str(data), self._path(key))

    def delete(self, key: str) -> None:
        try:
            self._fs.rm_file(self._path(key))
        except FileNotFoundError:
            return

    def list(self, prefix: str) -> list[str]:
        return sorted(self._entries(prefix))

    def times(self, prefix: str) -> dict[str, float]:
        return {key: _written(entry) for key, entry in sorted(self._entries(prefix).items())}

    def _entries(self, prefix: str) -> dict[str, dict[str, Any]]:
        folder = self._path(prefix) if prefix else self._root
        self._fs.invalidate_cache()
        try:
            entries = self._fs.ls(folder, detail=True)
        except FileNotFoundError:
            return {}
        base = f"{prefix.rstrip('/')}/" if prefix else ""
        files = (entry for entry in entries if entry["type"] == "file")
        return {f"{base}{str(entry['name']).rsplit('/', 1)[-1]}": entry for entry in files}

    def sweep(self, older_than_s: float = 3600.0) -> int:
        return 0


def _written(entry: dict[str, Any]) -> float:
    """When an object was last written, as its file system's listing has it; 0 where it does not tell."""
    for name in ("LastModified", "mtime", "updated", "created"):
        told = entry.get(name)
        if isinstance(told, str):
            told = datetime.fromisoformat(told)
        if isinstance(told, datetime):
            return told.timestamp()
        if isinstance(told, int | float):
            return float(told)
    return 0.0


def missing_folders(folder: Path) -> list[Path]:
    """The folder and those above it that do not exist yet, innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def scheme_of(uri: str) -> str:
    """`s3` of `s3://bucket/x`; an empty string for a path."""
    head, separator, _ = uri.partition("://")
    return head if separator else ""


def open_store(uri: str) -> Store:
    """The store at a folder path, a file:// URI or any fsspec URI."""
    scheme = scheme_of(uri)
    if scheme in ("", "file", "local"):
        return LocalStore(Path(uri.removeprefix(f"{scheme}://")))
    return RemoteStore(uri)
