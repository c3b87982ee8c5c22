"""Which shard goes to which actor next, and what a failure means. Pure bookkeeping, without Ray.

Three kinds of failure:
- mistake: one of the project's own error classes. Not retried: the shard is given up with its message.
- error: any other exception in a shard. Three tries on different actors, then given up.
- lost, storage: the actor, its node or the storage failed, not the shard. Back to the queue without end,
  while shards keep being finished; the run ends when too many fail with none finished in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

Cause = Literal["mistake", "error", "lost", "storage"]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run gives up, and how it waits. Times in seconds.

    `tries` per shard; `fruitless` losses or storage failures (at least twice the actors) with no shard
    finished in between end the run; `boot_failures` in a row before any actor was ready, too. A shard
    hangs when its actor shows no new films for `hang_s` or ten times the longest such gap seen.
    """

    tries: int = 3
    fruitless: int = 20
    boot_failures: int = 3
    hang_s: float = 600.0
    drain_s: float = 60.0
    tick_s: float = 0.5
    pending_warning_s: float = 60.0


@dataclass(slots=True)
class Failures:
    """What went wrong with one shard so far."""

    tries: int = 0
    actors: set[str] = field(default_factory=set)
    reason: str = ""


class Schedule:
    """The queue of shards of one run."""

    def __init__(self, todo: Iterable[int], limits: Limits) -> None:
        self._queue: deque[int] = deque(todo)
        self._limits = limits
        self._failures: dict[int, Failures] = {}
        self.given_up: dict[int, str] = {}
        self.fruitless = 0

    def __len__(self) -> int:
        """Shards that wait for an actor."""
        return len(self._queue)

    @property
    def waiting(self) -> tuple[int, ...]:
        return tuple(self._queue)

    def reason(self, shard: int) -> str:
        """The last failure of this shard; an empty string if it never failed."""
        failures = self._failures.get(shard)
        return failures.reason if failures else ""

    def tries(self, shard: int) -> int:
        """How often this shard itself has failed."""
        failures = self._failures.get(shard)
        return failures.tries if failures else 0

    def take(self, actor: str) -> int | None:
        """The next shard that has not failed on this actor, or None."""
        for position, shard in enumerate(self._queue):
            failures = self._failures.get(shard)
            if failures is None or actor not in failures.actors:
                del self._queue[position]
                return shard
        return None

    def stale(self, actor: str, others: Collection[str]) -> bool:
        """Whether this idle actor should make room for a fresh one: every shard that waits has failed on
        it, and on all `others` as well."""
        if not self._queue:
            return False
        live = {actor, *others}
        return all(shard in self._failures and live <= self._failures[shard].actors for shard in self._queue)

    def done(self, shard: int) -> None:
        self._failures.pop(shard, None)
        self.fruitless = 0

    def failed(self, shard: int, actor: str, cause: Cause, reason: str) -> bool:
        """Notes a failure; True if the shard went back to the queue, False if it is given up."""
        failures = self._failures.setdefault(shard, Failures())
        failures.reason = reason
        if cause in ("lost", "storage"):
            self.fruitless += 1
        else:
            failures.tries += 1
            failures.actors.add(actor)
        if cause == "mistake" or failures.tries >= self._limits.tries:
            self.given_up[shard] = reason
            return False
        self._queue.append(shard)
        return True

    def exhausted(self, actors: int) -> bool:
        """Whether infrastructure failed too often with no shard finished in between."""
        return self.fruitless >= max(self._limits.fruitless, 2 * actors)
