"""What a run leaves of itself in the dataset's folder: its log, and progress.json, so that `status` needs no Ray.

The log has one JSON object per event, for people and machines that come later.

Fields of every line: `at` (UTC, ISO 8601, milliseconds), `run`, `event`, and the event's own. Events are the classes
of progress.py in snake case with their fields. The first line is `run_opened`, which says what the run is; the last
is `run_ended` (RunSummary's counts, the exit code) or, when an exception ends the run, `run_failed`.

A log begins when the place is the run's, with the first actor; what was said before is kept in memory until then,
and a run that cannot start leaves none. On a disk every line is written at once; on object storage at most one write
in PART_EVERY_S, of a part that is closed from PART_BYTES on. `advanced` is written once in ADVANCED_EVERY_S. A log
ends at LIMIT_BYTES: later events are counted and not written, but the last. No text is longer than TEXT characters,
and none holds the environment's credentials.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import platform
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, TYPE_CHECKING

from xreal_synth.dataset.names import DATASET
from xreal_synth.dataset.status import FORMAT, RunNote, log_key, read_note, write_note
from xreal_synth.engine.progress import (
    STOPPED,
    ActorUp,
    Advanced,
    Event,
    OnEvent,
    RunEnded,
    RunSummary,
    Warned,
    event_name,
)
from xreal_synth.errors import StorageError
from xreal_synth.run.fingerprint import installed_version
from xreal_synth.storage import LocalStore, Store, scrubbed, secrets

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run

ADVANCED_EVERY_S = 60.0
PART_EVERY_S = 30.0
PART_BYTES = 256 << 10
LIMIT_BYTES = 512 << 20
"""About two million lines: a shard that is done takes 300 bytes."""
NOTE_EVERY_S = 15.0
HELD = 10_000
"""Lines in memory before the log begins, and while object storage does not take them."""
TEXT = 4000
_FAILURES = 20
_DIGITS = 3


class Journal:
    """Logs events, and says once with `tell` where it cannot. A context manager: an exception that ends the run is the
    last line then."""

    def __init__(
        self, store: Store, opened: Mapping[str, object], tell: OnEvent, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._tell, self._clock = store, tell, clock
        self._secrets = secrets()
        host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:40] or "host"
        self.run = f"{re.sub('[-:.]', '', _iso(clock()))}-{host}-{os.getpid()}"
        self._held = [self._line("run_opened", {"format": FORMAT, **opened})]
        self._counts: Counter[str] = Counter()
        self._sink: _LogFile | _Parts | None = None
        self._advanced_at = float("-inf")
        self._bytes = self._unwritten = 0
        self._warned = self._ended = False

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sink is not None and error is not None and not self._ended:
            self._last("run_failed", {"error": type(error).__name__, "message": str(error)})

    def on_event(self, event: Event) -> None:
        if isinstance(event, RunEnded):
            self._close(event.summary)
            return
        name = event_name(type(event))
        self._counts[name] += 1
        if isinstance(event, Advanced):
            if self._clock() - self._advanced_at < ADVANCED_EVERY_S:
                if self._sink is not None:
                    self._try(self._sink.tick)
                return
            self._advanced_at = self._clock()
        self._say(self._line(name, {one.name: getattr(event, one.name) for one in dataclasses.fields(event)}))
        if isinstance(event, ActorUp) and self._sink is None:
            self._begin()

    def _close(self, summary: RunSummary) -> None:
        """The last line. A run that has nothing to tell, on a dataset that was complete, leaves no log."""
        if self._sink is None and len(self._held) > 1:
            with suppress(OSError, StorageError):
                if self._store.exists(DATASET):
                    self._begin()
        if self._sink is not None:
            self._last("run_ended", _summed_up(summary))

    def _begin(self) -> None:
        far = self._store.local_path is None
        self._sink = _Parts(self._store, self.run, self._clock) if far else _LogFile(self._store, self.run)
        held, self._held = self._held, []
        for line in held:
            self._say(line)

    def _last(self, name: str, fields: Mapping[str, object]) -> None:
        assert self._sink is not None
        self._ended = True
        reported = {**fields, "events": dict(sorted(self._counts.items())), "unwritten": self._unwritten}
        self._write(self._line(name, reported))
        self._try(self._sink.close)

    def _say(self, line: bytes) -> None:
        full = len(self._held) >= HELD if self._sink is None else self._bytes + len(line) > LIMIT_BYTES
        if full:
            self._unwritten += 1
        elif self._sink is None:
            self._held.append(line)
        else:
            self._write(line)

    def _write(self, line: bytes) -> None:
        sink = self._sink
        assert sink is not None
        self._bytes += len(line)
        self._unwritten += not self._try(lambda: sink.write(line))
        self._try(sink.tick)

    def _try(self, action: Callable[[], None]) -> bool:
        """A log that cannot be written is reported once and stops nothing."""
        try:
            action()
        except (OSError, StorageError) as error:
            if not self._warned:
                self._warned = True
                self._tell(Warned(f"the run's log cannot be written and will have gaps: {error}"))
            return False
        return True

    def _line(self, name: str, fields: Mapping[str, object]) -> bytes:
        line: dict[str, object] = {"at": _iso(self._clock()), "run": self.run, "event": name}
        line.update({key: _plain(value, self._secrets) for key, value in fields.items()})
        return json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=str).encode() + b"\n"


class _LogFile:
    """A file on a disk, one write a line. A line that was cut off, by a full disk, stays a line of its own. As in
    `_Parts` each method raises OSError or StorageError."""

    def __init__(self, store: Store, run: str) -> None:
        assert isinstance(store, LocalStore)
        self._store, self._key = store, log_key(run)
        self._file: IO[bytes] | None = None
        self._torn = False

    def write(self, line: bytes) -> None:
        if self._file is None:
            self._file = self._store.append(self._key)
        data = b"\n" + line if self._torn else line
        self._torn = True
        self._torn = self._file.write(data) != len(data)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{self._store.uri}/{self._key}")

    def tick(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _Parts:
    """Numbered objects, each replaced while it grows."""

    def __init__(self, store: Store, run: str, clock: Callable[[], float]) -> None:
        self._store, self._run, self._clock = store, run, clock
        self._part, self._written_at = 0, float("-inf")
        self._lines: list[bytes] = []
        self._unsaved = 0

    def write(self, line: bytes) -> None:
        if self._unsaved >= HELD:
            raise StorageError(found=f"the storage did not take {self._unsaved} lines of the log")
        self._lines.append(line)
        self._unsaved += 1

    def tick(self) -> None:
        """Time has passed."""
        if self._unsaved and self._clock() - self._written_at >= PART_EVERY_S:
            self._save()

    def close(self) -> None:
        if self._unsaved:
            self._save()

    def _save(self) -> None:
        self._written_at = self._clock()
        data = b"".join(self._lines)
        self._store.replace(log_key(self._run, self._part), data)
        self._unsaved = 0
        if len(data) >= PART_BYTES:
            self._part += 1
            self._lines = []


class NoteKeeper:
    """Writes progress.json every `every_s` seconds from the first actor that is up, and how the run ended; says with
    `tell` where it cannot.

    Before that the place is not claimed, and a run that cannot start leaves nothing behind. A context manager: a run
    that an exception ends, as a second Ctrl-C, has stopped.
    """

    def __init__(
        self,
        store: Store,
        groups: int,
        shards: int,
        tell: OnEvent,
        every_s: float = NOTE_EVERY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._tell = store, tell
        self._every, self._clock = every_s, clock
        self._note = RunNote(0.0, None, groups, shards, 0)
        self._begun = self._failed = False

    def __enter__(self) -> NoteKeeper:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and self._begun and self._note.exit_code is None:
            message = "broken off: run the same command again to go on"
            self._write(replace(self._note, exit_code=STOPPED, actors=0, message=message))

    def on_event(self, event: Event) -> None:
        if isinstance(event, RunEnded):
            self._ended(event.summary)
        elif isinstance(event, ActorUp | Advanced):
            self._begun = self._begun or isinstance(event, ActorUp)
            actors = max(self._note.actors, 1) if isinstance(event, ActorUp) else event.actors
            if actors != self._note.actors:
                self._note = replace(self._note, actors=actors)
            if self._begun and self._clock() - self._note.at >= self._every:
                self._write(self._note)

    def _ended(self, summary: RunSummary) -> None:
        """Unless that stands there already or the place was never claimed."""
        if not self._store.exists(DATASET):
            return
        note = replace(self._note, exit_code=summary.exit_code, actors=0, message=summary.message)
        there = read_note(self._store)
        if there is None or replace(there, at=0.0) != replace(note, at=0.0):
            self._write(note)

    def _write(self, note: RunNote) -> None:
        self._note = replace(note, at=self._clock())
        try:
            write_note(self._store, self._note)
        except (OSError, StorageError) as error:
            if not self._failed:
                self._tell(Warned(f"progress.json cannot be written, so `status` lags behind: {error}"))
            self._failed = True


def journal(run: Run, store: Store, tell: OnEvent) -> Journal:
    """The log of a run, which begins when the run has its place."""
    recipe = run.recipe
    opened = {
        "package": installed_version("xreal-synth"),
        "python": platform.python_version(),
        "ray": installed_version("ray"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "uri": store.uri,
        "name": recipe.name,
        "digest": run.digest,
        "bundle": run.bundle.name,
        "bundle_hash": run.bundle.content_hash,
        "groups": recipe.anatomies,
        "shards": run.plan.shard_count,
        "shard_samples": recipe.output.shard_size,
        "actors": str(recipe.compute.actors),
    }
    return Journal(store, opened, tell)


def _summed_up(summary: RunSummary) -> dict[str, object]:
    """The summary's numbers and message; of the shards that failed the first, and how many there are."""
    left_out = ("dataset", "label_counts", "failures", "gate")
    fields = {f.name: getattr(summary, f.name) for f in dataclasses.fields(summary) if f.name not in left_out}
    first = [dataclasses.asdict(failure) for failure in summary.failures[:_FAILURES]]
    refused = {} if summary.gate is None else summary.gate.reasons
    return {**fields, "refused": refused, "failed": len(summary.failures), "failures": first}


def _plain(value: object, known: Sequence[str]) -> object:
    """For JSON: floats short, texts short and without credentials."""
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, float):
        return round(value, _DIGITS) if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {str(key): _plain(one, known) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, known) for one in value]
    text = scrubbed(str(value), known)
    return text if len(text) <= TEXT else f"{text[:TEXT]} .."


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
