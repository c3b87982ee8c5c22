"""The fault table: what is done to a run, what must come of it, and what was seen."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.bed import Bed, Seen

Trial = Callable[[Bed], Seen]


@dataclass(frozen=True, slots=True)
class Fault:
    """A row as documented: `done` to the run, what `follows`, the exit code of the run that met it."""

    name: str
    done: str
    follows: str
    exit_code: int
    trial: Trial

    def tried(self, bed: Bed) -> tuple[Seen, float]:
        """What was seen, everything that was wrong in `Seen.wrong`, and the seconds that it took."""
        assert bed.whole, "the undisturbed run comes first"
        began = time.monotonic()
        seen = self.trial(bed)
        seen.must(seen.exit_code == self.exit_code, f"exit code {seen.exit_code}, documented {self.exit_code}")
        seen.must(not seen.lost, f"{seen.lost} shards lost")
        seen.must(not seen.doubled, f"{seen.doubled} shards too many")
        return seen, time.monotonic() - began


FAULTS: list[Fault] = []
"""Filled where the modules of the trials are imported, in that order."""


def fault(name: str, done: str, follows: str, exit_code: int = 0) -> Callable[[Trial], Trial]:
    """Adds a trial to the table."""

    def add(trial: Trial) -> Trial:
        assert all(one.name != name for one in FAULTS), name
        FAULTS.append(Fault(name, done, follows, exit_code, trial))
        return trial

    return add
