"""samples.parquet, rejected.parquet and index.json against the shards they were made from."""

from __future__ import annotations

import filecmp
import tempfile
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from xreal_synth.errors import StorageError, XrealError
from xreal_synth.opening import UnreadableError, open_parquet, parse_json
from xreal_synth.shards.ahead import in_order, readers
from xreal_synth.shards.check import MOST_PER_FILE, file_problems, local_copy
from xreal_synth.shards.head import DatasetHead
from xreal_synth.shards.index import IndexWriter, asked_groups, index_start
from xreal_synth.shards.names import INDEX, REJECTED, SAMPLES, stem_of, table_key
from xreal_synth.shards.problems import VerifyProblem
from xreal_synth.shards.table import read_table, sample_schema
from xreal_synth.storage import Store
from xreal_synth.types import FileStamp

_STALE = "run report to build it again"


def whole_problems(
    store: Store,
    head: DatasetHead,
    shards: Mapping[int, int],
    lines: IndexWriter,
    *,
    complete: bool,
    deep: bool,
) -> list[VerifyProblem]:
    """What is wrong with the files written at the end; none of it needs a shard to be made again.

    `shards` maps each sound shard to its number of samples, `lines` was given their records; `complete` says that
    no shard is broken.
    """
    if not store.exists(INDEX):
        return [VerifyProblem(INDEX, f"missing: the dataset was not finished; {_STALE}", None)]
    problems = _index(store, head, lines, complete)
    if deep and not problems:
        found = _rows(store, head, shards, complete)
        problems += [VerifyProblem(SAMPLES, text, None) for text in found[:MOST_PER_FILE]]
    return problems


def _index(store: Store, head: DatasetHead, lines: IndexWriter, complete: bool) -> list[VerifyProblem]:
    try:
        content = index_start(store) if complete else parse_json(store.read_bytes(INDEX))
        files = TypeAdapter(list[FileStamp]).validate_python(content["files"])
    except (ValueError, KeyError, TypeError, ValidationError, StorageError, OSError) as error:
        return [VerifyProblem(INDEX, f"cannot be read ({error}); {_STALE}", None)]
    if [entry.path for entry in files] != [SAMPLES, REJECTED]:
        return [VerifyProblem(INDEX, f"does not name {SAMPLES} and {REJECTED}; {_STALE}", None)]
    problems = [
        VerifyProblem(entry.path, f"{found}; {_STALE}", None)
        for entry in files
        for found in file_problems(store, entry)
    ]
    if not complete:
        return problems
    with tempfile.TemporaryDirectory(prefix="xreal-synth-") as folder, local_copy(store, INDEX) as found:
        wanted = Path(folder, INDEX)
        lines.write(wanted, head, files, asked_groups(store))
        if not filecmp.cmp(wanted, found, shallow=False):
            problems.append(VerifyProblem(INDEX, f"is not that of the shards here; {_STALE}", None))
    return problems


def _rows(store: Store, head: DatasetHead, shards: Mapping[int, int], complete: bool) -> list[str]:
    """Rows of samples.parquet that are not those of the shards' tables.

    The split is passed over: it may change with the recipe after a shard is written.
    """
    problems: list[str] = []
    seen: set[int] = set()
    try:
        with local_copy(store, SAMPLES) as path:
            compared = in_order(
                lambda run: (run[0], run[0] not in shards or _same(store, head, *run)),
                _runs(path), readers(store, decoding=True),
            )  # fmt: skip
            for shard, same in compared:
                if shard in seen or (complete and shard not in shards):
                    problems.append(f"rows of shard {shard} where none belong; {_STALE}")
                elif not same:
                    problems.append(f"its rows of shard {shard} are not those of the shard's table; {_STALE}")
                seen.add(shard)
    except (OSError, UnreadableError, XrealError) as error:
        return [*problems, f"cannot be read ({error}); {_STALE}"]
    missing = [shard for shard, samples in shards.items() if samples and shard not in seen]
    return problems + [f"the rows of shard {shard} are missing; {_STALE}" for shard in missing]


def _same(store: Store, head: DatasetHead, shard: int, rows: Any) -> bool:
    key = table_key(stem_of(head.name, shard))
    table = read_table(store.read_bytes(key), key, sample_schema())
    columns = [name for name in table.column_names if name != "split"]
    if not set(columns) <= set(rows.column_names):
        return False
    return bool(rows.select(columns).equals(table.select(columns)))


def _runs(path: Path) -> Iterator[tuple[int, Any]]:
    """(shard, its consecutive rows) of samples.parquet, with a batch and a shard in memory."""
    import numpy as np
    import pyarrow as pa

    with open_parquet(path) as file:
        waiting = file.schema_arrow.empty_table()
        for batch in file.iter_batches(batch_size=4096, use_threads=False):
            waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
            shards = waiting.column("shard").to_numpy()
            starts = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist()]
            for start, stop in pairwise(starts):
                yield int(shards[start]), waiting.slice(start, stop - start)
            waiting = waiting.slice(starts[-1])
        if waiting.num_rows:
            yield int(waiting.column("shard")[0].as_py()), waiting
