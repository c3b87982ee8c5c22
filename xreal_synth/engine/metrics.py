"""What a run and its actors measure of themselves, for Prometheus. No Ray here: ray_session.py exports it.

Ray's exporter adds `ray_` before the names, `_total` to counters, and tags for node, process and session. A metric of
the run is told by the driver, from its events, and has the tag `dataset`; one of an actor is told by the actor's own
process, with the tag `actor` too, so that its gauges go when the actor goes. Tags have few values: datasets, actors,
states, checks, never shards or images. Of histograms Ray keeps the buckets' counts alone: a `_sum` is an estimate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from xreal_synth.engine.progress import (
    ActorLost,
    ActorUp,
    Advanced,
    Event,
    RunStarted,
    ShardDone,
    ShardQuarantined,
    ShardRetried,
)
from xreal_synth.run.stopwatch import GATE, MODEL, OTHER, WAIT

Kind = Literal["counter", "gauge", "histogram"]
PREFIX: Final = "xreal_synth_"
SECONDS: Final = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 90, 120, 180, 240, 300, 600, 1200, 3600)
"""Buckets of every histogram."""
NOTHING: Final = 2.0**-30
"""Counters begin with so much instead of zero, which Ray refuses: Prometheus sees the first step only of a series that
was there before it. Sums of whole numbers lose nothing by it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """`tags` come on top of those that all metrics of the run, or of an actor, have."""

    name: str
    kind: Kind
    help: str
    tags: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """As Ray is told it."""
        return f"{PREFIX}{self.name}"

    @property
    def series(self) -> tuple[str, ...]:
        """The names that Prometheus sees."""
        parts = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
        return tuple(f"ray_{self.full_name}{part}" for part in parts[self.kind])


IMAGES_PER_S = Metric("images_per_second", "gauge", "Images made per second by the run, over the last minute.")
IMAGES = Metric("images", "gauge", "Images of the dataset: done, and expected in all.", ("state",))
SHARDS = Metric("shards", "gauge", "Shards of the dataset: done, in_flight, waiting, quarantined.", ("state",))
ACTORS = Metric("actors", "gauge", "Actors of the run: booting, idle, working, retired.", ("state",))
IMAGES_GENERATED = Metric("images_generated", "counter", "Images in shards that this run has finished.")
ACCEPTED = Metric("groups_accepted", "counter", "Groups in shards that this run has finished.")
DROPPED = Metric("groups_dropped", "counter", "Groups given up after max_attempts.")
REJECTED = Metric("attempts_rejected", "counter", "Attempts at groups that a check refused.", ("check",))
BYTES = Metric("published_bytes", "counter", "Bytes of tars that this run has published.")
SHARD_SECONDS = Metric("shard_seconds", "histogram", "Seconds in which a shard was made.")
BOOT_SECONDS = Metric("boot_seconds", "histogram", "Seconds from asking for an actor to its models being loaded.")
RETRIED = Metric("shards_retried", "counter", "Shards that failed and went back to the queue.")
QUARANTINED = Metric("shards_quarantined", "counter", "Shards given up.")
LOST = Metric("actors_lost", "counter", "Actors that died, hung or could not start.")
RUN = (
    IMAGES_PER_S, IMAGES, SHARDS, ACTORS, IMAGES_GENERATED, ACCEPTED, DROPPED, REJECTED, BYTES, SHARD_SECONDS,
    BOOT_SECONDS, RETRIED, QUARANTINED, LOST,
)  # fmt: skip
"""The driver's."""

ATTEMPTED = Metric("actor_images", "counter", "Images that the actor has made, refused ones too, as it makes them.")
SECONDS_OF = Metric("actor_seconds", "counter", "Where the actor's time has gone: model, gate, wait, other, idle.",
                 ("part",))  # fmt: skip
BUSY = Metric("actor_busy_share", "gauge", "Share of its last shard's time, idle before it included, that the actor "
              "was in the model: 0 to 1.")  # fmt: skip
