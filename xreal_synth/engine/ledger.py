"""What of a dataset is done, read from its storage when a run starts.

A shard is done when its record is there. A tar without a record is adopted if its bytes are what the plan and
its own images give, else deleted. A shard that has grown, or whose files are not as recorded, is made again.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from xreal_synth.dataset.acceptance import GateTally
from xreal_synth.dataset.agree import group_problems
from xreal_synth.dataset.ahead import in_order, readers
from xreal_synth.dataset.names import RECORDS, SHARDS, TABLES, record_key, shards_in, stem_of, tar_key
from xreal_synth.dataset.record import parse_record
from xreal_synth.dataset.tar import TableRow, TarSample, TarWriter, encode_sample, read_samples
from xreal_synth.engine.progress import OnEvent, ShardAdopted, ShardDiscarded
from xreal_synth.engine.publish import publish_rows
from xreal_synth.engine.samples import build_sample, real_twin
from xreal_synth.errors import DatasetError
from xreal_synth.run.attempts import plan_shard
from xreal_synth.storage import LocalStore, Store, sha256_file, sha256_of, with_retries
from xreal_synth.types import MemberSpec, Rejected, Role, Sample, SampleSpec, ShardPlan, ShardRecord

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run

_OTHER = "a tar without a record that is not what the recipe gives"
_GATED = "a tar without a record: the gate's verdicts on its images cannot be checked without making them"
_ADOPT_CHUNK = 64


@dataclass(slots=True)
class Totals:
    """Sums over the records of finished shards."""

    shards: int = 0
    samples: int = 0
    groups: int = 0
    rejected: int = 0
    dropped: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    gate: GateTally = field(default_factory=GateTally)

    def add(self, record: ShardRecord) -> None:
        self.shards += 1
        self.samples += record.samples
        self.groups += record.groups
        self.rejected += record.rejected
        self.dropped += record.dropped
        self.labels.update(record.label_counts)
        self.gate.add(record.gate)


@dataclass(frozen=True, slots=True)
class Ledger:
    """`todo` in the order in which to make it; those in `replacing` have files that give way."""

    todo: tuple[int, ...]
    replacing: frozenset[int]
    totals: Totals


@dataclass(frozen=True, slots=True)
class _Found:
    """A record as read: `problem` says why its shard has to be made again, if it has."""

    shard: int
    record: ShardRecord | None
    problem: str = ""
    grown: bool = False


def read_ledger(
    run: Run, store: Store, fingerprint: dict[str, str], on_event: OnEvent,
    again: Collection[int] = (), leave: Collection[int] = (),
) -> Ledger:  # fmt: skip
    """Reads every record, then adopts or deletes tars without one. A gated run's are made again: the gate's
    verdicts on them cannot be checked without its networks.

    Shards in `again` are made again whatever their records say, those in `leave` are not made. `fingerprint`
    goes into adopted records: the environment the dataset was begun in. Raises DatasetError if the folder holds
    more groups than the recipe asks for.
    """
    totals = Totals()
    done: set[int] = set()
    replacing: list[int] = []
    recorded = shards_in(store, RECORDS, run.recipe.name)
    _refuse_surplus(run, store, recorded)
    size = _sizes(store)
    for found in in_order(lambda shard: _read(run, store, shard, size), recorded, readers(store)):
        known = found.shard in again
        if found.record is not None and not (known or found.problem or found.grown):
            totals.add(found.record)
            done.add(found.shard)
            continue
        if found.problem:
            on_event(ShardDiscarded(found.shard, found.problem))
        replacing.append(found.shard)
    for shard in sorted(set(shards_in(store, SHARDS, run.recipe.name)) - set(recorded)):
        ours = shard < run.plan.shard_count
        record = adopt(run, store, run.plan.shard(shard), fingerprint) if ours else None
        if record is None:
            store.delete(tar_key(stem_of(run.recipe.name, shard)))
            on_event(ShardDiscarded(shard, _GATED if run.quality.gated else _OTHER))
        else:
            totals.add(record)
            done.add(shard)
            on_event(ShardAdopted(shard))
    settled = done.union(replacing, leave)
    rest = (shard for shard in range(run.plan.shard_count) if shard not in settled)
    return Ledger((*replacing, *rest), frozenset(replacing), totals)


def missing_records(run: Run, store: Store, shards: Iterable[int]) -> list[int]:
    """Those of the shards that have no record."""
    there = set(shards_in(store, RECORDS, run.recipe.name))
    return [shard for shard in shards if shard not in there]


def adopt(
    run: Run, store: Store, shard: ShardPlan, fingerprint: dict[str, str], *, replacing: bool = False
) -> ShardRecord | None:
    """Writes table and record of a whole tar; None if its bytes are not what they should be.

    With `replacing` those that are there give way.
    """
    with tempfile.TemporaryDirectory(prefix="xreal-adopt-") as folder:
        whole = _whole_tar(run, store, shard, Path(folder))
        if whole is None:
            return None
        try:
            return publish_rows(
                run, shard, whole.rows, whole.rejected, whole.tar, store,
                environment=fingerprint, timings={}, actor="adopted", attempt=0, replacing=replacing,
            )  # fmt: skip
        except DatasetError:
            return None


def adoptable(run: Run, store: Store, shard: ShardPlan) -> bool:
    """Whether `adopt` would succeed; writes nothing."""
    with tempfile.TemporaryDirectory(prefix="xreal-adopt-") as folder:
        return _whole_tar(run, store, shard, Path(folder)) is not None


def intact_tar(store: Store, record: ShardRecord) -> bool:
    """Whether the tar is the one that the record names, byte for byte."""
    return store.size(record.tar.path) == record.tar.bytes and (
        sha256_of(store, record.tar.path) == record.tar.sha256
    )


@dataclass(frozen=True, slots=True)
class _Whole:
    """A tar that is right, and what stands in its table and among the rejects."""

    tar: Path
    rows: list[TableRow]
    rejected: list[Rejected]


def _whole_tar(run: Run, store: Store, shard: ShardPlan, folder: Path) -> _Whole | None:
    """The shard's tar if it is right; None for a gated run, whose verdicts only its networks can give.

    It is built again from the plan and the images in it: equal bytes mean that every name, label, mask and box is
    right and that nothing is missing or added.
    """
    key = tar_key(shard.stem)
    if run.quality.gated or not store.exists(key):
        return None
    again = folder / "again.tar"
    rejected: list[Rejected] = []
    try:
        there = _local_copy(store, key, folder)
        with TarWriter(again) as writer:
            for sample in _rebuilt(run, shard, there, rejected):
                writer.add(encode_sample(sample))
    except DatasetError:
        return None
    equal = sha256_file(again) == sha256_file(there)
    return _Whole(again, writer.rows, rejected) if equal else None


def _rebuilt(run: Run, shard: ShardPlan, tar: Path, rejected: list[Rejected]) -> Iterable[Sample]:
    """The plan's samples with the images there; fills `rejected`. Raises DatasetError at the first surprise."""
    there = read_samples(tar, tar_key(shard.stem))
    for planned in plan_shard(run, shard, _ADOPT_CHUNK):
        rejected += planned.rejected
        for spec in planned.specs:
            members = [_rebuilt_member(run, spec, member, there, shard.stem) for member in spec.members]
            edited = bool(run.recipe.pairs.edit_negatives)
            if reported := group_problems(members, edited_negatives=edited):
                raise DatasetError(where=shard.stem, found=reported[0])
            yield from members


