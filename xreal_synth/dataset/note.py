"""progress.json: what the last run on a dataset said of itself. The records are the truth; this is for readers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from xreal_synth.dataset.names import PROGRESS
from xreal_synth.dataset.seal import sealed, unsealed, validated
from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.storage import Store


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
