"""Which attempt at which group is made next: pure bookkeeping of a shard.

A group's attempts are 0, 1, .. in order; the first `max_attempts` share anatomy and boxes, each later one has its
own. Refused groups come again in the next wave beside new ones, so that no forward is made for one film.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xreal_synth.engine.stopwatch import WAIT, Stopwatch
from xreal_synth.errors import PlacementError
from xreal_synth.types import Rejected, SampleSpec, ShardPlan

if TYPE_CHECKING:
    from xreal_synth.engine.setup import Run


@dataclass(frozen=True, slots=True)
class Planned:
    """Groups that can be made, in order, and the refused attempts on the way there."""

    specs: tuple[SampleSpec, ...]
    rejected: tuple[Rejected, ...]


def next_attempt(max_attempts: int, attempt: int | None, *, placed: bool = True) -> int | None:
    """The attempt after this one, the first after None; None after the last.

    Where the findings had no place, other noise does not help: the next is the next with its own anatomy.
    """
    if attempt is None:
        return 0
    following = attempt + 1 if placed else max(max_attempts, attempt + 1)
    return following if following < 2 * max_attempts else None


def plan_group(run: Run, index: int, after: int | None = None) -> tuple[SampleSpec | None, list[Rejected]]:
    """The first attempt at a group, later than `after`, whose boxes can be placed; None if there is none."""
    rejected: list[Rejected] = []
    most = run.recipe.quality.max_attempts
    attempt = next_attempt(most, after)
    row = run.plan.row(index)
    kinds = run.recipe.findings[row].kinds
    asked = tuple(dict.fromkeys(label.name for _, labels in kinds for label in labels))
    while attempt is not None:
        try:
            return run.plan.sample(index, attempt), rejected
        except PlacementError as error:
            following = next_attempt(most, attempt, placed=False)
            rejected.append(
                Rejected(index, attempt, row, error.found, dropped=following is None, findings=asked)
            )
            attempt = following
    return None, rejected


def plan_shard(run: Run, shard: ShardPlan, chunk: int) -> Iterator[Planned]:
    """The shard's groups, `chunk` specs at a time. Pure: equal for equal (recipe, bundle) on any machine."""
    specs: list[SampleSpec] = []
    rejected: list[Rejected] = []
    for index in range(shard.start, shard.stop):
        spec, refused = plan_group(run, index)
        rejected += refused
        if spec is not None:
            specs.append(spec)
        if len(specs) == chunk:
            yield Planned(tuple(specs), tuple(rejected))
            specs, rejected = [], []
    yield Planned(tuple(specs), tuple(rejected))


class Waves:
    """The groups of a shard in waves of at most `size`: refused ones first, then new ones.

    New groups are planned by `planner` while a wave is made. No more than `ahead` groups are begun and not
    decided beyond the first undecided one, so that what waits for it stays bounded.
    """

    def __init__(
        self, run: Run, shard: ShardPlan, size: int, ahead: int, planner: Executor,
        watch: Stopwatch | None = None,
    ) -> None:  # fmt: skip
        assert 1 <= size <= ahead
        self._watch = watch or Stopwatch()
        self.rejected: list[Rejected] = []
        self._run, self._size, self._ahead, self._planner = run, size, ahead, planner
        self._again: deque[SampleSpec] = deque()
        self._new: deque[SampleSpec] = deque()
        self._undecided: dict[int, None] = {}
        self._plans = plan_shard(run, shard, size)
        self._following: Future[Planned | None] | None = planner.submit(next, self._plans, None)

    def next(self) -> list[SampleSpec]:
        """The wave to make now; empty when every group is decided."""
        wave: list[SampleSpec] = []
        while self._again and len(wave) < self._size:
            wave.append(self._again.popleft())
        while len(wave) < self._size and (spec := self._fresh()) is not None:
            self._undecided[spec.index] = None
            wave.append(spec)
        return wave

    @property
    def frontier(self) -> int | None:
        """The first group that is not decided yet; None where all that were begun are."""
        return next(iter(self._undecided), None)

    def accept(self, spec: SampleSpec) -> None:
        """The group is delivered."""
        del self._undecided[spec.index]

    def refuse(self, spec: SampleSpec, refused: Rejected) -> None:
        """This attempt is not delivered: the group comes again, or was dropped."""
        again, unplaced = plan_group(self._run, spec.index, spec.attempt)
        self.rejected += [refused, *unplaced]
        if again is not None:
            self._again.append(again)
            return
        if not unplaced:
            self.rejected[-1] = _dropped(refused)
        del self._undecided[spec.index]

    def _fresh(self) -> SampleSpec | None:
        while not self._new and self._following is not None:
            with self._watch.within(WAIT):
                planned = self._following.result()
            self._following = None
            if planned is not None:
                self.rejected += planned.rejected
                self._new.extend(planned.specs)
                self._following = self._planner.submit(next, self._plans, None)
        if not self._new:
            return None
        first = next(iter(self._undecided), self._new[0].index)
        return self._new.popleft() if self._new[0].index < first + self._ahead else None


def _dropped(refused: Rejected) -> Rejected:
    return replace(refused, dropped=True)
