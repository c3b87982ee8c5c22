"""Shard records: a shard is done when, and only when, its record is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from xreal_synth.dataset.names import record_key
from xreal_synth.dataset.seal import sealed, unsealed, validated
from xreal_synth.dataset.summary import count_acceptance
from xreal_synth.dataset.table import label_counts
from xreal_synth.dataset.tar import TableRow
from xreal_synth.storage import Store, sha256_bytes, sha256_file
from xreal_synth.types import FileStamp, Rejected, ShardPlan, ShardRecord


def stamp(path: str, data: bytes | Path) -> FileStamp:
    """Size and sha256 of content that is, or will be, published under the key `path`."""
    if isinstance(data, bytes):
        return FileStamp(path, len(data), sha256_bytes(data))
    return FileStamp(path, data.stat().st_size, sha256_file(data))


def build_record(
    shard: ShardPlan, rows: Sequence[TableRow], rejected: Sequence[Rejected], *,
    tar: FileStamp, table: FileStamp, rejects: FileStamp | None, digest: str, fingerprint: dict[str, str],
    timings: dict[str, float], actor: str, attempt: int, gated: bool = False,
) -> ShardRecord:  # fmt: skip
    """The record of a finished shard; counts are taken from its rows.

    `rejected` counts every refused attempt, `dropped` the groups given up; `rejects` is None without any.
    `gated` says that a gate looked at the images.
    """
    assert (rejects is None) == (not rejected)
    return ShardRecord(
        shard=shard.shard, start=shard.start, stop=shard.stop, samples=len(rows),
        groups=len({row.meta.group for row in rows}), rejected=len(rejected),
        dropped=sum(reject.dropped for reject in rejected), tar=tar, table=table, rejects=rejects,
        digest=digest, fingerprint=fingerprint, label_counts=label_counts(row.meta for row in rows),
        timings=timings, actor=actor, attempt=attempt,
        gate=count_acceptance([row.meta for row in rows], rejected) if gated else None,
    )  # fmt: skip


def record_bytes(record: ShardRecord) -> bytes:
    """The record's file: canonical JSON with a checksum over itself."""
    return sealed(dataclasses.asdict(record))


def parse_record(data: bytes, where: str) -> ShardRecord:
    """The record in a file's bytes; raises DatasetError if one byte differs from what was written."""
    return validated(ShardRecord, unsealed(data, where), where, "a shard record")


def read_record(store: Store, stem: str) -> ShardRecord | None:
    """The shard's record, None if it is not done; raises DatasetError on a damaged one."""
    key = record_key(stem)
    if not store.exists(key):
        return None
    return parse_record(store.read_bytes(key), key)
