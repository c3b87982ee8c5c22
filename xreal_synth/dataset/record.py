"""Shard records: a shard is done when, and only when, its record is there. Counts of a dataset while they stream by."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from xreal_synth.dataset.names import record_key
from xreal_synth.dataset.seal import sealed, unsealed, validated
from xreal_synth.dataset.table import LABEL_COLUMNS, label_counts
from xreal_synth.dataset.tar import TableRow
from xreal_synth.findings import NO_FINDING
from xreal_synth.storage import Store, sha256_bytes, sha256_file
from xreal_synth.types import Acceptance, FileStamp, Rejected, SampleMeta, ShardPlan, ShardRecord

PLACEMENT = "placement"


def stamp(path: str, data: bytes | Path) -> FileStamp:
    """Size and sha256 of content that is, or will be, published under the key `path`."""
    if isinstance(data, bytes):
        return FileStamp(path, len(data), sha256_bytes(data))
    return FileStamp(path, data.stat().st_size, sha256_file(data))


def build_record(
    shard: ShardPlan, rows: Sequence[TableRow], rejected: Sequence[Rejected], *,
    tar: FileStamp, table: FileStamp, rejects: FileStamp | None, digest: str, fingerprint: dict[str, str],
    timings: dict[str, float], actor: str, attempt: int, gated: bool = False,
) -> ShardRecord:  # fmt: skip
    """The record of a finished shard; counts are taken from its rows.

    `rejected` counts every refused attempt, `dropped` the groups given up; `rejects` is None without any.
    `gated` says that a gate looked at the images.
    """
    assert (rejects is None) == (not rejected)
    return ShardRecord(
        shard=shard.shard, start=shard.start, stop=shard.stop, samples=len(rows),
        groups=len({row.meta.group for row in rows}), rejected=len(rejected),
        dropped=sum(reject.dropped for reject in rejected), tar=tar, table=table, rejects=rejects,
        digest=digest, fingerprint=fingerprint, label_counts=label_counts(row.meta for row in rows),
        timings=timings, actor=actor, attempt=attempt,
        gate=count_acceptance([row.meta for row in rows], rejected) if gated else None,
    )  # fmt: skip


def record_bytes(record: ShardRecord) -> bytes:
    """The record's file: canonical JSON with a checksum over itself."""
    return sealed(dataclasses.asdict(record))


def parse_record(data: bytes, where: str) -> ShardRecord:
    """The record in a file's bytes; raises DatasetError if one byte differs from what was written."""
    return validated(ShardRecord, unsealed(data, where), where, "a shard record")


def read_record(store: Store, stem: str) -> ShardRecord | None:
    """The shard's record, None if it is not done; raises DatasetError on a damaged one."""
    key = record_key(stem)
    if not store.exists(key):
        return None
    return parse_record(store.read_bytes(key), key)


@dataclass(frozen=True, slots=True)
class LabelTally:
    """Counts of a dotted label's 1, 0 and null."""

    column: str
    positive: int
    negative: int
    unknown: int


@dataclass(frozen=True, slots=True)
class GenerationTimes:
    """Actors and seconds that the shards took, as their records say.

    `images` were made in `seconds`, summed over shards and actors; adopted shards tell no time. `actors` counts
    names, `environments` are fingerprints with the shards made in each, the most first.
    """

    images: int = 0
    seconds: float = 0.0
    actors: int = 0
    environments: tuple[tuple[dict[str, str], int], ...] = ()

    @property
    def images_per_actor_second(self) -> float | None:
        """The pace of one actor, None where no shard tells its seconds."""
        return self.images / self.seconds if self.seconds > 0 else None


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """Counts over all finished shards.

    `members` counts images by kind (h twin or healthy, v variant, s sham), `rows` groups by the recipe's
    findings row, `bytes` those of the tars; `image_sizes` are (height, width); `gate` is None where none was.
    `asked` is the number of groups that the last run asked for, None where no run has told.
    """

    shards: int
    groups: int
    samples: int
    rejected: int
    dropped: int
    bytes: int
    labels: tuple[LabelTally, ...]
    splits: dict[str, int]
    members: dict[str, int]
    rows: dict[int, int]
    image_sizes: tuple[tuple[int, int], ...]
    gate: Acceptance | None = None
    asked: int | None = None
    making: GenerationTimes = field(default_factory=GenerationTimes)


