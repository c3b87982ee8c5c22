"""One shard under the loupe: its files against its record, and its samples against one another."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.shards.agree import group_problems, row_problems, sample_problems
from xreal_synth.shards.head import DatasetHead
from xreal_synth.shards.names import rejects_key, table_key, tar_key
from xreal_synth.shards.record import stamp
from xreal_synth.shards.table import label_counts, read_rejected, read_table, sample_schema
from xreal_synth.shards.tar import CanonicalTar, TableRow, TarSample, encode_sample, read_samples
from xreal_synth.storage import LocalStore, Store, sha256_of
from xreal_synth.types import FileStamp, SampleMeta, ShardPlan, ShardRecord

MOST_PER_FILE = 20


@dataclass(frozen=True, slots=True)
class TarCheck:
    """What a tar without a record holds, and why it cannot be adopted (nothing, if it can).

    The rows' split is "train": it is not in a tar, so the adopter fills it in.
    """

    rows: tuple[TableRow, ...]
    problems: tuple[str, ...]


def check_tar(
    source: Path | bytes, shard: ShardPlan, head: DatasetHead, keys: Sequence[str] | None = None
) -> TarCheck:
    """Reads a recordless tar and says whether its bytes are right.

    They are if every sample is whole, agrees with itself and with the head, lies in the shard's range in
    order, if `keys` (when given) are exactly the tar's, and if this code would write these very bytes from
    what it read. A changed value in a KEY.json that contradicts nothing else passes, so hold `rows` against
    the plan.
    """
    rows: list[TableRow] = []
    canonical = CanonicalTar()
    try:
        members = _adding(read_samples(source, tar_key(shard.stem)), rows, canonical)
        problems = list(_content_problems(members, head, shard))
    except DatasetError as error:
        return TarCheck(tuple(rows), (error.found,))
    problems += _order_problems([row.meta for row in rows])
    if keys is not None and [row.meta.key for row in rows] != list(keys):
        problems.append(f"holds {len(rows)} samples, not exactly the {len(keys)} planned")
    if canonical.sha256() != stamp("", source).sha256:
        problems.append("its bytes are not what this version writes from its samples")
    return TarCheck(tuple(rows), tuple(problems[:MOST_PER_FILE]))


def _adding(
    samples: Iterable[TarSample], rows: list[TableRow], canonical: CanonicalTar
) -> Iterator[TarSample]:
    for read in samples:
        rows.append(TableRow(read.sample.meta, read.sample.split, read.sha256))
        canonical.add(encode_sample(read.sample))
        yield read


def file_problems(store: Store, entry: FileStamp) -> list[str]:
    """Whether the file has the size and hash that its record names."""
    size = store.size(entry.path)
    if size is None:
        return ["missing"]
    if size != entry.bytes:
        return [f"{size} bytes, its record names {entry.bytes}"]
    return [] if sha256_of(store, entry.path) == entry.sha256 else ["its sha256 is not the one recorded"]


def record_problems(
    record: ShardRecord, shard: int, stem: str, head: DatasetHead, plan: ShardPlan | None
) -> list[str]:
    """What in a record contradicts its own name, the dataset's head or the plan."""
    first = shard * head.shard_samples
    rejects = record.rejects.path if record.rejects is not None else rejects_key(stem)
    told = {
        "shard": (record.shard, shard),
        "digest": (record.digest, head.digest),
        "tar": (record.tar.path, tar_key(stem)),
        "table": (record.table.path, table_key(stem)),
        "rejects": (rejects, rejects_key(stem)),
        "start": (record.start, plan.start if plan is not None else first),
        "stop": (
            record.stop,
            plan.stop if plan is not None else min(record.stop, first + head.shard_samples),
        ),
        "groups and dropped": (record.groups + record.dropped, record.stop - record.start),
        "rejects and rejected": (record.rejects is not None, record.rejected > 0),
    }
    return [
        f"{name}: {found!r}, wanted {wanted!r}" for name, (found, wanted) in told.items() if found != wanted
    ]


def table_problems(data: bytes, record: ShardRecord) -> tuple[Any, list[str]]:
    """The shard's table (None if unreadable) and what in it contradicts the record."""
    try:
        table = read_table(data, record.table.path, sample_schema())
    except DatasetError as error:
        return None, [error.found]
    if table.num_rows != record.samples:
        return table, [f"{table.num_rows} rows, its record names {record.samples} samples"]
    groups = len(table.column("group").unique())
    return table, [] if groups == record.groups else [f"{groups} groups, its record names {record.groups}"]


def reject_problems(store: Store, record: ShardRecord) -> list[str]:
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


def tar_problems(store: Store, head: DatasetHead, record: ShardRecord, table: Any) -> list[str]:
    """Decodes every sample and holds it against itself, its group, its row and the record."""
    metas: list[SampleMeta] = []
    problems: list[str] = []
    plan = ShardPlan(head.name, record.shard, record.start, record.stop)
    try:
        with local_copy(store, record.tar.path) as path:
            samples = read_samples(path, record.tar.path)
            for problem in _content_problems(_against(samples, table, record, metas, problems), head, plan):
                problems.append(problem)
                if len(problems) >= MOST_PER_FILE:
                    return [*problems, "and more"]
    except (DatasetError, StorageError) as error:
        return [*problems, error.found if not isinstance(error, DatasetError) else error.message()]
    problems += _order_problems(metas)
    if len(metas) != record.samples:
        problems.append(f"{len(metas)} samples, its record names {record.samples}")
    elif label_counts(metas) != {name: record.label_counts.get(name) for name in label_counts(())}:
        problems.append("its record's label_counts are not those of its samples")
    return problems


@contextmanager
def local_copy(store: Store, key: str) -> Iterator[Path]:
    """The file on this machine: itself in a local store, else a temporary copy."""
    if store.local_path is not None:
        if not store.exists(key):
            raise StorageError(found=f"{key} is missing")
        if isinstance(store, LocalStore):
            store.open(key).close()
        yield store.local_path / key
        return
    with tempfile.NamedTemporaryFile(prefix="xreal-synth-") as file:
        for chunk in store.chunks(key):
            file.write(chunk)
        file.flush()
        yield Path(file.name)


def _against(
    samples: Iterable[TarSample],
    table: Any,
    record: ShardRecord,
    metas: list[SampleMeta],
    problems: list[str],
) -> Iterator[TarSample]:
    """Passes the samples on, holding each against the table's row at its place."""
    rows = iter(()) if table is None else _rows(table)
    for read in samples:
        row = next(rows, None)
        meta = read.sample.meta
        metas.append(meta)
        if row is not None:
            found = TableRow(meta, read.sample.split, read.sha256)
            problems += row_problems(found, row, record.tar.path, record.shard)
        yield read


def _rows(table: Any) -> Iterator[dict[str, object]]:
    for batch in table.to_batches(max_chunksize=256):
        yield from batch.to_pylist()


def _content_problems(samples: Iterable[TarSample], head: DatasetHead, shard: ShardPlan) -> Iterator[str]:
    for group, run in groupby(samples, key=lambda read: read.sample.meta.group):
        members = [read.sample for read in run]
        if not shard.start <= group < shard.stop:
            yield f"group {group} in a shard of groups {shard.start} to {shard.stop - 1}"
        for sample in members:
            yield from sample_problems(sample, head)
        yield from group_problems(members)


def _order_problems(metas: Sequence[SampleMeta]) -> list[str]:
    groups = [meta.group for meta in metas]
    return [] if groups == sorted(groups) else ["its groups do not ascend"]
