"""How far a training is and how it ended, and the messages of processes that train together. No torch here: the process
that passes them on needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xreal_synth.errors import XrealError


@dataclass(slots=True)
class Progress:
    """The progress of a run: steps done, seconds spent in all its parts, best validation loss so far."""

    step: int = 0
    seconds: float = 0.0
    best: float | None = None


@dataclass(slots=True)
class Result(Progress):
    """The end of a run: its progress, and whether the budget is used up."""

    finished: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace of a run: steps, images a second, seconds still to go, the last losses.

    `validated` says that `val_loss` is this step's.
    """

    step: int
    steps: int
    images_per_s: float
    left_s: float
    loss: float
    val_loss: float | None
    best: float | None
    validated: bool


OnStep = Callable[[Pace], None]


class Mailbox:
    """Messages between the workers and the caller. Not used directly: ray_train.py makes a Ray actor of it."""

    def __init__(self) -> None:
        self._pace: Pace | None = None
        self._stop = False
        self._ends: list[Result | XrealError] = []

    def tell(self, pace: Pace) -> bool:
        """The run's pace; returns whether it shall stop."""
        self._pace = pace
        return self._stop

    def pace(self, stop: bool) -> Pace | None:
        """The last pace that was told, None before the first; with `stop` the run ends at its next step."""
        self._stop = self._stop or stop
        return self._pace

    def finish(self, end: Result | XrealError) -> None:
        """Takes the run's result, or a mistake of the user's, that starting again would not fix."""
        self._ends.append(end)

    def ends(self) -> list[Result | XrealError]:
        """What was taken so far."""
        return self._ends
