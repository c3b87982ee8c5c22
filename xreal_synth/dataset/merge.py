"""Many small parquet tables into one, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from xreal_synth.dataset.table import PARQUET_SETTINGS
from xreal_synth.errors import DatasetError
from xreal_synth.opening import open_parquet

ROW_GROUP = 32_768
PACK = 64
"""Tables joined at a time: a table of a few rows takes a hundred kilobytes, mostly of padding."""


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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._rows:
            self._flush()
        self._writer.close()

    def _open(self) -> Any:
        import pyarrow.parquet as pq

        return pq.ParquetWriter(self._out, self._schema, **PARQUET_SETTINGS)

    def _joined(self) -> Any:
        import pyarrow as pa

        return pa.concat_tables(self._waiting).combine_chunks()

    def _flush(self) -> None:
        table = self._joined()
        self._waiting, self._rows = [], 0
        self._writer.write_table(table, row_group_size=ROW_GROUP)
        if self._on_rows is not None:
            self._on_rows(table)

    def _aligned(self, table: Any, where: str) -> Any:
        import pyarrow as pa

        if table.schema.equals(self._schema):
            return table
        for field in self._schema:
            if field.name not in table.column_names:
                table = table.append_column(field, pa.nulls(table.num_rows, field.type))
            elif (found := table.schema.field(field.name).type) != field.type:
                raise DatasetError(
                    where=where, found=f"column {field.name} of type {found}", wanted=str(field.type)
                )
        return table.select(self._schema.names).cast(self._schema)

    def _widen(self, new: list[Any]) -> None:
        self._writer.close()
        for field in new:
            self._schema = self._schema.append(field)
        old = self._out.rename(self._out.with_suffix(".narrow"))
        self._writer = self._open()
        with open_parquet(old) as narrow:
            for group in range(narrow.num_row_groups):
                self._writer.write_table(self._aligned(narrow.read_row_group(group), str(old)))
        old.unlink()
        self._waiting = [self._aligned(table, "") for table in self._waiting]
