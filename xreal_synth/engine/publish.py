"""Putting a finished shard where it belongs: rejects, tar, table, then the record that makes it done.

What the gate refused comes first, so that a tar without a record can be told to be whole.

Publishing is idempotent: a second actor that made the same shard finds equal bytes and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xreal_synth.dataset.names import quarantine_key, record_key, rejects_key, table_key, tar_key
from xreal_synth.dataset.record import build_record, parse_record, read_record, record_bytes, stamp
from xreal_synth.dataset.table import build_rejects, build_table
from xreal_synth.dataset.tar import TableRow
from xreal_synth.engine.shard_encoder import RenderedShard
from xreal_synth.errors import DatasetError
from xreal_synth.storage import Store, sha256_of, with_retries
from xreal_synth.types import FileStamp, Rejected, ShardPlan, ShardRecord

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """A shard's content, not yet published; `rejects` is None where nothing was rejected."""

    stem: str
    tar: Path
    table: bytes
    rejects: bytes | None

    @property
    def stamps(self) -> tuple[FileStamp, FileStamp, FileStamp | None]:
        """Size and sha256 of tar, table and rejects under their final names."""
        rejects = None if self.rejects is None else stamp(rejects_key(self.stem), self.rejects)
        return stamp(tar_key(self.stem), self.tar), stamp(table_key(self.stem), self.table), rejects


def publish_shard(
    run: Run, rendered: RenderedShard, store: Store, *, actor: str, attempt: int, replacing: bool
) -> ShardRecord:
    """Ends a rendered shard's tar, publishes it and removes its temporary folder, while another may be rendered.

    Raises StorageError, DatasetError, and what the encoder raised.
    """
    with rendered.folder:
        return publish_rows(
            run, rendered.shard, rendered.encoder.close(), rendered.rejected, rendered.tar, store,
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
    rejects = build_rejects(shard, rejected) if rejected else None
    files = ShardFiles(shard.stem, tar, build_table(shard, rows), rejects)
    tar_stamp, table_stamp, rejects_stamp = files.stamps
    record = build_record(
        shard, rows, rejected, tar=tar_stamp, table=table_stamp, rejects=rejects_stamp, digest=run.digest,
        fingerprint=environment, timings={name: round(value, 3) for name, value in timings.items()},
        actor=actor, attempt=attempt, gated=bool(run.quality.checks),
    )  # fmt: skip
    return publish(store, files, record, replacing=replacing)


def publish(store: Store, files: ShardFiles, record: ShardRecord, *, replacing: bool) -> ShardRecord:
    """Writes tar, table, record; returns the record in force, which may be an earlier, equal one's.

    With `replacing` the shard's old record goes first and its tar is replaced: a shard that has grown, or
    one whose files were damaged; a late actor finds that done and changes nothing. Raises StorageError, and
    DatasetError if other bytes are there already.
    """
    stem = files.stem
    if replacing and (there := _in_place(store, stem, record)) is not None:
        return there
    if replacing:
        with_retries(f"deleting {record_key(stem)}", lambda: store.delete(record_key(stem)))
    if record.rejects is not None and files.rejects is not None:
        _put_or_replace(store, record.rejects, files.rejects)
    else:
        with_retries(f"deleting {rejects_key(stem)}", lambda: store.delete(rejects_key(stem)))
    if replacing:
        with_retries(f"writing {record.tar.path}", lambda: store.replace(record.tar.path, files.tar))
    elif not with_retries(
        f"writing {record.tar.path}", lambda: store.put_if_absent(record.tar.path, files.tar)
    ):
        _same_or_error(store, record)
    _put_or_replace(store, record.table, files.table)
    return _put_record(store, stem, record)


def _in_place(store: Store, stem: str, wanted: ShardRecord) -> ShardRecord | None:
    """The record that is there, if it and the files it names are those wanted."""
    try:
        there = with_retries(f"reading {record_key(stem)}", lambda: read_record(store, stem))
    except DatasetError:
        return None
    if there is None or (there.tar, there.table, there.rejects) != (wanted.tar, wanted.table, wanted.rejects):
        return None
    stamps = [entry for entry in (there.tar, there.table, there.rejects) if entry is not None]
    sound = all(store.size(entry.path) == entry.bytes and sha256_of(store, entry.path) == entry.sha256
                for entry in stamps)  # fmt: skip
    return there if sound else None


def _same_or_error(store: Store, record: ShardRecord) -> None:
    path = record.tar.path
    there = with_retries(f"reading {path}", lambda: sha256_of(store, path))
    if there != record.tar.sha256:
        raise DatasetError(
            where=path,
            found=f"another process has published other bytes (sha256 {there[:12]})",
            wanted=f"the bytes made here (sha256 {record.tar.sha256[:12]})",
            hint="run again: the published tar is checked then, and kept or made again",
        )


def _put_or_replace(store: Store, wanted: FileStamp, data: bytes) -> None:
    def put() -> None:
        if not store.put_if_absent(wanted.path, data) and sha256_of(store, wanted.path) != wanted.sha256:
            store.replace(wanted.path, data)

    with_retries(f"writing {wanted.path}", put)


def _put_record(store: Store, stem: str, record: ShardRecord) -> ShardRecord:
    key = record_key(stem)
    if with_retries(f"writing {key}", lambda: store.put_if_absent(key, record_bytes(record))):
        with_retries(f"deleting {quarantine_key(stem)}", lambda: store.delete(quarantine_key(stem)))
        return record
    there = parse_record(with_retries(f"reading {key}", lambda: store.read_bytes(key)), key)
    if there.tar != record.tar:
        raise DatasetError(
            where=key, found="the record of another tar", wanted=f"that of {record.tar.sha256[:12]}"
        )
    return there