PUBLISH_SECONDS = Metric("publish_seconds", "histogram", "Seconds in which a shard's files were put in their place.")
ACTOR = (ATTEMPTED, SECONDS_OF, BUSY, PUBLISH_SECONDS)
"""The actors'."""


class Emit(Protocol):
    """Takes a value: counters grow by it, gauges become it, histograms count it."""

    def __call__(self, metric: Metric, value: float, **tags: str) -> None: ...


class RunMeters:
    """Tells of events, from when Ray is up."""

    def __init__(self, emit: Emit) -> None:
        self._emit, self._begun = emit, False
        self._shards = self._done = self._in_flight = self._quarantined = 0

    def on_event(self, event: Event) -> None:
        emit = self._emit
        self._begun = self._begun or isinstance(event, RunStarted)
        if not self._begun:
            return
        match event:
            case RunStarted():
                self._shards, self._done = event.shards_total, event.shards_done
                for metric in RUN:
                    if metric.kind == "counter" and not metric.tags:
                        emit(metric, NOTHING)
                self._progress(event)
            case Advanced():
                emit(IMAGES_PER_S, event.images_per_s)
                for state, count in event.states.items():
                    emit(ACTORS, count, state=state)
                self._in_flight = event.in_flight
                self._progress(event)
            case ShardDone():
                self._done = event.done
                self._emit_done(event)
            case ActorUp():
                emit(BOOT_SECONDS, event.seconds)
            case ActorLost():
                emit(LOST, 1)
            case ShardRetried():
                emit(RETRIED, 1)
            case ShardQuarantined():
                self._quarantined += 1
                emit(QUARANTINED, 1)
                self._emit_shards()

    def _progress(self, event: RunStarted | Advanced) -> None:
        self._emit(IMAGES, event.images_done, state="done")
        self._emit(IMAGES, event.images_total, state="expected")
        self._emit_shards()

    def _emit_done(self, event: ShardDone) -> None:
        counts = event.images, event.groups, event.dropped, event.bytes
        for metric, count in zip((IMAGES_GENERATED, ACCEPTED, DROPPED, BYTES), counts, strict=True):
            if count:
                self._emit(metric, count)
        for check, count in event.refused.items():
            self._emit(REJECTED, count, check=check)
        self._emit(SHARD_SECONDS, event.seconds)
        self._emit_shards()

    def _emit_shards(self) -> None:
        waiting = max(self._shards - self._done - self._in_flight - self._quarantined, 0)
        counts = {"done": self._done, "in_flight": self._in_flight, "quarantined": self._quarantined}
        for state, count in {**counts, "waiting": waiting}.items():
            self._emit(SHARDS, count, state=state)


class ActorMeters:
    """What an actor tells of itself, from when it is ready."""

    def __init__(self, emit: Emit, clock: Callable[[], float] = time.monotonic) -> None:
        self._emit, self._clock = emit, clock
        self._since = clock()
        emit(ATTEMPTED, NOTHING)

    def images(self, count: float) -> None:
        if count > 0:
            self._emit(ATTEMPTED, count)

    def worked(self, timings: Mapping[str, float]) -> None:
        """So many seconds went into a shard's rendering, by name; what is left since the one before was idle."""
        now = self._clock()
        wall, self._since = now - self._since, now
        names = {"model": MODEL, "gate": GATE, "wait": WAIT}
        parts = {part: timings[name] for part, name in names.items() if name in timings}
        parts |= {"other": timings.get(OTHER, 0.0), "idle": wall - sum(timings.values())}
        for part, seconds in parts.items():
            if seconds > 0:
                self._emit(SECONDS_OF, seconds, part=part)
        if "model" in parts and wall > 0:
            self._emit(BUSY, min(parts["model"] / wall, 1.0))

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """A shard's files are written by its body."""
        began = self._clock()
        yield
        self._emit(PUBLISH_SECONDS, self._clock() - began)
