"""The check that a dataset is what its records say, down to each byte, and whether its parts agree."""

from __future__ import annotations

import filecmp
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from xreal_synth.dataset import names
from xreal_synth.dataset.check import MOST_PER_FILE, file_problems, record_problems, shard_problems
from xreal_synth.dataset.head import DatasetHead, read_head
from xreal_synth.dataset.index import IndexWriter, asked_groups, index_start
from xreal_synth.dataset.record import read_record
from xreal_synth.dataset.table import read_table
from xreal_synth.errors import DatasetError, StorageError, XrealError
from xreal_synth.opening import UnreadableError, open_parquet, parse_json
from xreal_synth.storage import Store, local_copy
from xreal_synth.store import in_order, readers
from xreal_synth.types import FileStamp, ShardPlan, ShardRecord


@dataclass(frozen=True, slots=True)
class VerifyProblem:
    """One thing that is wrong with a dataset: `path` is the file, `shard` the shard to make again, None where that
    would not fix it."""

    path: str
    found: str
    shard: int | None

    def __str__(self) -> str:
        return f"{self.path}: {self.found}"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The outcome of a check: what was looked at, and everything that is wrong."""

    shards: int
    samples: int
    problems: tuple[VerifyProblem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def with_problems(self, more: Iterable[VerifyProblem]) -> VerifyReport:
        """The same report with further problems at its end."""
        return replace(self, problems=(*self.problems, *more))

    @property
    def broken_shards(self) -> tuple[int, ...]:
        """Numbers of the shards to make again, ascending."""
        return tuple(sorted({problem.shard for problem in self.problems if problem.shard is not None}))


def verify(
    store: Store, deep: bool = True, *, expected: Iterable[ShardPlan] | None = None,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> VerifyReport:  # fmt: skip
    """Checks the dataset at this place; raises DatasetError only if its dataset.json cannot be read.

    Hashes and counts always; with `deep` every sample is decoded and its image, masks, boxes, labels and
    table row are held against one another. `expected` names the shards that the recipe asks for; without
    it every number up to the largest is wanted. `on_shard(done, total)` is called after each shard.
    """
    head = read_head(store)
    plans = None if expected is None else {plan.shard: plan for plan in expected}
    listed = {folder: store.list(folder) for folder in names.FOLDERS}
    present = {shard for keys in listed.values() for shard in names.shards_among(keys, head.name)}
    wanted = sorted(present | (set(names.numbers_up_to(present, store.uri)) if plans is None else set(plans)))
    problems = _foreign(listed, head, wanted)
    if head.prompts is not None:
        own = file_problems(store, head.prompts)
        problems += [VerifyProblem(head.prompts.path, text, None) for text in own]
    sound: dict[int, int] = {}
    samples = done = 0
    looked = in_order(lambda shard: _shard(store, head, shard, plans, deep), wanted, readers(store, decoding=True))
    with tempfile.TemporaryDirectory(prefix="xreal-synth-") as folder, IndexWriter(Path(folder, "lines")) as lines:
        for shard, (record, reported) in zip(wanted, looked, strict=True):
            problems += reported
            done += 1
            if record is not None:
                samples += record.samples
                if not reported:
                    sound[shard] = record.samples
                    lines.add(record)
            on_shard(done, len(wanted))
        complete = len(sound) == len(wanted)
        whole = _whole_problems(store, head, sound, lines, complete=complete, deep=deep)
        command = "report" if complete else "repair"
        problems += [VerifyProblem(path, f"{text}; run {command} to build it again", None) for path, text in whole]
    return VerifyReport(len(wanted), samples, tuple(problems))


def _foreign(listed: Mapping[str, list[str]], head: DatasetHead, shards: Collection[int]) -> list[VerifyProblem]:
    """Files in the dataset's folders that no shard of it owns: a reader of `shards/*` would take them in."""
    own = set(shards)
    stems = (
        (key, names.owner(key)) for folder in names.FOLDERS if folder != names.QUARANTINE for key in listed[folder]
    )
    return [
        VerifyProblem(key, "does not belong to this dataset", None)
        for key, stem in stems
        if stem is None or stem.name != head.name or stem.shard not in own
    ]


