"""Keeps progress.json up to date while a run goes on, so that `status` needs no Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from xreal_synth.dataset.names import DATASET
from xreal_synth.dataset.note import RunNote, read_note, write_note
from xreal_synth.engine.progress import ActorUp, Advanced, Event, OnEvent, RunEnded, RunSummary, Warned
from xreal_synth.errors import StorageError
from xreal_synth.storage import Store

EVERY_S = 15.0


class NoteKeeper:
    """Writes the note every `every_s` seconds from the first actor that is up, and how the run ended; says with
    `tell` where it cannot.

    Before that the place is not claimed, and a run that cannot start leaves nothing behind.
    """

    def __init__(
        self,
        store: Store,
        groups: int,
        shards: int,
        tell: OnEvent,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._tell = store, tell
        self._every, self._clock = every_s, clock
        self._note = RunNote(0.0, None, groups, shards, 0)
        self._begun = self._failed = False

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
