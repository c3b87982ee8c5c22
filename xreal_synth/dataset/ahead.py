"""Reading ahead: many small files at once, handed over in order, with a few in memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from xreal_synth.storage import Store

T = TypeVar("T")
R = TypeVar("R")

REMOTE_READERS: Final = 16
"""Threads that wait for an object store; each request takes tens of milliseconds, whatever its size."""
_DECODERS: Final = 8
_AHEAD: Final = 4


def readers(store: Store, *, decoding: bool = False) -> int:
    """How many threads pay: many where the store is far, one on this machine, one per core for parquet, images and
    hashes, which are decoded outside Python's lock."""
    if store.local_path is None:
        return REMOTE_READERS
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
