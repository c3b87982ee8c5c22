"""What a place of files is, local or remote; how files are hashed and read ahead; how calls are tried again."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol, TypeVar, cast

from xreal_synth.errors import StorageError
from xreal_synth.opening import MAX_FILE

T = TypeVar("T")
R = TypeVar("R")

CHUNK: Final = 1 << 20
_CALL_TRIES, _CALL_WAIT_S = 4, 0.2
"""Of one call to a remote place."""
_REMOTE_READERS: Final = 16
"""Threads that wait for an object store; each request takes tens of milliseconds, whatever its size."""
_DECODERS: Final = 8
_AHEAD: Final = 4

_HOPELESS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR,
    errno.EISDIR, errno.ELOOP,
)  # fmt: skip
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A disk, a quota or a file that may not grow further."""


class Store(Protocol):
    """A folder of files named by relative posix keys."""

    @property
    def uri(self) -> str:
        """The place as a user writes it: a path, or a URI without credentials."""

    @property
    def local_path(self) -> Path | None:
        """The folder, if the store is on this machine's file system."""

    def exists(self, key: str) -> bool:
        """Whether a file is there; a folder is none."""

    def size(self, key: str) -> int | None:
        """Bytes of the file, None if it is not there."""

    def read_bytes(self, key: str, limit: int = MAX_FILE) -> bytes:
        """The file; raises StorageError, also for one of more than `limit` bytes, which is not taken in."""

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of the file; raises StorageError if it has fewer."""

    def chunks(self, key: str, limit: int | None = None) -> Iterator[bytes]:
        """The file piece by piece; StorageError where they become more than `limit` bytes."""

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        """Publishes the file whole; False (and nothing written) if the key already exists."""

    def replace(self, key: str, data: bytes | Path) -> None:
        """Publishes the file whole, in the place of an older one if there is one; raises StorageError."""

    def delete(self, key: str) -> None:
        """Deletes the file; nothing happens if it is not there."""

    def list(self, prefix: str) -> list[str]:
        """Sorted keys below the folder `prefix`, one level, without temporary files."""

    def stats(self, prefix: str) -> dict[str, tuple[int, float]]:
        """Keys as in `list` with their files' bytes and the time each was last written, seconds since 1970 by the
        store's clock: on object storage a request for each thousand of them."""

    def sweep(self, older_than_s: float = 3600.0) -> int:
        """Removes abandoned temporary files older than this; returns how many."""


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


def whole(data: bytes, wanted: int, where: str) -> bytes:
    if len(data) != wanted:
        raise StorageError(where=where, found=f"ends {wanted - len(data)} bytes too early")
    return data


def with_retries(
    what: str,
    action: Callable[[], T],
    *,
    tries: int = 5,
    wait_s: float = 0.5,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """The action's result, of one call or several; waits twice as long after each failure of the storage.

    A full or read-only disk is not waited for. Raises StorageError.
    """
    try:
        return _tried(action, _hopeless, tries, wait_s, sleep)
    except (OSError, StorageError) as error:
        raise StorageError(
            found=f"{what} failed: {error}",
            wanted="a place that can be read and written",
            hint="make room or fix the storage, then run the same command again to go on",
        ) from error


def _tried(
    action: Callable[[], T], final: Callable[[Exception], bool], tries: int, wait_s: float,
    sleep: Callable[[float], None],
) -> T:  # fmt: skip
    """The one loop of retries: the last failure, or one that is `final`, is raised."""
    for attempt in range(tries - 1):
        try:
            return action()
        except (OSError, StorageError) as error:
            if final(error):
                raise
            sleep(wait_s * 2**attempt)
    return action()


def _hopeless(error: Exception) -> bool:
    return any(isinstance(one, OSError) and one.errno in _HOPELESS for one in (error, error.__cause__))


def _absent(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) or isinstance(error.__context__, FileNotFoundError)


def retrying(store: Store) -> Store:
    """The store itself if it is local or does so already, else one that waits and tries again."""
    if store.local_path is not None or isinstance(store, RetryingStore):
        return store
    return cast("Store", RetryingStore(store))


class RetryingStore:
    """Passes everything on, and calls that fail again; what is missing is not waited for. Of a `put_if_absent` whose
    failure came too late to undo the write the answer is False: the file is there."""

    def __init__(self, store: Store, sleep: Callable[[float], None] = time.sleep) -> None:
        self._store, self._sleep = store, sleep

    def __getattr__(self, name: str) -> Any:
        there = getattr(self._store, name)
        return partial(self._again, there) if callable(there) else there

    def chunks(self, key: str, limit: int | None = None) -> Iterator[bytes]:
        """From the beginning again until the first chunk is there; later failures are the caller's."""

        def begin() -> tuple[bytes | None, Iterator[bytes]]:
            chunks = self._store.chunks(key, limit)
            return next(chunks, None), chunks

        first, rest = self._again(begin)
        if first is not None:
            yield first
            yield from rest

    def _again(self, call: Callable[..., T], *given: Any, **named: Any) -> T:
        return _tried(lambda: call(*given, **named), _absent, _CALL_TRIES, _CALL_WAIT_S, self._sleep)


def readers(store: Store, *, decoding: bool = False) -> int:
    """How many threads pay: many where the store is far, one on this machine, one per core for parquet, images and
    hashes, which are decoded outside Python's lock."""
    if store.local_path is None:
        return _REMOTE_READERS
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
               _DECODERS) if decoding else 1  # fmt: skip


def in_order(action: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """`map(action, items)` by threads, at most four items ahead for each; raises what the action raises at its
    item's turn."""
    if threads <= 1:
        yield from map(action, items)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(action, item))
                if len(waiting) >= _AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()
