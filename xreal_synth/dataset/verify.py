"""The check that a dataset is what its records say, down to each byte, and whether its parts agree."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from xreal_synth.dataset.ahead import in_order, readers
from xreal_synth.dataset.check import (
    file_problems,
    record_problems,
    reject_problems,
    table_problems,
    tar_problems,
)  # fmt: skip
from xreal_synth.dataset.head import DatasetHead, read_head
from xreal_synth.dataset.index import IndexWriter
from xreal_synth.dataset.names import (
    QUARANTINE,
    RECORDS,
    SHARDS,
    TABLES,
    numbers_up_to,
    owner,
    quarantine_key,
    record_key,
    shards_among,
    stem_of,
    table_key,
    tar_key,
)
from xreal_synth.dataset.record import read_record
from xreal_synth.dataset.whole import VerifyProblem, whole_problems
from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.storage import Store
from xreal_synth.types import ShardPlan, ShardRecord


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
    store: Store,
    deep: bool = True,
    *,
    expected: Iterable[ShardPlan] | None = None,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> VerifyReport:
    """Checks the dataset at this place; raises DatasetError only if its dataset.json cannot be read.

    Hashes and counts always; with `deep` every sample is decoded and its image, masks, boxes, labels and
    table row are held against one another. `expected` names the shards that the recipe asks for; without
    it every number up to the largest is wanted. `on_shard(done, total)` is called after each shard.
    """
    head = read_head(store)
    plans = None if expected is None else {plan.shard: plan for plan in expected}
    listed = {folder: store.list(folder) for folder in (SHARDS, TABLES, RECORDS, QUARANTINE)}
    present = {shard for keys in listed.values() for shard in shards_among(keys, head.name)}
    wanted = sorted(present | (set(numbers_up_to(present, store.uri)) if plans is None else set(plans)))
    problems = _foreign(listed, head, wanted)
    if head.prompts is not None:
        own = file_problems(store, head.prompts)
        problems += [VerifyProblem(head.prompts.path, text, None) for text in own]
    sound: dict[int, int] = {}
    samples = done = 0
    looked = in_order(
        lambda shard: _shard(store, head, shard, plans, deep), wanted, readers(store, decoding=True)
    )
    with (
        tempfile.TemporaryDirectory(prefix="xreal-synth-") as folder,
        IndexWriter(Path(folder, "lines")) as lines,
    ):
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
        problems += whole_problems(store, head, sound, lines, complete=complete, deep=deep)
    return VerifyReport(len(wanted), samples, tuple(problems))


def _foreign(
    listed: Mapping[str, list[str]], head: DatasetHead, shards: Collection[int]
) -> list[VerifyProblem]:
    """Files in the dataset's folders that no shard of it owns: a reader of `shards/*` would take them in."""
    own = set(shards)
    stems = ((key, owner(key)) for folder in (SHARDS, TABLES, RECORDS) for key in listed[folder])
    return [
        VerifyProblem(key, "does not belong to this dataset", None)
        for key, stem in stems
        if stem is None or stem.name != head.name or stem.shard not in own
    ]


def _shard(
    store: Store, head: DatasetHead, shard: int, plans: dict[int, ShardPlan] | None, deep: bool
) -> tuple[ShardRecord | None, list[VerifyProblem]]:
    """The shard's record, if it can be read, and what is wrong with the shard."""
    stem = stem_of(head.name, shard)
    key = record_key(stem)
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
    return record, [
        VerifyProblem(path, text, shard) for path, text in _file_problems(store, head, record, deep)
    ]


def _file_problems(
    store: Store, head: DatasetHead, record: ShardRecord, deep: bool
) -> Iterator[tuple[str, str]]:
    """(file, what is wrong with it) for the shard's tar, table and reject table."""
    stamps = [entry for entry in (record.tar, record.table, record.rejects) if entry is not None]
    reported = {entry.path: file_problems(store, entry) for entry in stamps}
    yield from ((path, text) for path, texts in reported.items() for text in texts)
    if not deep:
        return
    table = None
    if not reported[record.table.path]:
        table, texts = table_problems(store.read_bytes(record.table.path), record)
        yield from ((record.table.path, text) for text in texts)
    if store.exists(record.tar.path):
        yield from ((record.tar.path, text) for text in tar_problems(store, head, record, table))
    if record.rejects is not None and not reported[record.rejects.path]:
        yield from ((record.rejects.path, text) for text in reject_problems(store, record))


def _why_missing(store: Store, stem: str) -> str:
    if store.exists(quarantine_key(stem)):
        return f"not made: {quarantine_key(stem)} says why"
    if store.exists(tar_key(stem)) or store.exists(table_key(stem)):
        return "missing although the shard's files are there: it was not finished"
    return "missing: the shard was not made"
