"""A store whose every operation is tried again when a remote place fails for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from xreal_synth.errors import StorageError
from xreal_synth.opening import MAX_FILE
from xreal_synth.storage import Store

T = TypeVar("T")

TRIES = 4
FIRST_WAIT_S = 0.2


def patient(store: Store) -> Store:
    """The store itself if it is local, else one that waits and tries again."""
    return store if store.local_path is not None else PatientStore(store)


class PatientStore:
    """Passes everything on; what is missing is not waited for."""

    def __init__(self, store: Store, sleep: Callable[[float], None] = time.sleep) -> None:
        self._store, self._sleep = store, sleep

    @property
    def uri(self) -> str:
        return self._store.uri

    @property
    def local_path(self) -> Path | None:
        return self._store.local_path

    def exists(self, key: str) -> bool:
        return self._again(lambda: self._store.exists(key))

    def size(self, key: str) -> int | None:
        return self._again(lambda: self._store.size(key))

    def read_bytes(self, key: str, limit: int = MAX_FILE) -> bytes:
        return self._again(lambda: self._store.read_bytes(key, limit))

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        return self._again(lambda: self._store.read_range(key, start, stop))

    def chunks(self, key: str, limit: int | None = None) -> Iterator[bytes]:
        """From the beginning again until the first chunk is there; later failures are the caller's."""

        def begin() -> tuple[bytes | None, Iterator[bytes]]:
            chunks = self._store.chunks(key, limit)
            return next(chunks, None), chunks

        first, rest = self._again(begin)
        if first is not None:
            yield first
            yield from rest

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        """After a failure that came too late to undo the write, False: the file is there."""
        return self._again(lambda: self._store.put_if_absent(key, data))

    def replace(self, key: str, data: bytes | Path) -> None:
        self._again(lambda: self._store.replace(key, data))

    def delete(self, key: str) -> None:
        self._again(lambda: self._store.delete(key))

    def list(self, prefix: str) -> list[str]:
        return self._again(lambda: self._store.list(prefix))

    def times(self, prefix: str) -> dict[str, float]:
        return self._again(lambda: self._store.times(prefix))

    def sizes(self, prefix: str) -> dict[str, int]:
        return self._again(lambda: self._store.sizes(prefix))

    def sweep(self, older_than_s: float = 3600.0) -> int:
        return self._store.sweep(older_than_s)

    def _again(self, action: Callable[[], T]) -> T:
        for attempt in range(TRIES - 1):
            try:
                return action()
            except (OSError, StorageError) as error:
                if isinstance(error, FileNotFoundError) or isinstance(error.__context__, FileNotFoundError):
                    raise
                self._sleep(FIRST_WAIT_S * 2**attempt)
        return action()
