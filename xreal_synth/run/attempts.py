"""Attempts at groups, and which is made next: pure bookkeeping of a shard.

A group's attempts are 0, 1, .. in order; the first `max_attempts` share anatomy and boxes, each later one has its
own. Refused groups come again beside new ones, so that no forward is made for one image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xreal_synth.errors import PlacementError
from xreal_synth.run.stopwatch import WAIT, Stopwatch
from xreal_synth.sampling.jobs import GroupJob
from xreal_synth.types import Rejected, SampleSpec, ShardPlan

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run


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
    asked = run.recipe.findings[row].names
    while attempt is not None:
        try:
            return run.plan.sample(index, attempt), rejected
        except PlacementError as error:
            following = next_attempt(most, attempt, placed=False)
            rejected.append(Rejected(index, attempt, row, error.found, dropped=following is None, findings=asked))
            attempt = following
    return None, rejected


@dataclass(frozen=True, slots=True, eq=False)
class Due:
    """An attempt at a group that is to be made now."""

    spec: SampleSpec
    job: GroupJob


_Portion = tuple[list[Due], list[Rejected]]
_Drawn = tuple[Due | None, list[Rejected]]


class Attempts:
    """The groups of a shard, one after another as they are to be made: refused ones first, then new ones.

    `planner` draws them and states their jobs (`job_of`) meanwhile: new ones in portions of `size`. No more than
    `ahead` groups are begun and not decided beyond the first undecided one, so that what waits for it stays
    bounded.
    """

    def __init__(
        self, run: Run, shard: ShardPlan, size: int, ahead: int, planner: Executor,
        job_of: Callable[[SampleSpec], GroupJob], watch: Stopwatch,
    ) -> None:  # fmt: skip
        assert 1 <= size <= ahead
        self.rejected: list[Rejected] = []
        self._run, self._ahead, self._planner, self._job_of, self._watch = run, ahead, planner, job_of, watch
        self._again: deque[tuple[Rejected, Future[_Drawn]]] = deque()
        self._new: deque[Due] = deque()
        self._undecided: dict[int, None] = {}
        self._portions = self._planned(shard, size)
        self._following: Future[_Portion | None] | None = planner.submit(next, self._portions, None)

    def next(self) -> Due | None:
        """The attempt to make now; None where none can be begun before others are decided, or all are."""
        while self._again:
            refused, redrawn = self._again.popleft()
            with self._watch.within(WAIT):
                again, unplaced = redrawn.result()
            self.rejected += [refused, *unplaced]
            if again is not None:
                return again
            if not unplaced:
                self.rejected[-1] = replace(refused, dropped=True)
            del self._undecided[refused.group]
        fresh = self._fresh()
        if fresh is not None:
            self._undecided[fresh.spec.index] = None
        return fresh

    @property
    def begun(self) -> bool:
        """Whether every group was begun."""
        return not self._new and self._following is None

    @property
    def decided(self) -> bool:
        """Whether every group is delivered or dropped."""
        return self.begun and not self._undecided

    @property
    def frontier(self) -> int | None:
        """The first group that is not decided yet; None where all that were begun are."""
        return next(iter(self._undecided), None)

    def accept(self, spec: SampleSpec) -> None:
        """The group is delivered."""
        del self._undecided[spec.index]

    def refuse(self, spec: SampleSpec, refused: Rejected) -> None:
        """This attempt is not delivered: the group comes again, or is dropped when its turn has come."""
        self._again.append((refused, self._planner.submit(self._draw, spec.index, spec.attempt)))

    def _fresh(self) -> Due | None:
        while not self._new and self._following is not None:
            with self._watch.within(WAIT):
                planned = self._following.result()
            self._following = None
            if planned is not None:
                self._new.extend(planned[0])
                self.rejected += planned[1]
                self._following = self._planner.submit(next, self._portions, None)
        if not self._new:
            return None
        first = next(iter(self._undecided), self._new[0].spec.index)
        return self._new.popleft() if self._new[0].spec.index < first + self._ahead else None

    def _planned(self, shard: ShardPlan, size: int) -> Iterator[_Portion]:
        """The shard's groups in order, `size` at a time, and the attempts without a place on the way there."""
        dues: list[Due] = []
        rejected: list[Rejected] = []
        for index in range(shard.start, shard.stop):
            due, unplaced = self._draw(index)
            rejected += unplaced
            if due is not None:
                dues.append(due)
            if len(dues) == size:
                yield dues, rejected
                dues, rejected = [], []
        yield dues, rejected

    def _draw(self, index: int, after: int | None = None) -> _Drawn:
        spec, unplaced = plan_group(self._run, index, after)
        return None if spec is None else Due(spec, self._job_of(spec)), unplaced