def _rebuilt_member(
    run: Run, spec: SampleSpec, member: MemberSpec, there: Iterator[TarSample], where: str
) -> Sample:
    read = next(there, None)
    if read is None or read.sample.meta.key != member.key:
        raise DatasetError(where=where, found="another image", wanted=member.key)
    if read.sample.image.shape[0] != run.delivered_size:
        raise DatasetError(where=where, found="an image of another size", wanted=member.key)
    real = real_twin(spec) if member.name == Role.healthy else None
    return build_sample(run, spec, member, read.sample.image if real is None else real, read.sample.change)


def _local_copy(store: Store, key: str, folder: Path) -> Path:
    if isinstance(store, LocalStore):
        store.open(key).close()
        return Path(store.uri) / key
    copy = folder / "there.tar"
    with copy.open("wb") as file:
        for chunk in store.chunks(key):
            file.write(chunk)
    return copy


def _refuse_surplus(run: Run, store: Store, recorded: list[int]) -> None:
    if recorded and recorded[-1] >= run.plan.shard_count:
        raise _surplus(run, store, f"shard {recorded[-1]}")


def _surplus(run: Run, store: Store, what: str) -> DatasetError:
    return DatasetError(
        where=store.uri,
        found=f"the dataset here has more groups ({what}) than the recipe asks for",
        wanted=f"at most anatomies: {run.recipe.anatomies}",
        hint="raise anatomies to what is there, or give another place with --output",
    )


def _sizes(store: Store) -> Callable[[str], int | None]:
    """How large a shard's file is: asked one by one on this machine, all of them listed where a request takes long."""
    if store.local_path is not None:
        return store.size
    return {**store.sizes(SHARDS), **store.sizes(TABLES)}.get


def _read(run: Run, store: Store, shard: int, size: Callable[[str], int | None]) -> _Found:
    stem = stem_of(run.recipe.name, shard)
    key = record_key(stem)
    try:
        record = parse_record(with_retries(f"reading {key}", lambda: store.read_bytes(key)), key)
    except DatasetError as error:
        return _Found(shard, None, error.message())
    plan = run.plan.shard(shard)
    if record.stop > plan.stop:
        raise _surplus(run, store, f"group {record.stop - 1}")
    if record.digest != run.digest or record.shard != shard or record.start != plan.start:
        return _Found(shard, record, f"{key} is the record of another shard")
    if record.stop < plan.stop:
        return _Found(shard, record, grown=True)
    for stamp in filter(None, (record.tar, record.table, record.rejects)):
        if size(stamp.path) != stamp.bytes:
            return _Found(shard, record, f"{stamp.path} is missing or not of {stamp.bytes} bytes")
    return _Found(shard, record)
