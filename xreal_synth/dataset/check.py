"""One shard under the loupe: its files against its record, and its samples against one another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from xreal_synth.dataset.agree import group_problems, row_problems, sample_problems
from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.names import rejects_key, table_key, tar_key
from xreal_synth.dataset.table import label_counts, read_rejected, read_table, sample_schema
from xreal_synth.dataset.tar import TableRow, TarSample, read_samples
from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.storage import Store, local_copy, sha256_of
from xreal_synth.types import FileStamp, SampleMeta, ShardPlan, ShardRecord

MOST_PER_FILE = 20


def file_problems(store: Store, entry: FileStamp) -> list[str]:
    """Whether the file has the size and hash that its record names."""
    size = store.size(entry.path)
    if size is None:
        return ["missing"]
    if size != entry.bytes:
        return [f"{size} bytes, its record names {entry.bytes}"]
    return [] if sha256_of(store, entry.path) == entry.sha256 else ["its sha256 is not the one recorded"]


def record_problems(record: ShardRecord, shard: int, stem: str, head: DatasetHead, plan: ShardPlan | None) -> list[str]:
    """What in a record contradicts its own name, the dataset's head or the plan."""
    first = shard * head.shard_samples
    rejects = record.rejects.path if record.rejects is not None else rejects_key(stem)
    reported = {
        "shard": (record.shard, shard),
        "digest": (record.digest, head.digest),
        "tar": (record.tar.path, tar_key(stem)),
        "table": (record.table.path, table_key(stem)),
        "rejects": (rejects, rejects_key(stem)),
        "start": (record.start, plan.start if plan is not None else first),
        "stop": (record.stop, plan.stop if plan is not None else min(record.stop, first + head.shard_samples)),
        "groups and dropped": (record.groups + record.dropped, record.stop - record.start),
        "rejects and rejected": (record.rejects is not None, record.rejected > 0),
    }
    return [f"{name}: {found!r}, wanted {wanted!r}" for name, (found, wanted) in reported.items() if found != wanted]


def shard_problems(store: Store, head: DatasetHead, record: ShardRecord, deep: bool) -> Iterator[tuple[str, str]]:
    """(file, what is wrong with it) for the shard's tar, table and reject table."""
    stamps = [entry for entry in (record.tar, record.table, record.rejects) if entry is not None]
    reported = {entry.path: file_problems(store, entry) for entry in stamps}
    yield from ((path, text) for path, texts in reported.items() for text in texts)
    if not deep:
        return
    table = None
    if not reported[record.table.path]:
        table, texts = _table_problems(store.read_bytes(record.table.path), record)
        yield from ((record.table.path, text) for text in texts)
    if store.exists(record.tar.path):
        yield from ((record.tar.path, text) for text in _tar_problems(store, head, record, table))
    if record.rejects is not None and not reported[record.rejects.path]:
        yield from ((record.rejects.path, text) for text in _reject_problems(store, record))


def _table_problems(data: bytes, record: ShardRecord) -> tuple[Any, list[str]]:
    """The shard's table (None if unreadable) and what in it contradicts the record."""
    try:
        table = read_table(data, record.table.path, sample_schema())
    except DatasetError as error:
        return None, [error.found]
    if table.num_rows != record.samples:
        return table, [f"{table.num_rows} rows, its record names {record.samples} samples"]
    groups = len(table.column("group").unique())
    return table, [] if groups == record.groups else [f"{groups} groups, its record names {record.groups}"]


def _reject_problems(store: Store, record: ShardRecord) -> list[str]:
    """What in the shard's reject table contradicts the record."""
    if record.rejects is None:
        return []
    try:
        rejected = read_rejected(store.read_bytes(record.rejects.path), record.rejects.path)
    except (DatasetError, StorageError) as error:
        return [error.found]
    dropped = sum(reject.dropped for reject in rejected)
    counts, wanted = (len(rejected), dropped), (record.rejected, record.dropped)
    return [] if counts == wanted else [f"{counts} attempts rejected and groups dropped, recorded {wanted}"]


def _tar_problems(store: Store, head: DatasetHead, record: ShardRecord, table: Any) -> Iterator[str]:
    """Decodes every sample and holds it against itself, its group, its row and the record."""
    try:
        with local_copy(store, record.tar.path) as path:
            samples = read_samples(path, record.tar.path)
            for number, problem in enumerate(_content_problems(samples, head, record, table), start=1):
                yield problem
                if number == MOST_PER_FILE:
                    yield "and more"
                    return
    except StorageError as error:
        yield error.found
    except DatasetError as error:
        yield error.message()


def _content_problems(
    samples: Iterable[TarSample], head: DatasetHead, record: ShardRecord, table: Any
) -> Iterator[str]:
    edited = bool(head.setting("pairs", "edit_negatives"))
    batches = [] if table is None else table.to_batches(max_chunksize=256)
    rows = (row for batch in batches for row in batch.to_pylist())
    metas: list[SampleMeta] = []
    for group, run in groupby(samples, key=lambda read: read.sample.meta.group):
        if not record.start <= group < record.stop:
            yield f"group {group} in a shard of groups {record.start} to {record.stop - 1}"
        members = []
        for read in run:
            sample, row = read.sample, next(rows, None)
            if row is not None:
                found = TableRow(sample.meta, sample.split, read.sha256)
                yield from row_problems(found, row, record.tar.path, record.shard)
            yield from sample_problems(sample, head)
            members.append(sample)
        yield from group_problems(members, edited_negatives=edited)
        metas += [member.meta for member in members]
    groups = [meta.group for meta in metas]
    if groups != sorted(groups):
        yield "its groups do not ascend"
    if len(metas) != record.samples:
        yield f"{len(metas)} samples, its record names {record.samples}"
    elif label_counts(metas) != {name: record.label_counts.get(name) for name in label_counts(())}:
        yield "its record's label_counts are not those of its samples"