def _shard(
    store: Store, head: DatasetHead, shard: int, plans: dict[int, ShardPlan] | None, deep: bool
) -> tuple[ShardRecord | None, list[VerifyProblem]]:
    """The shard's record, if it can be read, and what is wrong with the shard."""
    stem = names.stem_of(head.name, shard)
    key = names.record_key(stem)
    try:
        record = read_record(store, stem)
    except (DatasetError, StorageError) as error:
        return None, [VerifyProblem(key, error.found, shard)]
    if record is None:
        return None, [VerifyProblem(key, _why_missing(store, stem), shard)]
    plan = plans.get(shard) if plans is not None else None
    if plans is not None and plan is None:
        return record, [VerifyProblem(key, "the recipe asks for no such shard", None)]
    reported = record_problems(record, shard, stem, head, plan)
    if reported:
        return record, [VerifyProblem(key, text, shard) for text in reported]
    return record, [VerifyProblem(path, text, shard) for path, text in shard_problems(store, head, record, deep)]


def _why_missing(store: Store, stem: str) -> str:
    if store.exists(names.quarantine_key(stem)):
        return f"not made: {names.quarantine_key(stem)} says why"
    if store.exists(names.tar_key(stem)) or store.exists(names.table_key(stem)):
        return "missing although the shard's files are there: it was not finished"
    return "missing: the shard was not made"


def _whole_problems(
    store: Store, head: DatasetHead, shards: Mapping[int, int], lines: IndexWriter, *, complete: bool, deep: bool
) -> Iterator[tuple[str, str]]:
    """(file, what is wrong with it) of the files written at the end; none of it needs a shard to be made again.

    `shards` maps each sound shard to its number of samples, `lines` was given their records; `complete` says that
    no shard is broken.
    """
    if not store.exists(names.INDEX):
        yield names.INDEX, "missing: the dataset was not finished"
        return
    problems = list(_index_problems(store, head, lines, complete))
    yield from problems
    if deep and not problems:
        rows = _row_problems(store, head, shards, complete)
        yield from ((names.SAMPLES, text) for text in islice(rows, MOST_PER_FILE))


def _index_problems(store: Store, head: DatasetHead, lines: IndexWriter, complete: bool) -> Iterator[tuple[str, str]]:
    try:
        content = index_start(store) if complete else parse_json(store.read_bytes(names.INDEX))
        files = TypeAdapter(list[FileStamp]).validate_python(content["files"])
    except (ValueError, KeyError, TypeError, ValidationError, StorageError, OSError) as error:
        yield names.INDEX, f"cannot be read ({error})"
        return
    if [entry.path for entry in files] != [names.SAMPLES, names.REJECTED]:
        yield names.INDEX, f"does not name {names.SAMPLES} and {names.REJECTED}"
        return
    yield from ((entry.path, found) for entry in files for found in file_problems(store, entry))
    if not complete:
        return
    with tempfile.TemporaryDirectory(prefix="xreal-synth-") as folder, local_copy(store, names.INDEX) as found:
        wanted = Path(folder, names.INDEX)
        lines.write(wanted, head, files, asked_groups(store))
        same = filecmp.cmp(wanted, found, shallow=False)
    if not same:
        yield names.INDEX, "is not that of the shards here"


def _row_problems(store: Store, head: DatasetHead, shards: Mapping[int, int], complete: bool) -> Iterator[str]:
    """Rows of samples.parquet that are not those of the shards' tables.

    The split is passed over: it may change with the recipe after a shard is written.
    """
    seen: set[int] = set()
    try:
        with local_copy(store, names.SAMPLES) as path:
            compared = in_order(
                lambda run: (run[0], run[0] not in shards or _same(store, head, *run)),
                _runs(path), readers(store, decoding=True),
            )  # fmt: skip
            for shard, same in compared:
                if shard in seen or (complete and shard not in shards):
                    yield f"rows of shard {shard} where none belong"
                elif not same:
                    yield f"its rows of shard {shard} are not those of the shard's table"
                seen.add(shard)
    except (OSError, UnreadableError, XrealError) as error:
        yield f"cannot be read ({error})"
        return
    missing = (shard for shard, samples in shards.items() if samples and shard not in seen)
    yield from (f"the rows of shard {shard} are missing" for shard in missing)


def _same(store: Store, head: DatasetHead, shard: int, rows: Any) -> bool:
    key = names.table_key(names.stem_of(head.name, shard))
    table = read_table(store.read_bytes(key), key)
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
