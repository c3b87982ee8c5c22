"""Progress of a dataset: from its records, which are the truth, and what runs on it said: logs/ and progress.json.

logs/ has one JSON object a line, written by engine/journal.py; progress.json is what the last run says. A run's log is
`logs/{run}.jsonl` on a disk, and `logs/{run}.0000.jsonl`, `.0001.jsonl` .. on object storage, which cannot append.
`{run}` is `{UTC start}-{host}-{process id}`, so that names sort by time. Neither torch nor Ray.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import yaml

from xreal_synth.dataset.head import DatasetHead, read_head
from xreal_synth.dataset.index import asked_groups
from xreal_synth.dataset.names import INDEX, LOGS, PROGRESS, QUARANTINE, RECIPE, RECORDS, owner, record_key, stem_of
from xreal_synth.dataset.record import parse_record
from xreal_synth.dataset.seal import sealed, unsealed, validated
from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.opening import parse_json
from xreal_synth.storage import Store
from xreal_synth.store import in_order, readers
from xreal_synth.types import ShardRecord

FORMAT = 1
_NAME = re.compile(r"([0-9]{8}T[0-9]{9}Z-[A-Za-z0-9.-]{1,40}-[0-9]+)(?:\.([0-9]{4,}))?\.jsonl")
_TAIL_BYTES = 1 << 16

Line = dict[str, object]
"""An event as it stands in a log: `at`, `run`, `event` and the event's own fields."""

State = Literal["running", "complete", "partial", "stopped", "silent"]

FRESH_S = 60.0
"""A run that goes on writes its note every 15 s; clocks may be apart."""

_EXITS: dict[int, State] = {0: "complete", 3: "partial", 75: "stopped"}


def log_key(run: str, part: int | None = None) -> str:
    """`logs/RUN.jsonl`, or the name of one of its parts."""
    name = f"{run}.jsonl" if part is None else f"{run}.{part:04d}.jsonl"
    assert _NAME.fullmatch(name), name
    return f"{LOGS}/{name}"


def run_logs(store: Store) -> list[list[str]]:
    """The logs of a dataset, the oldest first, each its files in their order; those of other names are passed over."""
    found: dict[str, list[tuple[int, str]]] = {}
    for key in store.list(LOGS):
        match = _NAME.fullmatch(key.removeprefix(f"{LOGS}/"))
        if match is not None:
            found.setdefault(match[1], []).append((int(match[2] or 0), key))
    return [[key for _, key in sorted(parts)] for _, parts in sorted(found.items())]


def last_lines(store: Store, log: Sequence[str], count: int) -> list[Line]:
    """The last `count` events of a log, the oldest first; lines that are not whole are passed over.

    Reads from the end. Raises StorageError.
    """
    found: list[Line] = []
    for key in reversed(log):
        for line in _backwards(store, key):
            if len(found) == count:
                return found[::-1]
            if (event := _parsed(line)) is not None:
                found.append(event)
    return found[::-1]


def _backwards(store: Store, key: str) -> Iterator[bytes]:
    """A file's lines from its end, read in pieces."""
    stop, rest = store.size(key) or 0, b""
    while stop > 0:
        start = max(stop - _TAIL_BYTES, 0)
        first, *whole = (store.read_range(key, start, stop) + rest).split(b"\n")
        yield from reversed(whole)
        stop, rest = start, first
    yield rest


def _parsed(line: bytes) -> Line | None:
    try:
        found = parse_json(line)
    except ValueError:
        return None
    whole = isinstance(found, dict) and all(isinstance(found.get(name), str) for name in ("at", "run", "event"))
    return found if whole else None


@dataclass(frozen=True, slots=True)
class RunNote:
    """A run at `at` (seconds since 1970, by its driver's clock); `exit_code` is None while it goes on.

    `groups` and `shards` are those the recipe asks for, `actors` those at work, `message` what to do next.
    """

    at: float
    exit_code: int | None
    groups: int
    shards: int
    actors: int
    message: str = ""


def write_note(store: Store, note: RunNote) -> None:
    """Replaces progress.json; raises StorageError."""
    store.replace(PROGRESS, sealed(dataclasses.asdict(note)))


def read_note(store: Store) -> RunNote | None:
    """The last run's note; None where there is none or it cannot be read."""
    try:
        return validated(RunNote, unsealed(store.read_bytes(PROGRESS), PROGRESS), PROGRESS, "a run's note")
    except (StorageError, DatasetError):
        return None


@dataclass(frozen=True, slots=True)
class RecordFacts:
    """Facts kept of a record: `at` is when it was written, `make_s` how long its shard took (0: adopted)."""

    shard: int
    samples: int
    groups: int
    rejected: int
    dropped: int
    make_s: float
    actor: str
    at: float


@dataclass(frozen=True, slots=True)
class DatasetStatus:
    """A dataset as it stands.

    `running`: a run told of itself a short while ago; `silent`: the last run neither goes
    on nor has said how it ended. Totals are None where nothing tells how many groups are asked for;
    `images_total` expects of the missing groups what the made ones gave. `images_per_s` is of the actors at work,
    from their last shards; `eta_s` and `actors` are None and 0 unless it runs. Times are seconds since 1970.
    """

    uri: str
    name: str
    state: State
    exit_code: int | None
    shards_done: int
    shards_total: int | None
    groups_done: int
    groups_total: int | None
    images: int
    images_total: int | None
    rejected: int
    dropped: int
    actors: int
    images_per_s: float | None
    eta_s: float | None
    last_activity: float | None
    quarantined: dict[int, str]
    damaged: dict[int, str]
    message: str = ""


