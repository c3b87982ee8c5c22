"""The dataset as a whole: samples.parquet, rejected.parquet and index.json, streamed from the shards.

Memory holds one shard's table and one row group, however many shards there are.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.shards.acceptance import GateTally
from xreal_synth.shards.head import DatasetHead
from xreal_synth.shards.merge import Merger
from xreal_synth.shards.names import INDEX, RECORDS, REJECTED, SAMPLES, record_key, shards_in, stem_of
from xreal_synth.shards.record import parse_record, stamp
from xreal_synth.shards.summary import DatasetSummary, Tally
from xreal_synth.shards.table import read_table, rejected_schema, sample_schema
from xreal_synth.storage import Store
from xreal_synth.types import FileStamp, ShardRecord, Split


def finish(
    store: Store,
    head: DatasetHead,
    *,
    split_of: Callable[[int], Split] | None = None,
    asked: int | None = None,
) -> DatasetSummary:
    """Writes the three files from whatever shards are done, replacing older ones, the index last.

    `split_of(group)` puts the recipe's present split in place of the one the shards were written under.
    `asked` is the number of groups that the recipe asks for; without it what the index has told stays.
    Raises DatasetError on a damaged record or table.
    """
    asked = asked if asked is not None else asked_groups(store)
    shards = shards_in(store, RECORDS, head.name)
    with tempfile.TemporaryDirectory(prefix="xreal-synth-") as folder:
        whole, rejects = Path(folder, SAMPLES), Path(folder, REJECTED)
        tally = Tally()
        with (
            Merger(whole, sample_schema(), tally.add) as samples,
            Merger(rejects, rejected_schema()) as rejected,
        ):
            for record in records_of(store, head, shards):
                tally.count(record)
                samples.add(
                    _with_split(_table(store, record.table, sample_schema()), split_of), record.table.path
                )
                if record.rejects is not None:
                    rejected.add(_table(store, record.rejects, rejected_schema()), record.rejects.path)
        files = (stamp(SAMPLES, whole), stamp(REJECTED, rejects))
        index = Path(folder, INDEX)
        write_index(index, head, files, records_of(store, head, shards), asked)
        store.replace(SAMPLES, whole)
        store.replace(REJECTED, rejects)
        store.replace(INDEX, index)
    return tally.summary(asked)


def asked_groups(store: Store) -> int | None:
    """The groups that the last finished run asked for, as index.json tells; None where it does not."""
    try:
        told = json.loads(store.read_bytes(INDEX)).get("asked")
    except (ValueError, AttributeError, StorageError, OSError):
        return None
    groups = told.get("groups") if isinstance(told, dict) else None
    return groups if isinstance(groups, int) and groups > 0 else None


def records_of(store: Store, head: DatasetHead, shards: Iterable[int]) -> Iterator[ShardRecord]:
    """The records of these shards, read one at a time; raises DatasetError on a damaged or foreign one."""
    for shard in shards:
        key = record_key(stem_of(head.name, shard))
        record = parse_record(store.read_bytes(key), key)
        if record.digest != head.digest or record.shard != shard:
            raise DatasetError(where=key, found="the record of another shard or dataset", mend="run repair")
        yield record


def write_index(
    out: Path,
    head: DatasetHead,
    files: Iterable[FileStamp],
    records: Iterable[ShardRecord],
    asked: int | None = None,
) -> None:
    """index.json: the dataset's files, then a line per shard, then the totals; the same bytes each time.

    Where a gate was, the shards' lines have what it refused and the totals what it did.
    """
    first: dict[str, object] = {
        "format_version": head.format_version,
        "name": head.name,
        "digest": head.digest,
    }
    if asked is not None:
        first["asked"] = {"groups": asked}
    samples = groups = size = 0
    gate = GateTally()
    with out.open("w", encoding="utf-8", newline="\n") as file:
        _write_fields(file, "{", first)
        file.write(f',\n"files": {json.dumps([asdict(entry) for entry in files])},\n"shards": [')
        separator = "\n"
        for record in records:
            samples, groups = samples + record.samples, groups + record.groups
            size += record.tar.bytes
            gate.add(record.gate)
            file.write(separator + json.dumps(_index_line(record)))
            separator = ",\n"
        totals: dict[str, object] = {"samples": samples, "groups": groups, "bytes": size}
        if gate.total is not None:
            totals["gate"] = asdict(gate.total)
        _write_fields(file, "\n],", totals)
        file.write("\n}\n")


def _write_fields(file: IO[str], lead: str, fields: dict[str, object]) -> None:
    file.write(
        lead + ",".join(f"\n{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items())
    )


def _index_line(record: ShardRecord) -> dict[str, object]:
    line: dict[str, object] = {
        "shard": record.shard, "path": record.tar.path, "samples": record.samples, "groups": record.groups,
        "start": record.start, "stop": record.stop, "bytes": record.tar.bytes, "sha256": record.tar.sha256,
    }  # fmt: skip
    if record.gate is not None:
        line |= {"rejected": record.rejected, "dropped": record.dropped}
    return line


def _table(store: Store, entry: FileStamp, schema: Any) -> Any:
    data = store.read_bytes(entry.path)
    if stamp(entry.path, data) != entry:
        raise DatasetError(
            where=entry.path, found="its bytes are not those its record names", mend="run repair, then report"
        )
    return read_table(data, entry.path, schema)


def _with_split(table: Any, split_of: Callable[[int], Split] | None) -> Any:
    if split_of is None:
        return table
    import pyarrow as pa

    splits = pa.array([split_of(group) for group in table.column("group").to_pylist()], pa.string())
    return table.set_column(table.column_names.index("split"), "split", splits)
