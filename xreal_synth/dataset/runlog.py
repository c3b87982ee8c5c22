"""What runs on a dataset said of themselves, for readers: logs/ and progress.json. The records are the truth.

logs/ has one JSON object a line, written by engine/journal.py; progress.json is what the last run says. A run's log is
`logs/{run}.jsonl` on a disk, and `logs/{run}.0000.jsonl`, `.0001.jsonl` .. on object storage, which cannot append.
`{run}` is `{UTC start}-{host}-{process id}`, so that names sort by time.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

from xreal_synth.dataset.names import LOGS, PROGRESS
from xreal_synth.dataset.seal import sealed, unsealed, validated
from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.opening import parse_json
from xreal_synth.storage import Store

FORMAT = 1
_NAME = re.compile(r"([0-9]{8}T[0-9]{9}Z-[A-Za-z0-9.-]{1,40}-[0-9]+)(?:\.([0-9]{4,}))?\.jsonl")
_TAIL_BYTES = 1 << 16

Line = dict[str, object]
"""An event as it stands in a log: `at`, `run`, `event` and the event's own fields."""


@dataclass(frozen=True, slots=True)
class RunLog:
    """A run's log: its files in their order."""

    run: str
    keys: tuple[str, ...]


def log_key(run: str, part: int | None = None) -> str:
    """`logs/RUN.jsonl`, or the name of one of its parts."""
    name = f"{run}.jsonl" if part is None else f"{run}.{part:04d}.jsonl"
    assert _NAME.fullmatch(name), name
    return f"{LOGS}/{name}"


def run_logs(store: Store) -> list[RunLog]:
    """The logs of a dataset, the oldest first; files of other names are passed over."""
    found: dict[str, list[tuple[int, str]]] = {}
    for key in store.list(LOGS):
        match = _NAME.fullmatch(key.removeprefix(f"{LOGS}/"))
        if match is not None:
            found.setdefault(match[1], []).append((int(match[2] or 0), key))
    return [RunLog(run, tuple(key for _, key in sorted(parts))) for run, parts in sorted(found.items())]


def last_lines(store: Store, log: RunLog, count: int) -> list[Line]:
    """The last `count` events of a log, the oldest first; lines that are not whole are passed over.

    Reads from the end. Raises StorageError.
    """
    found: list[Line] = []
    for key in reversed(log.keys):
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
