"""Events as lines of text, for logs without a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from xreal_synth.engine.progress import (
    EVENTS,
    ActorLost,
    ActorUp,
    Advanced,
    Event,
    MicroBatchFound,
    RunEnded,
    RunStarted,
    ShardAdopted,
    ShardDiscarded,
    ShardDone,
    ShardQuarantined,
    ShardRetried,
    Stopping,
    Warned,
)


class LineLog:
    """Says every event once, progress at most every `every_s` seconds; the end is for others to say."""

    def __init__(
        self, say: Callable[[str], None], every_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say, self._every, self._clock = say, every_s, clock
        self._reported_at = clock()

    def on_event(self, event: Event) -> None:
        if isinstance(event, RunEnded):
            return
        if isinstance(event, Advanced):
            if self._clock() - self._reported_at < self._every:
                return
            self._reported_at = self._clock()
        self._say(line_of(event))


def images_text(event: Advanced) -> str:
    """`12 of about 18 images`: the total is an expectation until no shard is left. Actors while all of them start."""
    known = not event.in_flight and event.images_done == event.images_total
    starting = event.states.get("booting", 0)
    waiting = ", actors starting" if starting and starting == event.actors else ""
    return f"{event.images_done} of {'' if known else 'about '}{event.images_total} images{waiting}"


def line_of(event: Event) -> str:
    """One event in one line."""
    match event:
        case RunStarted():
            batch = "to be found by the first actor" if event.micro_batch is None else event.micro_batch
            return (
                f"{event.uri}: {event.shards_done} of {event.shards_total} shards done, "
                f"{event.actors} actors on {event.device}, micro-batch {batch}"
            )
        case Advanced():
            rate = f", {event.images_per_s:.2f} images/s" if event.images_per_s else ""
            left = "" if event.eta_s is None else f", {event.eta_s:.0f} s left"
            return f"{images_text(event)}{rate}{left}"
        case ActorUp():
            return f"actor {event.actor} up on {event.node} after {event.seconds:.1f} s"
        case MicroBatchFound():
            tried = ", ".join(
                f"{size}: {rate:.2f} images/s, {memory:.0%} of memory" for size, rate, memory in event.tried
            )
            return f"micro-batch {event.micro_batch} from now on (tried {tried})"
        case ActorLost():
            at = "" if event.shard is None else f" with shard {event.shard}"
            return f"actor {event.actor} lost{at}: {event.reason}"
        case ShardDone():
            rejected = f", {event.rejected} rejected" if event.rejected else ""
            return (
                f"shard {event.shard} done: {event.images} images{rejected} in {event.seconds:.1f} s "
                f"({event.done} of {event.total})"
            )
        case ShardRetried():
            return f"shard {event.shard} goes back to the queue (its own failures: {event.failures}): {event.reason}"
        case ShardQuarantined():
            return f"shard {event.shard} given up: {event.reason}"
        case ShardAdopted():
            return f"shard {event.shard} adopted: its tar was whole"
        case ShardDiscarded():
            return f"shard {event.shard} is made again: {event.reason}"
        case Warned():
            return f"warning: {event.message}"
        case Stopping():
            return f"stopping: {event.in_flight} shards in flight are finished first; a second Ctrl-C ends at once"
        case RunEnded():
            return f"ended with exit code {event.summary.exit_code}"


def line_of_logged(line: Mapping[str, object]) -> str:
    """An event of a run's log (dataset/runlog.py) in one line, with its time."""
    reported: dict[str, Any] = {
        key: value for key, value in line.items() if key not in ("at", "run", "event")
    }
    name = str(line["event"])
    try:
        words = _words(name, reported)
    except (TypeError, ValueError, AttributeError, KeyError):  # of another version of this package
        words = f"{name}: {', '.join(f'{key} {value}' for key, value in reported.items())}"
    return f"{str(line['at'])[:19].replace('T', ' ')}  {words}"


def _words(name: str, reported: dict[str, Any]) -> str:
    if name == "run_opened":
        return (
            f"run of xreal-synth {reported['package']} with Ray {reported['ray']} on {reported['host']}, "
            f"digest {reported['digest'][:12]}"
        )
    if name == "run_ended":
        images, seconds = reported["generated_images"], reported["seconds"]
        ended = f"ended with exit code {reported['exit_code']}: {images} images in {seconds:.0f} s"
        message = f"; {reported['message']}" if reported["message"] else ""
        return f"{ended}, {reported['shards_done']} of {reported['shards_total']} shards done{message}"
    if name == "run_failed":
        return f"broken off: {reported['error']}: {reported['message']}"
    kind = EVENTS[name]
    return line_of(kind(**{one.name: reported[one.name] for one in fields(kind) if one.name in reported}))
