"""Which shard goes to which actor next, what a failure means, and which actors' devices can be trusted. Pure
bookkeeping, without Ray.

Kinds of failure:
- mistake: one of the project's own error classes. Not retried: the shard is given up with its message.
- error: any other exception in a shard. Three tries on different actors, then given up.
- overflow: numbers that are not finite. A device's fault, until a second actor agrees: then the shard is given up.
- lost, storage: the actor, its node or the storage failed, not the shard. Back to the queue without end,
  while shards keep being finished; the run ends when too many fail with none finished in between.
- died: the actor ended or hung with the shard in hand, by the shard's doing for all that is known: it is a suspect. It
  is given up after three such deaths while other shards were finished in between: then the shard kills its actors.
  After two with none in between it waits for one of those that are being made.

An actor that fails two shards in a row rests while others live that could make them: if one of them makes a shard that
it failed, its device is at fault and it is retired; where they fail too, the shard is. An actor whose canary image is
not that of most actors with its fingerprint computes otherwise than they do, and is retired too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Cause = Literal["mistake", "error", "overflow", "lost", "storage", "died"]
RESTS_AFTER: Final = 2

_Kind = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run gives up, and how it waits. Times in seconds.

    `tries` per shard, and `deaths` of actors with it in hand; `fruitless` losses or storage failures (at least twice
    the actors) with no shard finished in between end the run; `boot_failures` in a row (at least a quarter of the
    actors) before any actor was ready, too. A shard hangs when its actor shows no new images for `hang_s` or ten
    times the longest such gap seen; an actor that has a place but is not ready after `boot_s` is replaced.
    """

    tries: int = 3
    deaths: int = 3
    fruitless: int = 20
    boot_failures: int = 3
    boot_s: float = 900.0
    hang_s: float = 600.0
    drain_s: float = 60.0
    tick_s: float = 0.5
    pending_warning_s: float = 60.0


@dataclass(slots=True)
class Failures:
    """What went wrong with one shard so far. `finished` shards there were at its last death that counted; `untold` says
    that the last one did not."""

    tries: int = 0
    deaths: int = 0
    finished: int = 0
    untold: bool = False
    actors: set[str] = field(default_factory=set)
    reason: str = ""
    overflowed: bool = False


class Trust:
    """What is known of the actors of one run, by their names."""

    def __init__(self) -> None:
        self._strikes: dict[str, set[int]] = {}
        self._canaries: dict[_Kind, dict[str, list[str]]] = {}

    def strikes(self, actor: str) -> int:
        """Shards that it has failed since it last made one, and that are not known to be at fault."""
        return len(self._strikes.get(actor, ()))

    def rests(self, actor: str) -> bool:
        """Whether it has failed so many in a row that others should have them first."""
        return self.strikes(actor) >= RESTS_AFTER

    def witnesses(self, actor: str, actors: Iterable[str]) -> list[str]:
        """Of these, those that are to be trusted more; none for an actor that has failed nothing."""
        limit = min(self.strikes(actor), RESTS_AFTER)
        return [one for one in actors if self.strikes(one) < limit] if limit else []

    def failed(self, actor: str, shard: int) -> None:
        self._strikes.setdefault(actor, set()).add(shard)

    def given_up(self, shard: int, actors: Iterable[str]) -> None:
        """The shard was at fault."""
        for actor in actors:
            self._strikes.get(actor, set()).discard(shard)

    def made(self, shard: int, actor: str, failed_on: Iterable[str]) -> dict[str, set[int]]:
        """An actor has made what others had failed; those of them that are to be retired, with what they failed."""
        self._strikes.pop(actor, None)
        guilty = [one for one in failed_on if one != actor and self.rests(one)]
        return {one: self._strikes.pop(one) for one in guilty}

    def shows(self, actor: str, fingerprint: Mapping[str, str], canary: str) -> tuple[set[str], set[str]]:
        """Notes an actor's canary image, by its hash; without one nothing is known. The actors that are odd by that
        and were not, and those that are no longer."""
        before = self.odd
        if canary:
            kinds = self._canaries.setdefault(tuple(sorted(fingerprint.items())), {})
            kinds.setdefault(canary, []).append(actor)
        return self.odd - before, before - self.odd

    @property
    def odd(self) -> set[str]:
        """The actors whose canary is another than that of most with their fingerprint; of as many, than the first."""
        found: set[str] = set()
        for canaries in self._canaries.values():
            trusted = max(canaries, key=lambda canary: len(canaries[canary]))
            found.update(one for canary, actors in canaries.items() if canary != trusted for one in actors)
        return found


