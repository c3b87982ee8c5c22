"""Opening a place of files, local or remote, behind one seam: put-if-absent, atomic replacement, sha256.

Nothing is ever opened for writing under its final name: remotely an object appears only when complete.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec

from xreal_synth.errors import StorageError, XrealError
from xreal_synth.local_store import TEMPORARY_PREFIX as TEMPORARY_PREFIX
from xreal_synth.local_store import LocalStore as LocalStore
from xreal_synth.local_store import local_copy as local_copy
from xreal_synth.opening import MAX_FILE, capped
from xreal_synth.store import CHUNK, whole
from xreal_synth.store import FULL as FULL
from xreal_synth.store import RetryingStore as RetryingStore
from xreal_synth.store import Store as Store
from xreal_synth.store import checked_key as checked_key
from xreal_synth.store import retrying as retrying
from xreal_synth.store import sha256_bytes as sha256_bytes
from xreal_synth.store import sha256_file as sha256_file
from xreal_synth.store import sha256_of as sha256_of
from xreal_synth.store import with_retries as with_retries
from xreal_synth.uris import is_loopback as is_loopback
from xreal_synth.uris import is_remote as is_remote
from xreal_synth.uris import local_folder as local_folder
from xreal_synth.uris import refuse_uri as refuse_uri
from xreal_synth.uris import scheme_of as scheme_of
from xreal_synth.uris import scrubbed as scrubbed
from xreal_synth.uris import secrets as secrets

_S3 = ("s3", "s3a")
PART_BYTES = 16 << 20
"""Of an upload to S3; what is as large as two goes up in parts, a few at a time, each tried again by itself."""
_TOTAL_S, _SILENT_S = 3600.0, 60.0
"""How long an answer over HTTP may take, and be silent, before it is given up."""


class RemoteStore:
    """Any fsspec file system (s3://, gs://, hf://, memory://).

    Put-if-absent is the service's own conditional write (S3: `If-None-Match: *`, on the request that makes the
    object appear, also of a multipart upload). A driver tries again by itself when an answer is lost, so False
    may also mean that an earlier try of the same call has written: callers compare what is there. On a service
    that knows no conditional write it looks before it writes, as on a disk without hard links.
    Whatever a driver raises becomes a StorageError or stays an OSError; neither holds credentials.
    """

    local_path: Path | None = None

    def __init__(self, uri: str, *, reading: bool = False) -> None:
        refuse_uri(uri, reading=reading)
        self.uri = uri.rstrip("/")
        try:
            filesystem, root = fsspec.core.url_to_fs(self.uri, use_listings_cache=False, **_patience(uri))
        except (ImportError, ValueError) as error:
            raise StorageError(
                found=f"cannot open {scheme_of(uri)}://: {error}", wanted="a storage scheme whose driver is installed",
                hint="pip install 'xreal-synth[s3]' or 'xreal-synth[gcs]', or use a local folder",
            ) from error  # fmt: skip
        self._fs: Any = filesystem
        self._root = str(root).rstrip("/")

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
        if scheme_of(self.uri) not in (*_S3, "memory"):
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
        return whole(data, stop - start, f"{self.uri}/{key}")

    def chunks(self, key: str, limit: int | None = None) -> Iterator[bytes]:
        path = self._path(key)
        with self._driver(key, reading=True), self._fs.open(path, "rb") as file:
            yield from capped(iter(lambda: file.read(CHUNK), b""), limit)

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
        if scheme_of(self.uri) in _S3:
            how["chunksize"] = PART_BYTES
        if isinstance(data, bytes):
            self._fs.pipe_file(self._path(key), data, **how)
        else:
            self._fs.put_file(str(data), self._path(key), **how)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._driver(key), suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def list(self, prefix: str) -> list[str]:
        return sorted(self._entries(prefix))

    def stats(self, prefix: str) -> dict[str, tuple[int, float]]:
        """Each object's bytes and time of writing by the service's clock, from one listing."""
        found = sorted(self._entries(prefix).items())
        return {key: (int(entry["size"] or 0), _written(entry)) for key, entry in found}

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
        if scheme_of(self.uri) not in _S3:
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
                found=f"cannot {doing} {self.uri}/{key}: {reported}".replace("/: ", ": "),
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

    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=_TOTAL_S, sock_connect=30, sock_read=_SILENT_S)}}


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


def require_writable(folder: Path) -> None:
    """Raises StorageError where the folder, or those above it that are not there yet, cannot be made and written into.
    Leaves nothing."""
    there = folder.absolute()
    try:
        while not there.exists():
            there = there.parent
        tempfile.TemporaryFile(dir=there).close()  # without a name where the disk can do that
    except OSError as error:
        reason = "not a folder" if error.errno == errno.ENOTDIR else error.strerror
        raise StorageError(
            found=f"{folder} cannot be written: {there}: {reason}", wanted="a folder that may be written, and has room",
            hint="make room or fix the place, or give another",
        ) from error  # fmt: skip


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those of the folders that are there and hold nothing, in the order given."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Takes the folder, and those above it that were not there before, away again where an error left them empty."""
    missing = missing_folders(folder)
    try:
        yield
    except BaseException:
        remove_empty(missing)
        raise


def open_store(uri: str, *, reading: bool = False) -> Store:
    """The store at a folder path, a file:// URI or one of the URIs that `uris.refuse_uri` takes."""
    return RemoteStore(uri, reading=reading) if is_remote(uri) else LocalStore(local_folder(uri))


def private_files() -> None:
    """Files made from now on are not for others: 0640 at most, folders 0750. For what holds patients' images."""
    os.umask(os.umask(0o027) | 0o027)
