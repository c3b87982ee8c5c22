"""The dataset as a whole: samples.parquet, rejected.parquet and index.json, streamed from the shards.

Memory holds a few shards' tables and one row group, however many shards there are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.index import IndexWriter, asked_groups, names_shards, splits_of
from xreal_synth.dataset.names import INDEX, RECORDS, REJECTED, SAMPLES, record_key, shards_in, stem_of
from xreal_synth.dataset.record import DatasetSummary, parse_record, stamp
from xreal_synth.dataset.table import PARQUET_SETTINGS, read_table, rejected_schema, sample_schema, with_splits
from xreal_synth.errors import DatasetError
from xreal_synth.opening import open_parquet
from xreal_synth.storage import Store
from xreal_synth.store import in_order, readers
from xreal_synth.types import FileStamp, ShardRecord, Split

SplitOf = Callable[[int], Split]
ROW_GROUP = 32_768
PACK = 64
"""Tables joined at a time: a table of a few rows takes a hundred kilobytes, mostly of padding."""


def finish(
    store: Store, head: DatasetHead, *, split_of: SplitOf | None = None, asked: int | None = None
) -> DatasetSummary:
    """Writes the three files from whatever shards are done, replacing older ones, the index last.

    `split_of(group)` puts the present split in place of the one the shards were written under; without it the
    splits stay as samples.parquet has them.
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
        with IndexWriter(Path(folder, "lines")) as lines:
            merged = Merger(whole, sample_schema(), lines.tally.add)
            with merged as samples, Merger(rejects, rejected_schema()) as rejected:
                threads, split = readers(store, decoding=True), _splitting(store, split_of)
                for record, table, refused in in_order(partial(_read, store, head, split), shards, threads):
                    lines.add(record)
                    samples.add(table, record.table.path)
                    if record.rejects is not None:
                        rejected.add(refused, record.rejects.path)
            lines.write(index, head, [stamp(SAMPLES, whole), stamp(REJECTED, rejects)], asked)
        store.replace(SAMPLES, whole)
        store.replace(REJECTED, rejects)
        store.replace(INDEX, index)
    return lines.tally.summary(asked)


def _splitting(store: Store, split_of: SplitOf | None) -> Callable[[Any], Any]:
    """Gives a shard's table its present splits; its own where nothing tells others."""
    if split_of is None:
        try:
            return splits_of(store).applied
        except DatasetError:  # samples.parquet is not as it was written, and is written anew
            return lambda table: table

    def present(table: Any) -> Any:
        groups = table.column("group").to_pylist()
        splits = {group: split_of(group) for group in dict.fromkeys(groups)}
        return with_splits(table, [splits[group] for group in groups])

    return present


def _read(store: Store, head: DatasetHead, split: Callable[[Any], Any], shard: int) -> tuple[ShardRecord, Any, Any]:
    """A shard's record and tables; raises DatasetError on a damaged or foreign one."""
    key = record_key(stem_of(head.name, shard))
    record = parse_record(store.read_bytes(key), key)
    if record.digest != head.digest or record.shard != shard:
        raise DatasetError(where=key, found="the record of another shard or dataset", hint="run repair")
    return (
        record,
        split(_table(store, record.table)),
        record.rejects and _table(store, record.rejects, rejected_schema()),
    )


def _table(store: Store, entry: FileStamp, schema: Any = None) -> Any:
    data = store.read_bytes(entry.path)
    if stamp(entry.path, data) != entry:
        raise DatasetError(
            where=entry.path, found="its bytes are not those its record names", hint="run repair, then report"
        )
    return read_table(data, entry.path, schema)


class Merger:
    """Appends tables to one parquet file in whole row groups.

    A table with columns that earlier ones lack widens the file: what is written is copied once with nulls
    there, so that datasets may gain columns (scores, change maps) half-way. `on_rows` sees each row group.
    """

    def __init__(self, out: Path, schema: Any, on_rows: Callable[[Any], None] | None = None) -> None:
        self._out = out
        self._schema = schema
        self._on_rows = on_rows
        self._waiting: list[Any] = []
        self._rows = 0
        self._writer = self._open()

    def __enter__(self) -> Merger:
        return self

    def add(self, table: Any, where: str) -> None:
        """Appends a table; raises DatasetError where a column's type differs from the file's."""
        if new := [field for field in table.schema if field.name not in self._schema.names]:
            self._widen(new)
        self._waiting.append(self._aligned(table, where))
        self._rows += table.num_rows
        if self._rows >= ROW_GROUP:
            self._flush()
        elif len(self._waiting) >= PACK:
            self._waiting = [self._joined()]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._rows:
            self._flush()
        self._writer.close()

    def _open(self) -> Any:
        return pq.ParquetWriter(self._out, self._schema, **PARQUET_SETTINGS)

    def _joined(self) -> Any:
        return pa.concat_tables(self._waiting).combine_chunks()

    def _flush(self) -> None:
        table = self._joined()
        self._waiting, self._rows = [], 0
        self._writer.write_table(table, row_group_size=ROW_GROUP)
        if self._on_rows is not None:
            self._on_rows(table)

    def _aligned(self, table: Any, where: str) -> Any:
        if table.schema.equals(self._schema):
            return table
        for field in self._schema:
            if field.name not in table.column_names:
                table = table.append_column(field, pa.nulls(table.num_rows, field.type))
            elif (found := table.schema.field(field.name).type) != field.type:
                raise DatasetError(where=where, found=f"column {field.name} of type {found}", wanted=str(field.type))
        return table.select(self._schema.names).cast(self._schema)

    def _widen(self, new: list[Any]) -> None:
        self._writer.close()
        for field in new:
            self._schema = self._schema.append(field)
        old = self._out.rename(self._out.with_suffix(".narrow"))
        self._writer = self._open()
        with open_parquet(old) as narrow:
            for group in range(narrow.num_row_groups):
                self._writer.write_table(self._aligned(narrow.read_row_group(group, use_threads=False), str(old)))
        old.unlink()
        self._waiting = [self._aligned(table, "") for table in self._waiting]
