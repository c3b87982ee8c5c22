"""What of a dataset is done, read from its storage when a run starts.

A shard is done when its record is there. A tar without a record is adopted if its bytes are what the plan and
its own images give, else deleted. A shard that has grown, or whose files are not as recorded, is made again.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from xreal_synth.dataset.check import group_problems
from xreal_synth.dataset.names import RECORDS, SHARDS, TABLES, record_key, rejects_key, shards_in, stem_of, tar_key
from xreal_synth.dataset.record import added, parse_record
from xreal_synth.dataset.table import read_rejected
from xreal_synth.dataset.tar import TableRow, TarWriter, encode_sample, read_samples
from xreal_synth.engine.progress import OnEvent, ShardAdopted, ShardDiscarded
from xreal_synth.engine.publish import publish_rows
from xreal_synth.engine.samples import build_sample, real_twin
from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.run.attempts import plan_group
from xreal_synth.storage import Store, local_copy, sha256_file, with_retries
from xreal_synth.store import in_order, readers
from xreal_synth.types import (
    Acceptance,
    MemberSpec,
    Rejected,
    Role,
    Sample,
    SampleSpec,
    ShardPlan,
    ShardRecord,
    Verdict,
)

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run

_OTHER = "a tar without a record that is not what the recipe gives, or without the attempts that the gate refused"


@dataclass(slots=True)
class Totals:
    """Sums over the records of finished shards."""

    shards: int = 0
    samples: int = 0
    groups: int = 0
    rejected: int = 0
    dropped: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    gate: Acceptance | None = None

    def add(self, record: ShardRecord) -> None:
        self.shards += 1
        self.samples += record.samples
        self.groups += record.groups
        self.rejected += record.rejected
        self.dropped += record.dropped
        self.labels.update(record.label_counts)
        self.gate = added(self.gate, record.gate)


@dataclass(frozen=True, slots=True)
class Ledger:
    """`todo` in the order in which to make it; those in `replacing` have files that give way."""

    todo: tuple[int, ...]
    replacing: frozenset[int]
    totals: Totals


def read_ledger(
    run: Run, store: Store, fingerprint: dict[str, str], on_event: OnEvent,
    again: Collection[int] = (), leave: Collection[int] = (),
) -> Ledger:  # fmt: skip
    """Reads every record, then adopts or deletes tars without one.

    Shards in `again` are made again whatever their records say, those in `leave` are not made. `fingerprint`
    goes into adopted records: the environment the dataset was begun in. Raises DatasetError if the folder holds
    more groups than the recipe asks for.
    """
    totals = Totals()
    done: set[int] = set()
    replacing: list[int] = []
    recorded = shards_in(store, RECORDS, run.recipe.name)
    if recorded and recorded[-1] >= run.plan.shard_count:
        raise _surplus(run, store, f"shard {recorded[-1]}")
    size: Callable[[str], int | None] = store.size
    if store.local_path is None:  # where a request takes long, all of them are listed
        listed = store.stats(SHARDS) | store.stats(TABLES)
        size = {key: size for key, (size, _) in listed.items()}.get
    found = in_order(lambda shard: _read(run, store, shard, size), recorded, readers(store))
    for shard, (record, problem) in zip(recorded, found, strict=True):
        if record is not None and shard not in again:
            totals.add(record)
            done.add(shard)
            continue
        if problem:
            on_event(ShardDiscarded(shard, problem))
        replacing.append(shard)
    for shard in sorted(set(shards_in(store, SHARDS, run.recipe.name)) - set(recorded)):
        ours = shard < run.plan.shard_count
        adopted = adopt(run, store, run.plan.shard(shard), fingerprint) if ours else None
        if adopted is None:
            store.delete(tar_key(stem_of(run.recipe.name, shard)))
            on_event(ShardDiscarded(shard, _OTHER))
        else:
            totals.add(adopted)
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
        tar, rows, rejected = whole
        try:
            return publish_rows(
                run, shard, rows, rejected, tar, store,
                environment=fingerprint, timings={}, actor="adopted", attempt=0, replacing=replacing,
            )  # fmt: skip
        except DatasetError:
            return None


def adoptable(run: Run, store: Store, shard: ShardPlan) -> bool:
    """Whether `adopt` would succeed; writes nothing."""
    with tempfile.TemporaryDirectory(prefix="xreal-adopt-") as folder:
        return _whole_tar(run, store, shard, Path(folder)) is not None


_Whole = tuple[Path, list[TableRow], list[Rejected]]


def _whole_tar(run: Run, store: Store, shard: ShardPlan, folder: Path) -> _Whole | None:
    """The shard's tar if it is right, built again, with the rows of its table and the rejects; None where labels depend
    on what a classifier saw, which no tar tells.

    It is built again from the plan, and the images, attempts and verdicts in it: equal bytes mean that every name,
    label, mask and box is right and that nothing is missing or added. What the gate refused on the way is read from
    the table of rejects, without which a shard that had any is not whole.
    """
    key = tar_key(shard.stem)
    if run.quality.negative_below is not None or not store.exists(key):
        return None
    again = folder / "again.tar"
    known = _known_rejects(store, shard.stem)
    rejected: list[Rejected] = []
    try:
        with local_copy(store, key) as there:
            with TarWriter(again) as writer:
                for sample in _rebuilt(run, shard, there, known, rejected):
                    writer.add(encode_sample(sample))
            equal = sha256_file(again) == sha256_file(there)
    except DatasetError:
        return None
    refused = [*known.values()] if set(known) == {(one.group, one.attempt) for one in rejected} else rejected
    return (again, writer.rows, refused) if equal else None


_Rejects = dict[tuple[int, int], Rejected]


def _known_rejects(store: Store, stem: str) -> _Rejects:
    """The shard's refused attempts by group and attempt, as its table of rejects has them; none without one."""
    key = rejects_key(stem)
    try:
        found = read_rejected(store.read_bytes(key), key) if store.exists(key) else []
    except (DatasetError, StorageError):
        return {}
    return {(one.group, one.attempt): one for one in found}


