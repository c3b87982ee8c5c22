"""A training's pace as a progress bar on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from xreal_synth.training.session import Pace

QUIET_S = 60.0
"""Off a terminal: a line at the first step, at every validation, and this long after the line before."""


class TrainDisplay:
    """Shows a run's pace on `console`: use as a context manager, and pass `on_step` to the run."""

    def __init__(self, console: Console, network: str) -> None:
        self._console = console
        self._network = network
        self._said_at: float | None = None
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("steps  {task.fields[rate]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(f"{network}: reading images", total=None, rate="")

    def __enter__(self) -> TrainDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def on_step(self, pace: Pace) -> None:
        if self._console.is_terminal:
            self._bar.update(
                self._task,
                completed=pace.step,
                total=pace.steps,
                description=f"{self._network}: {losses_text(pace)}",
                rate=rate_text(pace),
            )
        elif self._said_at is None or pace.validated or time.monotonic() - self._said_at > QUIET_S:
            self._said_at = time.monotonic()
            self._console.print(f"step {pace.step}/{pace.steps}, {losses_text(pace)}, {rate_text(pace)}")


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