class Tally:
    """Counts records and row groups into a DatasetSummary."""

    def __init__(self) -> None:
        self._totals: Counter[str] = Counter()
        self._labels: Counter[tuple[str, int | None]] = Counter()
        self._splits: Counter[str] = Counter()
        self._members: Counter[str] = Counter()
        self._rows: Counter[int] = Counter()
        self._sizes: set[tuple[int, int]] = set()
        self._last_group: int | None = None
        self._gate: Acceptance | None = None
        self._actors: set[str] = set()
        self._environments: Counter[tuple[tuple[str, str], ...]] = Counter()
        self._timed = 0
        self._seconds = 0.0

    def count(self, record: ShardRecord) -> None:
        """Adds what a shard's record says: counts, bytes, environment, seconds."""
        self._gate = added(self._gate, record.gate)
        for name in ("groups", "samples", "rejected", "dropped"):
            self._totals[name] += getattr(record, name)
        self._totals["shards"] += 1
        self._totals["bytes"] += record.tar.bytes
        self._environments[tuple(sorted(record.fingerprint.items()))] += 1
        if (seconds := record.timings.get("make_s", 0.0)) > 0:
            self._actors.add(record.actor)
            self._timed += record.samples
            self._seconds += seconds

    def add(self, table: Any) -> None:
        """Counts a pyarrow table of samples; a group's members follow one another."""
        for column in LABEL_COLUMNS:
            for value, times in _counts(table, column).items():
                self._labels[column, value] += times
        self._splits.update(_counts(table, "split"))
        for member, times in _counts(table, "member").items():
            self._members[member[0]] += times
        sizes = table.select(["height", "width"]).group_by(["height", "width"]).aggregate([]).to_pylist()
        self._sizes.update((size["height"], size["width"]) for size in sizes)
        for group, row in zip(table.column("group").to_pylist(), table.column("row").to_pylist(), strict=True):
            if group != self._last_group:
                self._rows[row] += 1
                self._last_group = group

    def summary(self, asked: int | None = None) -> DatasetSummary:
        """The counts so far; `asked` as DatasetSummary has it."""
        labels = tuple(
            LabelTally(column, *(self._labels[column, value] for value in (1, 0, None))) for column in LABEL_COLUMNS
        )
        ranked = sorted(self._environments.items(), key=lambda item: (-item[1], item[0]))
        environments = tuple((dict(names), shards) for names, shards in ranked)
        names = ("shards", "groups", "samples", "rejected", "dropped", "bytes")
        return DatasetSummary(
            **{name: self._totals[name] for name in names}, labels=labels, splits=dict(sorted(self._splits.items())),
            members=dict(sorted(self._members.items())), rows=dict(sorted(self._rows.items())),
            image_sizes=tuple(sorted(self._sizes)), gate=self._gate, asked=asked,
            making=GenerationTimes(self._timed, round(self._seconds, 3), len(self._actors), environments),
        )  # fmt: skip


def _counts(table: Any, column: str) -> dict[Any, int]:
    counted = table.column(column).value_counts().to_pylist()
    return {entry["values"]: entry["counts"] for entry in counted}


def count_acceptance(metas: Sequence[SampleMeta], rejected: Iterable[Rejected]) -> Acceptance:
    """A shard's images, a group's side by side, and its refused attempts; what had no place was not tried."""
    tried, accepted, reasons, flags = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for _, members in groupby(metas, key=lambda meta: meta.group):
        accepted.update(_asked([finding.name for meta in members for finding in meta.findings]))
    flags.update(flag for meta in metas if meta.quality is not None for flag in meta.quality.flags)
    tried.update(accepted)
    for reject in rejected:
        reasons[reject.check] += 1
        if reject.check != PLACEMENT:
            tried.update(_asked(reject.findings))
    return Acceptance(*(dict(sorted(one.items())) for one in (tried, accepted, reasons, flags)))


def added(one: Acceptance | None, other: Acceptance | None) -> Acceptance | None:
    """The sums by name; None is what was made without a gate."""
    if one is None or other is None:
        return one or other
    pairs = ((getattr(one, name), getattr(other, name)) for name in ("tried", "accepted", "reasons", "flags"))
    return Acceptance(*(dict(sorted((Counter(a) + Counter(b)).items())) for a, b in pairs))


def refused_by_check(record: ShardRecord) -> dict[str, int]:
    """A shard's rejected attempts by the check that refused them; without a gate only boxes can have no place."""
    if record.gate is not None:
        return record.gate.reasons
    return {PLACEMENT: record.rejected} if record.rejected else {}


def _asked(findings: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(findings)) or (NO_FINDING,)
