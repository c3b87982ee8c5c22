"""A run's events as a progress bar on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from xreal_synth.cli.options import seconds_text
from xreal_synth.engine.progress import (
    ActorLost,
    ActorUp,
    Advanced,
    Event,
    RunStarted,
    ShardAdopted,
    ShardDiscarded,
    ShardDone,
    ShardQuarantined,
    ShardRetried,
    Stopping,
    Warned,
)

LINE_EVERY_S = 15.0


class RunDisplay:
    """Shows events on `console`: use as a context manager, and pass `on_event` to the run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._line_at = 0.0
        self._rate = TextColumn("{task.fields[rate]}")
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("films"),
            self._rate,
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting Ray", total=None, rate="")

    def __enter__(self) -> RunDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def on_event(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._started(event)
            case Advanced():
                self._advanced(event)
            case ShardDone():
                self._bar.update(self._task, description=f"shards {event.done}/{event.total}")
            case _:
                message = _sentence(event)
                if message:
                    self._say(message)

    def _started(self, event: RunStarted) -> None:
        self._bar.update(
            self._task,
            total=event.films_total,
            completed=event.films_done,
            description=f"shards {event.shards_done}/{event.shards_total}",
        )
        where = f"{event.shards_done} of {event.shards_total} shards done, " if event.shards_done else ""
        self._say(
            f"{event.uri}: {where}{event.films_total:,} films to make up in all, "
            f"{event.actors} actor(s) on {event.device}"
        )

    def _advanced(self, event: Advanced) -> None:
        eta = "" if event.eta_s is None else f", {seconds_text(event.eta_s)} left"
        rate = f"{event.images_per_s:.2f} images/s{eta}"
        self._bar.update(self._task, completed=event.films_done, total=event.films_total, rate=rate)
        plain = not self._console.is_terminal and event.films_done > 0
        if plain and time.monotonic() - self._line_at > LINE_EVERY_S:
            self._line_at = time.monotonic()
            self._say(f"{event.films_done:,} of {event.films_total:,} films, {rate}")

    def _say(self, message: str) -> None:
        self._console.print(message, markup=False)


def _sentence(event: Event) -> str:
    match event:
        case ActorUp():
            return f"{event.actor}: models loaded in {event.seconds:.0f} s"
        case ActorLost():
            return f"{event.actor}: lost ({event.reason})" + (
                "" if event.shard is None else f"; shard {event.shard} goes to another"
            )
        case ShardRetried():
            return f"shard {event.shard}: failed ({event.reason}), tried again"
        case ShardQuarantined():
            return f"shard {event.shard}: given up: {event.reason}"
        case ShardAdopted():
            return f"shard {event.shard}: a finished tar of an interrupted run, adopted"
        case ShardDiscarded():
            return f"shard {event.shard}: leftovers deleted ({event.reason})"
        case Warned():
            return f"warning: {event.message}"
        case Stopping():
            return f"stopping: {event.in_flight} shard(s) in flight are finished first; run again to go on"
    return ""
