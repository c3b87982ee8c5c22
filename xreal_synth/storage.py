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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

import fsspec

from xreal_synth.errors import StorageError, XrealError
from xreal_synth.opening import MAX_FILE, UnreadableError, capped, open_file, read_file, roots_of
from xreal_synth.uris import is_loopback as is_loopback
from xreal_synth.uris import is_remote as is_remote
from xreal_synth.uris import local_folder as local_folder
from xreal_synth.uris import refuse_uri as refuse_uri
from xreal_synth.uris import scheme_of as scheme_of
from xreal_synth.uris import scrubbed as scrubbed
from xreal_synth.uris import secrets as secrets

TEMPORARY_PREFIX = ".tmp-"
_CHUNK = 1 << 20
_S3 = ("s3", "s3a")
PART_BYTES = 16 << 20
"""Of an upload to S3; what is as large as two goes up in parts, a few at a time, each tried again by itself."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TOTAL_S, _SILENT_S = 3600.0, 60.0
"""How long an answer over HTTP may take, and be silent, before it is given up."""
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Store(Protocol):
    """A folder of files named by relative posix keys."""

    @property
    def uri(self) -> str:
        """The place as a user writes it: a path, or a URI without credentials."""
        ...

    @property
    def local_path(self) -> Path | None:
        """The folder, if the store is on this machine's file system."""
        ...

    def exists(self, key: str) -> bool:
        """Whether a file is there; a folder is none."""
        ...

    def size(self, key: str) -> int | None:
        """Bytes of the file, None if it is not there."""
        ...

    def read_bytes(self, key: str, limit: int = MAX_FILE) -> bytes:
        """The file; raises StorageError, also for one of more than `limit` bytes, which is not taken in."""
        ...

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of the file; raises StorageError if it has fewer."""
        ...

    def chunks(self, key: str, limit: int | None = None) -> Iterator[bytes]:
        """The file piece by piece; StorageError where they become more than `limit` bytes."""
        ...

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        """Publishes the file whole; False (and nothing written) if the key already exists."""
        ...

    def replace(self, key: str, data: bytes | Path) -> None:
        """Publishes the file whole, in the place of an older one if there is one; raises StorageError."""
        ...

    def delete(self, key: str) -> None:
        """Deletes the file; nothing happens if it is not there."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Sorted keys below the folder `prefix`, one level, without temporary files."""
        ...

    def times(self, prefix: str) -> dict[str, float]:
        """Keys as in `list` with the time each was last written, seconds since 1970 by the store's clock."""
        ...

    def sizes(self, prefix: str) -> dict[str, int]:
        """Keys as in `list` with their files' bytes: on object storage a request for each thousand of them."""
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
    """Hex digest of bytes in memory."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file that is our own, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(store: Store, key: str) -> str:
    """Hex digest of a stored file, read piece by piece; raises StorageError."""
    digest = hashlib.sha256()
    for chunk in store.chunks(key):
        digest.update(chunk)
    return digest.hexdigest()


class LocalStore:
    """A folder on this machine (or on a network mount); itself it may be a link.

    Files are written, and deleted, in folders that are opened without following a link: who may write into one of
    them cannot turn it elsewhere. A link is read where it leads to a plain file that `roots_of` the folder takes in;
    with `farm`, also to one of the same name anywhere, whose folder is then in `mirrored`.
    """

    def __init__(self, root: Path, *, farm: bool = False) -> None:
        self._root = root.expanduser().absolute()
        self.mirrored: set[Path] | None = set() if farm else None

    @property
    def uri(self) -> str:
        return str(self._root)

    @property
    def local_path(self) -> Path | None:
        return self._root

    @cached_property
    def _roots(self) -> tuple[Path, ...]:
        return roots_of(self._root)

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

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
            return _whole(file.read(stop - start), stop - start, str(path))

    def chunks(self, key: str, limit: int | None = None) -> Iterator[bytes]:
        with self._reading(key) as path, open_file(path, self._roots, self.mirrored) as file:
            chunks = iter(lambda: file.read(_CHUNK), b"")
            yield from chunks if limit is None else capped(chunks, limit)

    def open(self, key: str) -> IO[bytes]:
        """The file, to be read in place. Raises StorageError."""
        try:
            return open_file(self._path(key), self._roots, self.mirrored)
        except UnreadableError as error:
            raise StorageError(where=str(self._path(key)), found=str(error), wanted="a plain file") from error

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
        try:
            with self._folder(key) as (folder, name):
                os.unlink(name, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            return

    def list(self, prefix: str) -> list[str]:
        """Sorted keys of the files in one folder; StorageError where the folder is a link that leads elsewhere."""
        folder = self._path(prefix) if prefix else self._root
        if not folder.is_dir():
            return []
        real = folder.resolve()
        farm = self.mirrored is not None and real.name == folder.name
        if not farm and not any(real.is_relative_to(root) for root in self._roots):
            raise StorageError(
                where=str(folder), found="a link that leads out of the folder", wanted="a folder in it"
            )
        names = (entry.name for entry in os.scandir(folder) if _is_file(entry))
        base = f"{prefix.rstrip('/')}/" if prefix else ""
        return sorted(f"{base}{name}" for name in names if not name.startswith(TEMPORARY_PREFIX))

    def times(self, prefix: str) -> dict[str, float]:
        """Each file's time of change by this machine's disk; files that vanish meanwhile are left out."""
        found = {}
        for key in self.list(prefix):
            try:
                found[key] = self._path(key).stat().st_mtime
            except OSError:
                continue
        return found

    def sizes(self, prefix: str) -> dict[str, int]:
        """Each file's bytes; files that vanish meanwhile are left out."""
        reported = ((key, self.size(key)) for key in self.list(prefix))
        return {key: size for key, size in reported if size is not None}

    def sweep(self, older_than_s: float = 3600.0) -> int:
        """Removes temporary files that killed writers left, in all folders; returns how many."""
        limit, swept = time.time() - older_than_s, 0
        for path in self._root.rglob(f"{TEMPORARY_PREFIX}*"):
            try:
                if path.lstat().st_mtime < limit:
                    path.unlink()
                    swept += 1
            except FileNotFoundError:
                continue
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
            self._root.mkdir(parents=True, exist_ok=True)
        folder = os.open(self._root, _FOLDER)
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
                        where=f"{self._root}/{key}", found=f"{part} is no folder, or a link to one",
                        wanted="a folder of its own", hint="put the folder itself in its place",
                    ) from error  # fmt: skip
                os.close(folder)
                folder = below
            yield folder, name
        finally:
            os.close(folder)


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
                    while chunk := source.read(_CHUNK):
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


