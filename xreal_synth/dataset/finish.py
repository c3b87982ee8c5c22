"""The dataset as a whole: samples.parquet, rejected.parquet and index.json, streamed from the shards.

Memory holds a few shards' tables and one row group, however many shards there are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xreal_synth.dataset.ahead import in_order, readers
from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.index import IndexWriter, asked_groups, names_shards
from xreal_synth.dataset.merge import Merger
from xreal_synth.dataset.names import INDEX, RECORDS, REJECTED, SAMPLES, record_key, shards_in, stem_of
from xreal_synth.dataset.record import parse_record, stamp
from xreal_synth.dataset.summary import DatasetSummary, Tally
from xreal_synth.dataset.table import read_table, rejected_schema, sample_schema
from xreal_synth.errors import DatasetError
from xreal_synth.storage import Store
from xreal_synth.types import FileStamp, ShardRecord, Split

SplitOf = Callable[[int], Split]


@dataclass(frozen=True, slots=True)
class _Read:
    """A shard's record and tables."""

    record: ShardRecord
    samples: Any
    rejected: Any


def finish(
    store: Store, head: DatasetHead, *, split_of: SplitOf | None = None, asked: int | None = None
) -> DatasetSummary:
    """Writes the three files from whatever shards are done, replacing older ones, the index last.

    `split_of(group)` puts the recipe's present split in place of the one the shards were written under.
    `asked` is the number of groups that the recipe asks for; without it what the index has told stays.
    Raises DatasetError on a damaged record or table.
    """
    asked = asked if asked is not None else asked_groups(store)
    shards = shards_in(store, RECORDS, head.name)
    if not shards and names_shards(store):
        raise DatasetError(
            where=store.uri, found=f"no records, and {INDEX} names shards: full tables are not replaced by empty ones",
            wanted=f"{RECORDS}/ as it was made", hint="fetch it too; `xreal-synth verify` says what else is missing",
        )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="xreal-synth-") as folder:
        whole, rejects, index = Path(folder, SAMPLES), Path(folder, REJECTED), Path(folder, INDEX)
        tally = Tally()
        with IndexWriter(Path(folder, "lines")) as lines:
            with (
                Merger(whole, sample_schema(), tally.add) as samples,
                Merger(rejects, rejected_schema()) as rejected,
            ):
                threads = readers(store, decoding=True)
                for read in in_order(lambda shard: _read(store, head, shard, split_of), shards, threads):
                    record = read.record
                    tally.count(record)
                    lines.add(record)
                    samples.add(read.samples, record.table.path)
                    if record.rejects is not None:
                        rejected.add(read.rejected, record.rejects.path)
            lines.write(index, head, [stamp(SAMPLES, whole), stamp(REJECTED, rejects)], asked)
        store.replace(SAMPLES, whole)
        store.replace(REJECTED, rejects)
        store.replace(INDEX, index)
    return tally.summary(asked)


def _read(store: Store, head: DatasetHead, shard: int, split_of: SplitOf | None) -> _Read:
    """Raises DatasetError on a damaged or foreign record or table."""
    key = record_key(stem_of(head.name, shard))
    record = parse_record(store.read_bytes(key), key)
    if record.digest != head.digest or record.shard != shard:
        raise DatasetError(where=key, found="the record of another shard or dataset", hint="run repair")
    samples = _with_split(_table(store, record.table, sample_schema()), split_of)
    rejected = None if record.rejects is None else _table(store, record.rejects, rejected_schema())
    return _Read(record, samples, rejected)


def _table(store: Store, entry: FileStamp, schema: Any) -> Any:
    data = store.read_bytes(entry.path)
    if stamp(entry.path, data) != entry:
        raise DatasetError(
            where=entry.path, found="its bytes are not those its record names", hint="run repair, then report"
        )
    return read_table(data, entry.path, schema)


def _with_split(table: Any, split_of: SplitOf | None) -> Any:
    if split_of is None:
        return table
    import pyarrow as pa

    groups, written = table.column("group").to_pylist(), table.column("split").to_pylist()
    present = {group: split_of(group) for group in dict.fromkeys(groups)}
    splits = [present[group] for group in groups]
    if splits == written:
        return table
    at = table.column_names.index("split")
    return table.set_column(at, "split", pa.array(splits, pa.string()))
