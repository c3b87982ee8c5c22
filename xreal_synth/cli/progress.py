"""A run's events as a progress bar on a terminal, as plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from xreal_synth.cli.options import seconds_text
from xreal_synth.engine.log import LineLog, images_text, line_of
from xreal_synth.engine.progress import COMPLETE, Advanced, Event, RunEnded, RunStarted, ShardDone


class RunDisplay:
    """Shows events on `console`: use as a context manager, and pass `on_event` to the run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines = LineLog(self._say)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[images]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting Ray", total=None, images="")

    def __enter__(self) -> RunDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def on_event(self, event: Event) -> None:
        if not self._console.is_terminal:
            self._lines.on_event(event)
            return
        match event:
            case RunStarted():
                self._bar.update(
                    self._task,
                    total=event.images_total,
                    completed=event.images_done,
                    description=f"shards {event.shards_done}/{event.shards_total}",
                )
                self._say(line_of(event))
            case Advanced():
                left = "" if event.eta_s is None else f", {seconds_text(event.eta_s)} left"
                rate = f", {event.images_per_s:.2f} images/s{left}" if event.images_per_s else ""
                images = images_text(event) + rate
                self._bar.update(
                    self._task, completed=event.images_done, total=event.images_total, images=images
                )
            case ShardDone():
                self._bar.update(self._task, description=f"shards {event.done}/{event.total}")
            case RunEnded():
                made = event.summary.samples
                total = made if event.summary.exit_code == COMPLETE else None
                self._bar.update(self._task, completed=made, images=f"{made} images", total=total)
            case _:
                self._say(line_of(event))

    def _say(self, message: str) -> None:
        self._console.print(message, soft_wrap=True)