def _rebuilt(run: Run, shard: ShardPlan, tar: Path, known: _Rejects, rejected: list[Rejected]) -> Iterable[Sample]:
    """The plan's samples with the images there; fills `rejected`. Raises DatasetError at the first surprise."""
    groups = groupby(read_samples(tar, tar_key(shard.stem)), key=lambda read: read.sample.meta.group)
    found, there = next(groups, (None, iter(())))
    for index in range(shard.start, shard.stop):
        delivered = [read.sample for read in there] if found == index else []
        if delivered:
            found, there = next(groups, (None, iter(())))
        spec = _delivered(run, index, delivered[0].meta.attempt if delivered else None, known, rejected)
        wanted = () if spec is None else spec.members
        if [member.key for member in wanted] != [sample.meta.key for sample in delivered]:
            raise DatasetError(where=shard.stem, found=f"other images of group {index}")
        members = [_rebuilt_member(run, spec, *pair) for pair in zip(wanted, delivered, strict=True) if spec]
        if members and (reported := group_problems(members, edited_negatives=bool(run.recipe.pairs.edit_negatives))):
            raise DatasetError(where=shard.stem, found=reported[0])
        yield from members
    if found is not None:
        raise DatasetError(where=shard.stem, found=f"group {found}")


def _delivered(
    run: Run, index: int, attempt: int | None, known: _Rejects, rejected: list[Rejected]
) -> SampleSpec | None:
    """The attempt at a group that was delivered, None where it was dropped; adds those before it to `rejected`.

    Raises DatasetError where one is not known to be refused.
    """
    spec, unplaced = plan_group(run, index)
    rejected += unplaced
    while spec is not None and spec.attempt != attempt:
        if (index, spec.attempt) not in known:
            raise DatasetError(found=f"nothing tells why attempt {spec.attempt} at group {index} was refused")
        rejected.append(known[index, spec.attempt])
        spec, unplaced = plan_group(run, index, spec.attempt)
        rejected += unplaced
    return spec


def _rebuilt_member(run: Run, spec: SampleSpec, member: MemberSpec, there: Sample) -> Sample:
    if there.image.shape[0] != run.delivered_size:
        raise DatasetError(where=member.key, found="an image of another size")
    real = real_twin(spec) if member.name == Role.healthy else None
    quality = there.meta.quality
    verdict = None if quality is None else Verdict(flags=quality.flags, scores=tuple(quality.scores.items()))
    return build_sample(run, spec, member, there.image if real is None else real, there.change, verdict)


def _surplus(run: Run, store: Store, what: str) -> DatasetError:
    return DatasetError(
        where=store.uri,
        found=f"the dataset here has more groups ({what}) than the recipe asks for",
        wanted=f"at most anatomies: {run.recipe.anatomies}",
        hint="raise anatomies to what is there, or give another place with --output",
    )


def _read(run: Run, store: Store, shard: int, size: Callable[[str], int | None]) -> tuple[ShardRecord | None, str]:
    """The shard's record; None where it has to be made again, because it has grown or with a word on what is wrong."""
    key = record_key(stem_of(run.recipe.name, shard))
    try:
        record = parse_record(with_retries(f"reading {key}", lambda: store.read_bytes(key)), key)
    except DatasetError as error:
        return None, error.message()
    plan = run.plan.shard(shard)
    if record.stop > plan.stop:
        raise _surplus(run, store, f"group {record.stop - 1}")
    if record.digest != run.digest or record.shard != shard or record.start != plan.start:
        return None, f"{key} is the record of another shard"
    if record.stop < plan.stop:
        return None, ""
    for stamp in filter(None, (record.tar, record.table, record.rejects)):
        if size(stamp.path) != stamp.bytes:
            return None, f"{stamp.path} is missing or not of {stamp.bytes} bytes"
    return record, ""
