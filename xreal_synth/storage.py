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
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import fsspec

from xreal_synth.errors import StorageError, XrealError

TEMPORARY_PREFIX = ".tmp-"
_CHUNK = 1 << 20
_SECRET_ENDINGS = ("_SECRET_ACCESS_KEY", "_ACCESS_KEY_ID", "_TOKEN", "_PASSWORD", "_SECRET", "_KEY")
_SECRET_LENGTH = 8
_GRANTS = re.compile(
    r"(?i)((?<=://)[^/\s:@]*:(?=[^/\s@]*@)|[?&](?:x-amz-(?:signature|credential|security-token)|x-goog-signature|"
    r"x-goog-credential|signature|sig|token|access_token|password|secret)=|\bauthorization\W{1,4}\w+\s)[^\s&@'\"]+"
)
"""`user:` of `://user:password@`, `name=` of a signed query, `Authorization: Bearer `; each with what grants access."""
_S3 = ("s3", "s3a")
PART_BYTES = 16 << 20
"""Of an upload to S3; what is as large as two goes up in parts, a few at a time, each tried again by itself."""
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

    def sizes(self, prefix: str) -> dict[str, int]:
        reported = ((key, self.size(key)) for key in self.list(prefix))
        return {key: size for key, size in reported if size is not None}

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
    """Any fsspec file system (s3://, gs://, hf://, memory://).

    Put-if-absent is the service's own conditional write (S3: `If-None-Match: *`, on the request that makes the
    object appear, also of a multipart upload). A driver tries again by itself when an answer is lost, so False
    may also mean that an earlier try of the same call has written: callers compare what is there. On a service
    that knows no conditional write it looks before it writes, as on a disk without hard links.
    Whatever a driver raises becomes a StorageError or stays an OSError; neither holds credentials.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        refuse_credentials(self._uri)
        try:
            filesystem, root = fsspec.core.url_to_fs(self._uri, use_listings_cache=False)
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
        path = self._path(key)
        with self._driver(key):
            try:
                entry = self._fs.info(path)
            except FileNotFoundError:
                return None
        return int(entry["size"] or 0) if entry["type"] == "file" else None

    def read_bytes(self, key: str) -> bytes:
        path = self._path(key)
        with self._driver(key, reading=True):
            return bytes(self._fs.cat_file(path))

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        path = self._path(key)
        with self._driver(key, reading=True):
            data = bytes(self._fs.cat_file(path, start=start, end=stop))
        return _whole(data, stop - start, f"{self._uri}/{key}")

    def chunks(self, key: str) -> Iterator[bytes]:
        path = self._path(key)
        with self._driver(key, reading=True), self._fs.open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
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
        return {key: _written(entry) for key, entry in sorted(self._entries(prefix).items())}

    def sizes(self, prefix: str) -> dict[str, int]:
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


def secrets() -> tuple[str, ...]:
    """The values of the environment's credentials."""
    reported = (value for name, value in os.environ.items() if name.endswith(_SECRET_ENDINGS))
    return tuple(value for value in reported if len(value) >= _SECRET_LENGTH)


def scrubbed(text: str, known: Iterable[str] | None = None) -> str:
    """The text without the values of the environment's credentials (those `known`, if they are given), and without
    what in a URI or a header grants access: passwords, signatures, tokens."""
    for value in secrets() if known is None else known:
        text = text.replace(value, "***")
    return _GRANTS.sub(r"\1***", text)


def refuse_credentials(uri: str) -> None:
    """Raises StorageError for a URI with a password in it: places are told in logs and records."""
    scheme, _, rest = uri.partition("://")
    if rest and ("@" in rest.split("/", 1)[0] and ":" in rest.split("@", 1)[0]):
        raise StorageError(
            found=f"credentials in a {scheme}:// URI",
            wanted="a place without them: it stands in logs and datasets",
            hint="give them in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or as a role",
        )


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


def scheme_of(uri: str) -> str:
    """`s3` of `s3://bucket/x`; an empty string for a path."""
    head, separator, _ = uri.partition("://")
    return head if separator else ""


def is_remote(uri: str) -> bool:
    """Whether a place is on object storage: neither a path nor a file:// URI."""
    return scheme_of(uri) not in ("", "file", "local")


def local_folder(uri: str) -> Path:
    """The path of a place that is not remote."""
    assert not is_remote(uri), uri
    return Path(uri.removeprefix(f"{scheme_of(uri)}://")).expanduser()


def open_store(uri: str) -> Store:
    """The store at a folder path, a file:// URI or any fsspec URI."""
    return RemoteStore(uri) if is_remote(uri) else LocalStore(local_folder(uri))