def private_files() -> None:
    """Files made from now on are not for others: 0640 at most, folders 0750. For what holds patients' images."""
    os.umask(os.umask(0o027) | 0o027)


def _whole(data: bytes, wanted: int, where: str) -> bytes:
    if len(data) != wanted:
        raise StorageError(where=where, found=f"ends {wanted - len(data)} bytes too early")
    return data


class RemoteStore:
    """Any fsspec file system (s3://, gs://, hf://, memory://).

    Put-if-absent is the service's own conditional write (S3: `If-None-Match: *`, on the request that makes the
    object appear, also of a multipart upload). A driver tries again by itself when an answer is lost, so False
    may also mean that an earlier try of the same call has written: callers compare what is there. On a service
    that knows no conditional write it looks before it writes, as on a disk without hard links.
    Whatever a driver raises becomes a StorageError or stays an OSError; neither holds credentials.
    """

    def __init__(self, uri: str, *, reading: bool = False) -> None:
        self._uri = uri.rstrip("/")
        refuse_uri(self._uri, reading=reading)
        try:
            filesystem, root = fsspec.core.url_to_fs(self._uri, use_listings_cache=False, **_patience(uri))
        except (ImportError, ValueError) as error:
            raise StorageError(
                found=f"cannot open {scheme_of(uri)}://: {error}",
                wanted="a storage scheme whose driver is installed",
                hint="pip install 'xreal-synth[s3]' or 'xreal-synth[gcs]', or use a local folder",
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
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        """Bytes of the object by one request, None if it is not there."""
        path = self._path(key)
        with self._driver(key):
            try:
                entry = self._fs.info(path)
            except FileNotFoundError:
                return None
        return int(entry["size"] or 0) if entry["type"] == "file" else None

    def read_bytes(self, key: str, limit: int = MAX_FILE) -> bytes:
        """The object, in one request that asks for no more than the limit where the service can do that."""
        if scheme_of(self._uri) not in (*_S3, "memory"):
            return b"".join(self.chunks(key, limit))
        path = self._path(key)
        with self._driver(key, reading=True):  # one request, which asks for no more than the limit
            try:
                data = bytes(self._fs.cat_file(path, start=0, end=limit + 1))
            except OSError as error:
                if _service_code(error) != "InvalidRange":  # S3's answer for an empty object
                    raise
                return b""
            return b"".join(capped((data,), limit))

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        path = self._path(key)
        with self._driver(key, reading=True):
            data = bytes(self._fs.cat_file(path, start=start, end=stop))
        return _whole(data, stop - start, f"{self._uri}/{key}")

    def chunks(self, key: str, limit: int | None = None) -> Iterator[bytes]:
        path = self._path(key)
        with self._driver(key, reading=True), self._fs.open(path, "rb") as file:
            chunks = iter(lambda: file.read(_CHUNK), b"")
            yield from chunks if limit is None else capped(chunks, limit)

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        """Asks the service to write only where nothing is (`If-None-Match: *`).

        Where the service knows no such request it is looked first, and two writers may both write.
        """
        if self.exists(key):
            return False
        with self._driver(key):
            try:
                self._put(key, data, mode="create")
            except FileExistsError:
                return False
            except (OSError, NotImplementedError) as error:
                code = _service_code(error)
                if code == "PreconditionFailed":
                    return False
                if code != "NotImplemented" and not isinstance(error, NotImplementedError):
                    raise
                self._put(key, data)
        return True

    def replace(self, key: str, data: bytes | Path) -> None:
        """Uploads the object; readers see the old one until it is complete."""
        with self._driver(key):
            self._put(key, data)

    def _put(self, key: str, data: bytes | Path, **how: str | int) -> None:
        if scheme_of(self._uri) in _S3:
            how["chunksize"] = PART_BYTES
        if isinstance(data, bytes):
            self._fs.pipe_file(self._path(key), data, **how)
        else:
            self._fs.put_file(str(data), self._path(key), **how)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._driver(key):
            try:
                self._fs.rm_file(path)
            except FileNotFoundError:
                return

    def list(self, prefix: str) -> list[str]:
        return sorted(self._entries(prefix))

    def times(self, prefix: str) -> dict[str, float]:
        """Each object's time of writing by the service's clock, from one listing."""
        return {key: _written(entry) for key, entry in sorted(self._entries(prefix).items())}

    def sizes(self, prefix: str) -> dict[str, int]:
        """Each object's bytes, from one listing."""
        return {key: int(entry["size"] or 0) for key, entry in sorted(self._entries(prefix).items())}

    def _entries(self, prefix: str) -> dict[str, dict[str, Any]]:
        folder = self._path(prefix.rstrip("/")) if prefix else self._root
        with self._driver(prefix):
            try:
                entries = self._fs.ls(folder, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
        base = f"{prefix.rstrip('/')}/" if prefix else ""
        files = (entry for entry in entries if entry["type"] == "file" and entry["name"] != folder)
        return {f"{base}{str(entry['name']).rsplit('/', 1)[-1]}": entry for entry in files}

    def sweep(self, older_than_s: float = 3600.0) -> int:
        """Gives up S3's unfinished multipart uploads below this place, which cost and are not listed."""
        if scheme_of(self._uri) not in _S3:
            return 0
        bucket, _, prefix = self._root.partition("/")
        limit, swept = time.time() - older_than_s, 0
        with self._driver(""):
            try:
                uploads = self._fs.list_multipart_uploads(bucket)
            except (FileNotFoundError, PermissionError):
                return 0
            for upload in uploads:
                if upload["Key"].startswith(f"{prefix}/") and upload["Initiated"].timestamp() < limit:
                    self._fs.abort_mpu(bucket, upload["Key"], upload["UploadId"])
                    swept += 1
        return swept

    @contextmanager
    def _driver(self, key: str, *, reading: bool = False) -> Iterator[None]:
        """A driver's own exceptions, and while reading also OSErrors, as StorageError."""
        try:
            yield
        except (XrealError, GeneratorExit):
            raise
        except Exception as error:
            if isinstance(error, OSError) and not reading:
                raise
            reported = scrubbed(str(error)) or type(error).__name__
            doing = "read" if reading else "reach"
            raise StorageError(
                found=f"cannot {doing} {self._uri}/{key}: {reported}".replace("/: ", ": "),
                wanted="a place that answers, and credentials that it takes",
                hint="check the address, the network, and the credentials in the environment",
            ) from None


def _service_code(error: BaseException) -> str | None:
    """The service's own code of an error that a driver has translated (`PreconditionFailed`)."""
    response = getattr(error.__cause__ or error, "response", None)
    reported = response.get("Error", {}) if isinstance(response, dict) else {}
    return str(reported.get("Code")) if reported else None


def _patience(uri: str) -> dict[str, Any]:
    """What has a driver over HTTP give up a server that sends nothing; the services' own drivers have such limits."""
    if scheme_of(uri) not in ("http", "https"):
        return {}
    import aiohttp

    return {
        "client_kwargs": {
            "timeout": aiohttp.ClientTimeout(total=_TOTAL_S, sock_connect=30, sock_read=_SILENT_S)
        }
    }


def _written(entry: dict[str, Any]) -> float:
    """When an object was last written, as its file system's listing has it; 0 where it does not say."""
    for name in ("LastModified", "mtime", "updated", "created"):
        reported = entry.get(name)
        if isinstance(reported, str):
            reported = datetime.fromisoformat(reported)
        if isinstance(reported, datetime):
            return reported.timestamp()
        if isinstance(reported, int | float):
            return float(reported)
    return 0.0


def missing_folders(folder: Path) -> list[Path]:
    """The folder and those above it that do not exist yet, innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those of the folders that are there and hold nothing, in the order given."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def open_store(uri: str, *, reading: bool = False) -> Store:
    """The store at a folder path, a file:// URI or one of the URIs that `uris.refuse_uri` takes."""
    return RemoteStore(uri, reading=reading) if is_remote(uri) else LocalStore(local_folder(uri))