class ShardSchedule:
    """The queue of shards of one run; `finished` shards were done before it."""

    def __init__(self, todo: Iterable[int], limits: Limits, finished: int = 0) -> None:
        self._queue: deque[int] = deque(todo)
        self._taken: set[int] = set()
        self._finished = finished
        self._limits = limits
        self._failures: dict[int, Failures] = {}
        self._suspects: set[int] = set()
        self._killers = 0
        self.given_up: dict[int, str] = {}
        self.fruitless = 0
        self.trust = Trust()

    def __len__(self) -> int:
        """Shards that wait for an actor."""
        return len(self._queue)

    @property
    def all_failed(self) -> bool:
        """Whether shards wait, and all of them have failed before."""
        return bool(self._queue) and all(shard in self._failures for shard in self._queue)

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

    def take(self, actor: str, actors: Collection[str] = ()) -> int | None:
        """The next shard that has not failed on this actor, or None.

        Of an actor that has failed shards itself, those `actors` come first that can be trusted more: it is no witness
        of what others failed, and rests after the second in a row, while one of them could make it.
        """
        witnesses, rests = self.trust.witnesses(actor, actors), self.trust.rests(actor)
        for position, shard in enumerate(self._queue):
            failures = self._failures.get(shard)
            failed_on = failures.actors if failures is not None else set[str]()
            if (rests or failures is not None) and any(one not in failed_on for one in witnesses):
                if rests and failures is None:
                    return None
                continue
            if actor not in failed_on and not self._waits(failures):
                del self._queue[position]
                self._taken.add(shard)
                return shard
        return None

    def _waits(self, failures: Failures | None) -> bool:
        """Whether a shard's next death would tell nothing either, while one that is being made may soon be finished."""
        untold = failures is not None and failures.untold and failures.finished == self._finished
        return untold and bool(self._taken)

    def stale(self, actors: Collection[str]) -> bool:
        """Whether the idle ones of these, all there are, should make room for fresh ones: every shard that waits
        has failed on each of them."""
        live = set(actors)
        return bool(self._queue) and all(
            shard in self._failures and live <= self._failures[shard].actors for shard in self._queue
        )

    def done(self, shard: int, actor: str) -> list[str]:
        """Notes that an actor has made a shard; the actors that are to be retired, which had failed it among others."""
        failures = self._failures.pop(shard, None)
        guilty = self.trust.made(shard, actor, failures.actors if failures is not None else ())
        for theirs in guilty.values():
            for other in theirs & self._failures.keys():
                self._failures[other].tries -= 1
        self._suspects.discard(shard)
        self._taken.discard(shard)
        self._finished += 1
        self.fruitless = 0
        return list(guilty)

    def failed(self, shard: int, actor: str, cause: Cause, reason: str) -> bool:
        """Notes a failure; True if the shard went back to the queue, False if it is given up."""
        self._taken.discard(shard)
        failures = self._failures.setdefault(shard, Failures())
        failures.reason = reason
        if cause in ("lost", "storage", "died"):
            self.fruitless += 1
            if cause == "died" and self._deaths(shard, failures) >= self._limits.deaths:
                last = f"{failures.deaths} actors ended while they made it; the last: {reason}"
                return self._give_up(shard, last)
            return self._back(shard)
        agreed = cause == "overflow" and failures.overflowed
        failures.overflowed = failures.overflowed or cause == "overflow"
        failures.tries += 1
        failures.actors.add(actor)
        if cause == "mistake" or agreed or failures.tries >= self._limits.tries:
            self.trust.given_up(shard, failures.actors)
            return self._give_up(shard, reason)
        self.trust.failed(actor, shard)
        return self._back(shard, first=self.trust.rests(actor))

    def _deaths(self, shard: int, failures: Failures) -> int:
        """Deaths of actors with this shard in hand, with the one that has just been.

        A death counts if shards were finished since the last one that counted, or if only suspects are left and
        no fewer shards than these are finished: where every actor dies, no shard is to blame.
        """
        failures.untold = failures.deaths > 0 and self._finished == failures.finished and not self._only_suspects_left()
        if not failures.untold:
            failures.deaths += 1
            failures.finished = self._finished
            self._suspects.add(shard)
        return failures.deaths

    def _back(self, shard: int, *, first: bool = False) -> bool:
        """To the end of the queue, or to its head: an actor rests until it is known whose fault the failure was."""
        if first:
            self._queue.appendleft(shard)
        else:
            self._queue.append(shard)
        return True

    def _give_up(self, shard: int, reason: str) -> bool:
        self.given_up[shard] = reason
        self._killers += shard in self._suspects
        self._suspects.discard(shard)
        return False

    def _only_suspects_left(self) -> bool:
        """Asked of a suspect that has just failed: all others wait or are being made, or are given up."""
        left = len(self._queue) + len(self._taken)
        return self._finished >= len(self._suspects) + self._killers and len(self._suspects) == left + 1

    def exhausted(self, actors: int) -> bool:
        """Whether infrastructure failed too often with no shard finished in between."""
        return self.fruitless >= max(self._limits.fruitless, 2 * actors)
