"""Delivered groups on their way into a shard's tar, in a thread beside the model's."""

from __future__ import annotations

import tempfile
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING

from xreal_synth.dataset.tar import EncodedSample, TableRow, TarWriter, encode_sample
from xreal_synth.run.stopwatch import WAIT, Stopwatch
from xreal_synth.types import Rejected, ShardPlan

if TYPE_CHECKING:
    from xreal_synth.engine.samples import GeneratedGroup

_MOST = 256
"""Tasks that may wait for the encoder before rendering waits for it."""


class ShardEncoder:
    """Groups are encoded as they come and written in their order. Ends with `close` or `abandon`."""

    def __init__(self, tar: Path, watch: Stopwatch) -> None:
        self._writer, self._watch = TarWriter(tar), watch
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._unwritten: list[int] = []
        self._encoded: dict[int, list[EncodedSample]] = {}
        self._tasks: deque[Future[None]] = deque()

    def take(self, made: GeneratedGroup) -> None:
        """Waits where the encoder has fallen far behind. Raises what it raised."""
        heappush(self._unwritten, made.spec.index)
        self._tasks.append(self._encoder.submit(self._encode, made))
        while self._tasks and (len(self._tasks) > _MOST or self._tasks[0].done()):
            with self._watch.within(WAIT):
                self._tasks.popleft().result()

    def write(self, frontier: int | None) -> None:
        """Has the groups before the frontier written; all without one."""
        while self._unwritten and (frontier is None or self._unwritten[0] < frontier):
            self._tasks.append(self._encoder.submit(self._add, heappop(self._unwritten)))

    def close(self) -> list[TableRow]:
        """Waits until everything is written and ends the tar; any thread may do so, while the model's goes on.

        Returns the samples' rows of the table. Raises what the encoder raised; then the tar is no valid one.
        """
        with self._writer as writer, self._encoder:
            self.write(None)
            while self._tasks:
                self._tasks.popleft().result()
        return writer.rows

    def abandon(self) -> None:
        """Leaves the tar without its end."""
        self._encoder.shutdown(cancel_futures=True)
        self._writer.abandon()

    def _encode(self, made: GeneratedGroup) -> None:
        self._encoded[made.spec.index] = [encode_sample(sample) for sample in made.samples]

    def _add(self, index: int) -> None:
        for encoded in self._encoded.pop(index):
            self._writer.add(encoded)


@dataclass(frozen=True, slots=True, eq=False)
class RenderedShard:
    """A shard whose last images may still be on the encoder, on their way into the tar in a temporary folder, and what
    its table and record are made of."""

    shard: ShardPlan
    folder: tempfile.TemporaryDirectory[str]
    tar: Path
    encoder: ShardEncoder
    rejected: list[Rejected]
    environment: dict[str, str]
    timings: dict[str, float]
