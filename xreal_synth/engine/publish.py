"""A shard's way from its delivered groups to where it belongs: rejects, tar, table, then the record that makes it done.

Groups are encoded and written into the tar in a thread beside the model's. What the gate refused comes first, so that
a tar without a record can be told to be whole.

Publishing is idempotent: a second actor that made the same shard finds equal bytes and changes nothing.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING

from xreal_synth.dataset.names import quarantine_key, record_key, rejects_key, table_key, tar_key
from xreal_synth.dataset.record import build_record, parse_record, read_record, record_bytes, stamp
from xreal_synth.dataset.table import build_rejects, build_table
from xreal_synth.dataset.tar import EncodedSample, TableRow, TarWriter, encode_sample
from xreal_synth.errors import DatasetError
from xreal_synth.run.attempts import Attempts
from xreal_synth.run.stopwatch import WAIT, Stopwatch
from xreal_synth.storage import Store, sha256_of, with_retries
from xreal_synth.types import FileStamp, Rejected, ShardPlan, ShardRecord

if TYPE_CHECKING:
    from xreal_synth.engine.samples import GeneratedGroup
    from xreal_synth.run.setup import Run

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
class OpenShard:
    """A shard whose tar, in a temporary folder, has not ended: groups of it may be undecided, or still on the encoder.
    `timings` are its part of the micro-batches' seconds, by name."""

    shard: ShardPlan
    attempts: Attempts
    encoder: ShardEncoder
    folder: tempfile.TemporaryDirectory[str]
    tar: Path
    environment: dict[str, str]
    timings: dict[str, float] = field(default_factory=dict)

    def settle(self, made: GeneratedGroup) -> None:
        """Delivers a group, or refuses it."""
        if (refused := made.refused) is not None:
            self.attempts.refuse(made.spec, refused)
        else:
            self.attempts.accept(made.spec)
            self.encoder.take(made)


def publish_shard(
    run: Run, rendered: OpenShard, store: Store, *, actor: str, attempt: int, replacing: bool
) -> ShardRecord:
    """Ends the tar of a shard whose groups are all decided, publishes it and removes its temporary folder, while
    another may be rendered.

    Raises StorageError, DatasetError, and what the encoder raised.
    """
    rejected = sorted(rendered.attempts.rejected, key=lambda reject: (reject.group, reject.attempt))
    with rendered.folder:
        return publish_rows(
            run, rendered.shard, rendered.encoder.close(), rejected, rendered.tar, store,
            environment=rendered.environment, timings=rendered.timings,
            actor=actor, attempt=attempt, replacing=replacing,
        )  # fmt: skip


def publish_rows(
    run: Run,
    shard: ShardPlan,
    rows: list[TableRow],
    rejected: Sequence[Rejected],
    tar: Path,
    store: Store,
    *,
    environment: dict[str, str],
    timings: dict[str, float],
    actor: str,
    attempt: int,
    replacing: bool,
) -> ShardRecord:
    """Table, rejects and record of a tar that lies in a file, published in order."""
    table, rejects = build_table(shard, rows), build_rejects(shard, rejected) if rejected else None
    record = build_record(
        shard, rows, rejected, tar=stamp(tar_key(shard.stem), tar), table=stamp(table_key(shard.stem), table),
        rejects=None if rejects is None else stamp(rejects_key(shard.stem), rejects), digest=run.digest,
        fingerprint=environment, timings={name: round(value, 3) for name, value in timings.items()},
        actor=actor, attempt=attempt, gated=bool(run.quality.checks),
    )  # fmt: skip
    return publish(store, shard.stem, record, tar, table, rejects, replacing=replacing)


def publish(
    store: Store, stem: str, record: ShardRecord, tar: Path, table: bytes, rejects: bytes | None, *, replacing: bool
) -> ShardRecord:
    """Writes rejects if there are any, tar, table, record; returns the record in force, which may be an earlier, equal
    one's. What fails for the storage's sake is tried again from the beginning, which finds what is written.

    With `replacing` the shard's old record goes first and its tar is replaced: a shard that has grown, or
    one whose files were damaged; a late actor finds that done and changes nothing. Raises StorageError, and
    DatasetError if other bytes are there already.
    """

    def written() -> ShardRecord:
        if replacing:
            if (there := _in_place(store, stem, record)) is not None:
                return there
            store.delete(record_key(stem))
        if record.rejects is not None and rejects is not None:
            _put_or_replace(store, record.rejects, rejects)
        else:
            store.delete(rejects_key(stem))
        if replacing:
            store.replace(record.tar.path, tar)
        elif not store.put_if_absent(record.tar.path, tar):
            _require_same(store, record.tar)
        _put_or_replace(store, record.table, table)
        return _put_record(store, stem, record)

    in_force = with_retries(f"publishing {stem}", written)
    with_retries(f"deleting {quarantine_key(stem)}", lambda: store.delete(quarantine_key(stem)))
    return in_force


def _in_place(store: Store, stem: str, wanted: ShardRecord) -> ShardRecord | None:
    """The record that is there, if it and the files it names are those wanted."""
    try:
        there = read_record(store, stem)
    except DatasetError:
        return None
    if there is None or (there.tar, there.table, there.rejects) != (wanted.tar, wanted.table, wanted.rejects):
        return None
    stamps = filter(None, (there.tar, there.table, there.rejects))
    return there if all(intact(store, one) for one in stamps) else None


def intact(store: Store, wanted: FileStamp) -> bool:
    """Whether a file is there as it was published, byte for byte."""
    return store.size(wanted.path) == wanted.bytes and sha256_of(store, wanted.path) == wanted.sha256


def _require_same(store: Store, tar: FileStamp) -> None:
    there = sha256_of(store, tar.path)
    if there != tar.sha256:
        raise DatasetError(
            where=tar.path,
            found=f"another process has published other bytes (sha256 {there[:12]})",
            wanted=f"the bytes made here (sha256 {tar.sha256[:12]})",
            hint="run again: the published tar is checked then, and kept or made again",
        )


def _put_or_replace(store: Store, wanted: FileStamp, data: bytes) -> None:
    if not store.put_if_absent(wanted.path, data) and sha256_of(store, wanted.path) != wanted.sha256:
        store.replace(wanted.path, data)


def _put_record(store: Store, stem: str, record: ShardRecord) -> ShardRecord:
    key = record_key(stem)
    if store.put_if_absent(key, record_bytes(record)):
        return record
    there = parse_record(store.read_bytes(key), key)
    if there.tar != record.tar:
        raise DatasetError(where=key, found="the record of another tar", wanted=f"that of {record.tar.sha256[:12]}")
    return there