class StatusReader:
    """Reads a dataset again and again; a record that has not changed is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, RecordFacts] = {}

    def read(self, now: float | None = None) -> DatasetStatus:
        """The state at `now`. Raises DatasetError if there is no dataset."""
        now = time.time() if now is None else now
        head, note = read_head(self._store), read_note(self._store)
        damaged = self._read_records(head)
        seen = list(self._seen.values())
        groups_total = note.groups if note else asked_groups(self._store) or _recipe_groups(self._store)
        shards_total = None if groups_total is None else -(-groups_total // head.shard_samples)
        last = max([one.at for one in seen] + ([note.at] if note else []), default=None)
        done = shards_total is not None and len(seen) >= shards_total and self._store.exists(INDEX)
        state = _state(note, done, now)
        images, groups = sum(one.samples for one in seen), sum(one.groups + one.dropped for one in seen)
        images_total = None
        if groups_total is not None and groups:
            images_total = images + round(images / groups * max(groups_total - groups, 0))
        rate = _rate(seen)
        left = None if images_total is None else images_total - images
        return DatasetStatus(
            uri=self._store.uri, name=head.name, state=state,
            exit_code=note.exit_code if note else 0 if state == "complete" else None,
            shards_done=len(seen), shards_total=shards_total, groups_done=groups, groups_total=groups_total,
            images=images, images_total=images_total,
            rejected=sum(one.rejected for one in seen), dropped=sum(one.dropped for one in seen),
            actors=note.actors if note and state == "running" else 0, images_per_s=rate,
            eta_s=left / rate if state == "running" and rate and left is not None else None,
            last_activity=last, quarantined=self._quarantined(head), damaged=damaged,
            message=note.message if note else "",
        )  # fmt: skip

    def _read_records(self, head: DatasetHead) -> dict[int, str]:
        """Brings `_seen` up to date; the records that cannot be read, with the reason."""
        listed = self._store.stats(RECORDS).items()
        times = {key: at for key, (_, at) in listed if _shard_of(key, head) is not None}
        self._seen = {key: one for key, one in self._seen.items() if times.get(key) == one.at}
        fresh = [key for key in times if key not in self._seen]
        damaged: dict[int, str] = {}
        for key, found in zip(fresh, in_order(self._record, fresh, readers(self._store)), strict=True):
            if isinstance(found, ShardRecord):
                counts = found.shard, found.samples, found.groups, found.rejected, found.dropped
                self._seen[key] = RecordFacts(*counts, found.timings.get("make_s", 0.0), found.actor, times[key])
            elif (shard := _shard_of(key, head)) is not None:
                damaged[shard] = found
        return damaged

    def _record(self, key: str) -> ShardRecord | str:
        try:
            return parse_record(self._store.read_bytes(key), key)
        except (DatasetError, StorageError) as error:
            return error.found

    def _quarantined(self, head: DatasetHead) -> dict[int, str]:
        """Shards given up and not made since, with the reason."""
        found = {}
        for key in self._store.list(QUARANTINE):
            shard = _shard_of(key, head)
            if shard is None or record_key(stem_of(head.name, shard)) in self._seen:
                continue
            try:
                reason = unsealed(self._store.read_bytes(key), key)["reason"]
            except (DatasetError, StorageError, KeyError):
                reason = "its note cannot be read"
            found[shard] = str(reason)
        return found


def _shard_of(key: str, head: DatasetHead) -> int | None:
    """The shard of a record or quarantine note of this dataset."""
    stem = owner(key)
    return stem.shard if stem is not None and stem.name == head.name else None


def _recipe_groups(store: Store) -> int | None:
    """Groups as the recipe's file has them; an override that a run was given does not show."""
    try:
        recipe = yaml.safe_load(store.read_bytes(RECIPE))
    except (StorageError, yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return None
    groups = recipe.get("anatomies", recipe.get("samples")) if isinstance(recipe, dict) else None
    return groups if isinstance(groups, int) and groups > 0 else None


def _state(note: RunNote | None, done: bool, now: float) -> State:
    """By what the run itself wrote: files have other times where they were copied."""
    if note is None:
        return "complete" if done else "silent"
    if note.exit_code is not None:
        return _EXITS.get(note.exit_code, "silent")
    return "running" if abs(now - note.at) < FRESH_S else "silent"


def _rate(seen: Iterable[RecordFacts]) -> float | None:
    """Images per second of the actors that were at work when the newest record was written, each by its last
    shard; None before the first."""
    latest: dict[str, RecordFacts] = {}
    for one in seen:
        if one.make_s > 0 and (one.actor not in latest or latest[one.actor].at < one.at):
            latest[one.actor] = one
    if not latest:
        return None
    newest = max(one.at for one in latest.values())
    working = [one for one in latest.values() if newest - one.at <= 2 * one.make_s + FRESH_S]
    return sum(one.samples / one.make_s for one in working)
