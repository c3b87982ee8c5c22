"""The fault table: what is done to a run, what must come of it, and what was seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from xreal_synth.engine.chaos.bed import Bed, Seen
from xreal_synth.errors import XrealError

Trial = Callable[[Bed], Seen]


@dataclass(frozen=True, slots=True)
class Fault:
    """A row as documented: `done` to the run, what `follows`, the exit code of the run that met it."""

    name: str
    done: str
    follows: str
    exit_code: int
    trial: Trial


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it went. `wrong` is empty where everything was as documented."""

    name: str
    done: str
    follows: str
    wanted_code: int
    exit_code: int | None
    detected_s: float | None
    retried: int
    lost: int
    doubled: int
    bytes_equal: bool
    seconds: float
    said: str
    wrong: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.wrong


FAULTS: dict[str, Fault] = {}


def fault(name: str, done: str, follows: str, exit_code: int = 0) -> Callable[[Trial], Trial]:
    """Adds a trial to the table."""

    def add(trial: Trial) -> Trial:
        assert name not in FAULTS, name
        FAULTS[name] = Fault(name, done, follows, exit_code, trial)
        return trial

    return add


def chosen(names: Sequence[str]) -> list[Fault]:
    """The faults of these names, in the table's order; all without any. Raises XrealError for unknown ones."""
    from xreal_synth.engine.chaos import on_actors, on_datasets, on_drivers, on_nodes, on_storage

    assert all((on_actors, on_nodes, on_drivers, on_storage, on_datasets))  # importing them fills the table
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        raise XrealError(
            found=f"no fault {', '.join(unknown)}",
            wanted=f"some of: {', '.join(FAULTS)}",
            hint="check --only",
        )
    return [one for name, one in FAULTS.items() if not names or name in names]


def tried(one: Fault, bed: Bed) -> Row:
    """Does it and says what was seen."""
    assert bed.whole, "the undisturbed run comes first"
    began = time.monotonic()
    try:
        seen = one.trial(bed)
    except Exception as error:  # a row that fails is the finding
        seen = Seen(-1, wrong=[f"{type(error).__name__}: {error}"], bytes_equal=False)
    seen.must(seen.exit_code == one.exit_code, f"exit code {seen.exit_code}, documented {one.exit_code}")
    seen.must(not seen.lost, f"{seen.lost} shards lost")
    seen.must(not seen.doubled, f"{seen.doubled} shards too many")
    return Row(
        one.name, one.done, one.follows, one.exit_code, seen.exit_code, seen.detected_s, seen.retried, seen.lost,
        seen.doubled, seen.bytes_equal, time.monotonic() - began, seen.said, tuple(seen.wrong),
    )  # fmt: skip


def rows(faults: Sequence[Fault], bed: Bed) -> Iterator[Row]:
    """One after another; what one leaves of the cluster, the next finds."""
    for one in faults:
        yield tried(one, bed)
