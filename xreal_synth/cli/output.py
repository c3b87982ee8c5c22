"""What the verbs print with: the console, tables, JSON, sizes and times in words; and progress.

A run's events, or a training's pace, are a bar on a terminal, plain lines elsewhere.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich import filesize, progress
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from xreal_synth.engine.log import LineLog
from xreal_synth.engine.progress import COMPLETE, Advanced, Event, RunEnded, RunStarted, ShardDone
from xreal_synth.escaping import for_terminal
from xreal_synth.evaluation.kept import null_for_nan

if TYPE_CHECKING:
    from xreal_synth.training.pace import Pace


class _Terminal(Console):
    """Shows texts as they are, brackets and colons too, but so that none steers the terminal or tells a credential."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(for_terminal(text), **how)


console = _Terminal(highlight=False, soft_wrap=False, markup=False, emoji=False)
notes = _Terminal(stderr=True, highlight=False, markup=False, emoji=False)


def table_of(rows: Iterable[Sequence[Any]], *header: str | Column, **how: Any) -> Table:
    """Rows of texts or numbers, without a header names with what is said of each; `how` is rich's.

    What is wider than its column goes on below: a hash or a path that is cut short is of no use.
    """
    table = Table(*header, show_header=bool(header), **how)
    for row in rows:
        table.add_row(*map(str, row))
    for column in table.columns:
        column.overflow = "fold"
    return table


def print_table(rows: Iterable[Sequence[Any]], *header: str | Column, **how: Any) -> None:
    """A table as `table_of` makes it."""
    console.print(table_of(rows, *header, **how))


def say(line: str) -> None:
    """A line of the output, as long as it is."""
    console.print(line, soft_wrap=True)


def note(line: str) -> None:
    """A line beside the output."""
    notes.print(line, soft_wrap=True)


def print_json(value: Any) -> None:
    """For scripts; NaN is null."""
    text = json.dumps(null_for_nan(value), indent=2, ensure_ascii=False, default=str)
    sys.stdout.write(re.sub(r"[\x7f-\x9f]", lambda one: f"\\u{ord(one[0]):04x}", text) + "\n")


def told(as_json: bool, fields: Any, *shown: str | Table) -> None:
    """A command's result: for scripts, or in lines and tables."""
    if as_json:
        print_json(fields)
        return
    for one in shown:
        if isinstance(one, str):
            say(one)
        else:
            console.print(one)


def seconds_text(seconds: float) -> str:
    """`42 s`, `3.5 min`, `7.2 h`, `12 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:,.0f} days"


def bytes_text(size: float) -> str:
    """`12.3 MB`, powers of 1000."""
    return filesize.decimal(round(size))


QUIET_S = 60.0
"""Off a terminal a training has a line at the first step, at every validation, and this long after the line before."""


def progress_console(as_json: bool) -> Console:
    """Where progress is shown: beside the output where that is JSON."""
    return notes if as_json and not console.quiet else console


def counting_bar(console: Console, **how: Any) -> progress.Progress:
    """Bars that count what is done and tell the time that is left; `how` is rich's."""
    columns = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeRemainingColumn())
    return progress.Progress(progress.TextColumn("{task.description}", markup=False), *columns, console=console, **how)


class _Display(progress.Progress):
    """A bar on `console`, running inside the block of a `with`; nothing off a terminal."""

    def __init__(self, console: Console, what: str, *, transient: bool = False) -> None:
        super().__init__(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=None),
            progress.TextColumn("{task.fields[done]}", markup=False),
            progress.TimeElapsedColumn(),
            console=console,
            transient=transient,
            disable=not console.is_terminal,
        )
        self._bar = self.add_task(what, total=None, done="")

    def _say(self, message: str) -> None:
        self.console.print(message, soft_wrap=True)


class RunDisplay(_Display):
    """Shows a run's events: pass `on_event` to the run."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, "starting Ray")
        self._lines = LineLog(self._say)

    def on_event(self, event: Event) -> None:
        if not self.console.is_terminal:
            self._lines.on_event(event)
            return
        match event:
            case RunStarted():
                self.update(
                    self._bar,
                    total=event.images_total,
                    completed=event.images_done,
                    description=f"shards {event.shards_done}/{event.shards_total}",
                )
                self._say(str(event))
            case Advanced():
                left = "" if event.eta_s is None else f", {seconds_text(event.eta_s)} left"
                rate = f", {event.images_per_s:.2f} images/s{left}" if event.images_per_s else ""
                done = event.images + rate
                self.update(self._bar, completed=event.images_done, total=event.images_total, done=done)
            case ShardDone():
                self.update(self._bar, description=f"shards {event.done}/{event.total}")
            case RunEnded():
                made = event.summary.samples
                total = made if event.summary.exit_code == COMPLETE else None
                self.update(self._bar, completed=made, done=f"{made} images", total=total)
            case _:
                self._say(str(event))


class StepsDisplay(_Display):
    """Shows the steps of what takes a while: pass `report` to it. Nothing of it stays."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, "starting", transient=True)

    def report(self, what: str, done: int, total: int) -> None:
        self.update(self._bar, description=what, completed=done, total=total, done=f"{done}/{total}")


class TrainDisplay(_Display):
    """Shows a training's pace: pass `on_step` to it."""

    def __init__(self, console: Console, network: str) -> None:
        super().__init__(console, f"{network}: reading images")
        self._network = network
        self._said_at: float | None = None

    def on_step(self, pace: Pace) -> None:
        if self.console.is_terminal:
            self.update(
                self._bar,
                completed=pace.step,
                total=pace.steps,
                description=f"{self._network}: {losses_text(pace)}",
                done=f"step {pace.step}/{pace.steps}, {rate_text(pace)}",
            )
        elif self._said_at is None or pace.validated or time.monotonic() - self._said_at > QUIET_S:
            self._said_at = time.monotonic()
            self._say(f"step {pace.step}/{pace.steps}, {losses_text(pace)}, {rate_text(pace)}")


def losses_text(pace: Pace) -> str:
    """`loss 0.412, validation 0.398 (best 0.391)`."""
    text = f"loss {pace.loss:.4g}"
    if pace.val_loss is None:
        return text
    best = "" if pace.best is None or pace.best == pace.val_loss else f" (best {pace.best:.4g})"
    return f"{text}, validation {pace.val_loss:.4g}{best}"


def rate_text(pace: Pace) -> str:
    """`15.2 images/s, 1.4 h left`."""
    return f"{pace.images_per_s:.3g} images/s, {seconds_text(pace.left_s)} left"
