"""What a run says of itself: events for a progress bar or a log, each a line of text by `str`, and the final summary.

No ray and no torch here: a command line or a test reads these without either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from xreal_synth.dataset.record import DatasetSummary
from xreal_synth.types import Acceptance

ExitCode = Literal[0, 2, 3, 75]

COMPLETE: ExitCode = 0
NOT_STARTED: ExitCode = 2
PARTIAL: ExitCode = 3
STOPPED: ExitCode = 75


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The ledger is read and Ray is up. `images_*` count delivered images; the total is an expectation. The
    micro-batch is None where the first actor is to find it."""

    uri: str
    shards_total: int
    shards_done: int
    images_total: int
    images_done: int
    actors: int
    device: str
    micro_batch: int | None

    def __str__(self) -> str:
        batch = "to be found by the first actor" if self.micro_batch is None else self.micro_batch
        return (
            f"{self.uri}: {self.shards_done} of {self.shards_total} shards done, "
            f"{self.actors} actors on {self.device}, micro-batch {batch}"
        )


@dataclass(frozen=True, slots=True)
class Advanced:
    """Images made so far (those of unfinished shards too), images per second of this run, seconds left: None before
    the first images and once a stop was asked for.

    `states` counts the actors by state, `in_flight` the shards that are being made or published.
    """

    images_done: int
    images_total: int
    images_per_s: float
    eta_s: float | None
    actors: int
    states: Mapping[str, int] = field(default_factory=dict)
    in_flight: int = 0

    @property
    def images(self) -> str:
        """`12 of about 18 images`: the total is an expectation until no shard is left."""
        known = not self.in_flight and self.images_done == self.images_total
        starting = self.states.get("booting", 0)
        waiting = ", actors starting" if starting and starting == self.actors else ""
        return f"{self.images_done} of {'' if known else 'about '}{self.images_total} images{waiting}"

    def __str__(self) -> str:
        rate = f", {self.images_per_s:.2f} images/s" if self.images_per_s else ""
        left = "" if self.eta_s is None else f", {self.eta_s:.0f} s left"
        return f"{self.images}{rate}{left}"


@dataclass(frozen=True, slots=True)
class ActorUp:
    """An actor has loaded its models, `seconds` after it was asked for."""

    actor: str
    node: str
    seconds: float

    def __str__(self) -> str:
        return f"actor {self.actor} up on {self.node} after {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class MicroBatchFound:
    """The dataset's micro-batch, found by the first actor; `tried` are (size, images per second, memory share)."""

    micro_batch: int
    tried: tuple[tuple[int, float, float], ...]

    def __str__(self) -> str:
        tried = [f"{size}: {rate:.2f} images/s, {memory:.0%} of memory" for size, rate, memory in self.tried]
        return f"micro-batch {self.micro_batch} from now on (tried {', '.join(tried)})"


@dataclass(frozen=True, slots=True)
class ActorLost:
    """An actor is gone; `shard` is what it was making, which goes to another."""

    actor: str
    shard: int | None
    reason: str

    def __str__(self) -> str:
        at = "" if self.shard is None else f" with shard {self.shard}"
        return f"actor {self.actor} lost{at}: {self.reason}"


@dataclass(frozen=True, slots=True)
class ShardDone:
    """A shard's record is written. `done` of `total` shards are.

    `refused` counts the rejected attempts by the check that refused them, `bytes` are the tar's, `timings` and
    `actor` the record's.
    """

    shard: int
    images: int
    rejected: int
    seconds: float
    done: int
    total: int
    groups: int = 0
    dropped: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    timings: Mapping[str, float] = field(default_factory=dict)
    actor: str = ""

    def __str__(self) -> str:
        rejected = f", {self.rejected} rejected" if self.rejected else ""
        made = f"{self.images} images{rejected} in {self.seconds:.1f} s"
        return f"shard {self.shard} done: {made} ({self.done} of {self.total})"


@dataclass(frozen=True, slots=True)
class ShardRetried:
    """A shard failed and goes back to the queue; `failures` counts its own failures so far."""

    shard: int
    failures: int
    reason: str

    def __str__(self) -> str:
        return f"shard {self.shard} goes back to the queue (its own failures: {self.failures}): {self.reason}"


@dataclass(frozen=True, slots=True)
class ShardQuarantined:
    """A shard is given up; the reason and traceback are in the dataset's quarantine folder."""

    shard: int
    reason: str

    def __str__(self) -> str:
        return f"shard {self.shard} given up: {self.reason}"


@dataclass(frozen=True, slots=True)
class ShardAdopted:
    """A tar without a record, left by an interrupted run, was right and got its record."""

    shard: int

    def __str__(self) -> str:
        return f"shard {self.shard} adopted: its tar was whole"


@dataclass(frozen=True, slots=True)
class ShardDiscarded:
    """Files of a shard that were not right are deleted; it is made again."""

    shard: int
    reason: str

    def __str__(self) -> str:
        return f"shard {self.shard} is made again: {self.reason}"


@dataclass(frozen=True, slots=True)
class Warned:
    """Something a person should know; the run goes on."""

    message: str

    def __str__(self) -> str:
        return f"warning: {self.message}"


@dataclass(frozen=True, slots=True)
class Stopping:
    """A stop was asked for: nothing new is started, shards in flight are finished."""

    in_flight: int

    def __str__(self) -> str:
        return f"stopping: {self.in_flight} shards in flight are finished first; a second Ctrl-C ends at once"


@dataclass(frozen=True, slots=True)
class ShardFailure:
    """A shard that is not in the dataset, and why."""

    shard: int
    reason: str
    quarantined: bool


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run ended.

    Shards, images and rejects count the whole dataset; `generated_images`, `seconds` and `images_per_s` this run.
    `label_counts` are positives by dotted label; `message` says what to do next, if anything; `dataset` is
    what the dataset holds in all, None when the run was stopped. `gate` is what the gate did, `unchecked` the
    checks that could not run, with the reason.
    """

    exit_code: ExitCode
    uri: str
    shards_total: int
    shards_done: int
    samples: int
    groups: int
    rejected: int
    dropped: int
    generated_images: int
    seconds: float
    images_per_s: float
    label_counts: dict[str, int]
    failures: tuple[ShardFailure, ...] = ()
    message: str = ""
    dataset: DatasetSummary | None = None
    gate: Acceptance | None = None
    unchecked: dict[str, str] = field(default_factory=dict)

    @property
    def quarantined(self) -> tuple[int, ...]:
        return tuple(failure.shard for failure in self.failures if failure.quarantined)


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last event, but of a run that an exception ends."""

    summary: RunSummary


Event = (
    RunStarted
    | Advanced
    | ActorUp
    | MicroBatchFound
    | ActorLost
    | ShardDone
    | ShardRetried
    | ShardQuarantined
    | ShardAdopted
    | ShardDiscarded
    | Warned
    | Stopping
    | RunEnded
)
OnEvent = Callable[[Event], None]


class Events(list[OnEvent]):
    """A run's one stream of events: each listener in it hears every event, in their order. What a listener says while
    it hears one comes to all, itself too, at once."""

    def __call__(self, event: Event) -> None:
        for listener in self:
            listener(event)


def event_name(kind: type) -> str:
    """`shard_done` of ShardDone: an event's name in logs."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


EVENTS: Final[Mapping[str, type[Event]]] = {event_name(kind): kind for kind in get_args(Event) if kind is not RunEnded}
"""The events by name, but for the last, whose line in a log is of its own making."""
