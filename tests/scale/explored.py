"""Every order of events that a few actors and shards can have, against the driver's own loop, schedule and pool.

A model of the actors of ray_actor.py without images and time: whenever the driver waits, one of the things that can
happen next happens, and all of them are tried. States that were seen before are not gone on from.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tests.scale.dataset import simulated_run
from tests.scale.pool import FINGERPRINT
from tests.scale.run import record_template
from tests.scale.store import MarkStore
from xreal_synth.engine.account import Account
from xreal_synth.engine.driver import Driver
from xreal_synth.engine.ledger import Ledger, Totals
from xreal_synth.engine.pool import Call, Failed, Heard, Member, Pool, Ready, actor_id
from xreal_synth.engine.progress import RunSummary
from xreal_synth.engine.schedule import Limits
from xreal_synth.run.resources import ActorShape, Resources
from xreal_synth.run.setup import Run
from xreal_synth.types import ShardRecord

LIMITS = Limits(tick_s=1.0, fruitless=12)
WAITING = 2
"""As ray_actor.WAITING, of which so few shards need no more."""

Happening = Callable[[], list[Heard]]


@dataclass(frozen=True, slots=True)
class Troubles:
    """`killers` are shards that end every actor that makes them, `poison` raises in all. A `sick` first actor raises
    whatever it makes. Actors end by themselves `deaths` times, another run makes `others` shards, the storage refuses
    `refusals`, and the run is asked to stop, at any moment."""

    killers: frozenset[int] = frozenset()
    poison: frozenset[int] = frozenset()
    sick: bool = False
    deaths: int = 0
    others: int = 0
    refusals: int = 0
    stop: bool = False


@dataclass(slots=True, eq=False)
class ModelActor(Member):
    """`asked` is the call at work. Groups of the shards in `left` are undecided, those in `written` are on their way to
    their place, or have failed."""

    asked: tuple[Call, Any] | None = None
    left: tuple[int, ...] = ()
    written: tuple[tuple[int, Failed | None], ...] = ()


class KnownError(Exception):
    """The state has been reached in another order."""


@dataclass(slots=True)
class Explorer:
    """Paths still to be tried, as numbers of what happened at each turn, and the states that were seen."""

    waiting: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    seen: set[object] = field(default_factory=set)

    def paths(self) -> Iterator[tuple[int, ...]]:
        while self.waiting:
            yield self.waiting.pop()

    def turn(self, path: tuple[int, ...], state: object, choices: int) -> int:
        """The first choice, in a state that is new; the others are left to be tried. Raises KnownError."""
        if state in self.seen:
            raise KnownError
        self.seen.add(state)
        self.waiting += [(*path, other) for other in range(1, choices)]
        return 0


class ModelPool(Pool[ModelActor]):
    """`path` is what has happened, begun with what is to happen first."""

    driver: Driver

    def __init__(self, explorer: Explorer, path: tuple[int, ...], troubles: Troubles, run: Run) -> None:
        self.now = 0.0
        super().__init__(lambda: self.now)
        self._explorer, self._given, self.troubles = explorer, path, troubles
        self.path: tuple[int, ...] = ()
        self.store = MarkStore(run.recipe.name, run.plan.shard_count)
        self._template = record_template(run.digest)
        self.shards = range(run.plan.shard_count)
        self.story: list[str] = []
        self.ended = self._quiet = 0
        self.cut_off: tuple[str, ...] = ()

    def wait(self, timeout_s: float) -> list[Heard]:
        self.now += timeout_s
        can = dict(self._can_happen())
        if not can:
            self._quiet += 1
            assert self._quiet < 3, f"all wait for each other: {self.story}"
            return []
        self._quiet = 0
        turn = len(self.path)
        number = (
            self._given[turn] if turn < len(self._given) else self._explorer.turn(self.path, self._state(), len(can))
        )
        self.path += (number,)
        what = list(can)[number]
        self.story.append(what)
        return can[what]()

    def _launch(self, name: str, shape: ActorShape) -> ModelActor:
        return ModelActor(name, self.now, asked=("ready", None), node=name, placed_at=self.now)

    def _call(self, member: ModelActor, method: Call, *arguments: Any) -> None:
        assert member.asked is None, f"{member.name} is at {member.asked}"
        others = [one for one in self.members.values() if one is not member]
        hands = {shard for one in others for shard in (one.shard, *one.publishing)}
        assert method != "shard" or arguments[0] not in hands, f"two make shard {arguments[0]}: {self.story}"
        member.asked = (method, arguments)

    def _kill(self, member: ModelActor) -> None:
        if self.driver.stop.is_set() and (member.shard is not None or member.publishing):
            self.cut_off += (member.name,)
        member.asked, member.left, member.written = None, (), ()

    def _can_happen(self) -> Iterator[tuple[str, Happening]]:
        for member in list(self.members.values()):
            for what, happens in self._of(member):
                yield f"{member.name} {what}", happens
        if self.troubles.stop and not self.driver.stop.is_set():
            yield "stop", self._stops
        if self.troubles.others:
            for shard in self.shards:
                if not self.store.has(shard):
                    yield f"another run makes {shard}", partial(self._made_by_others, shard)

    def _of(self, member: ModelActor) -> Iterator[tuple[str, Happening]]:
        if member.written:
            shard, failed = member.written[0]
            yield f"{'gives up' if failed else 'publishes'} {shard}", lambda: self._is_published(member, failed)
            if self.troubles.refusals and failed is None:
                yield f"could not publish {shard}", lambda: self._is_refused(member)
        if self.troubles.deaths:
            yield "ended", lambda: self._ends(member, by_itself=True)
        if member.asked is None:
            return
        method, arguments = member.asked
        if method == "ready":
            yield "is up", lambda: self._answers(member, Ready(member.node, 1, FINGERPRINT))
        elif method == "finish":
            yield from self._decides(member, (), None)
        elif self.store.has(arguments[0]):
            yield f"finds {arguments[0]} made", lambda: self._answers(member, self._record(member, arguments[0]))
        else:
            shard, _, _, alone = arguments
            for most in range(0 if alone else WAITING, -1, -1):
                left = (*member.left, shard)[-most:] if most else ()
                if most == len(left):
                    yield from self._decides(member, left, shard)

    def _decides(self, member: ModelActor, left: tuple[int, ...], shard: int | None) -> Iterator[tuple[str, Happening]]:
        """The call at work ends with these shards' groups `left`, unless one of the others cannot be made."""
        at_work = tuple(one for one in (*member.left, shard) if one is not None)
        through = tuple(one for one in at_work if one not in left)
        sick = self.troubles.sick and member.name == "a0"
        if not sick and (self.troubles.killers | self.troubles.poison).isdisjoint(through):
            yield f"makes {shard}, left {left}", lambda: self._is_made(member, left, through)
        if left:
            return
        if not self.troubles.killers.isdisjoint(at_work):
            yield f"ended at {shard}", lambda: self._ends(member)
        if sick or not self.troubles.poison.isdisjoint(at_work):
            yield f"raises at {shard}", lambda: self._raises(member, at_work)

    def _is_made(self, member: ModelActor, left: tuple[int, ...], through: tuple[int, ...]) -> list[Heard]:
        member.left, member.written = left, (*member.written, *((shard, None) for shard in through))
        shard, member.asked = member.shard, None
        if shard is None:
            self._answered(member)
        else:
            self._rendered(member, 1.0, open_=bool(left))
        return []

    def _raises(self, member: ModelActor, at_work: tuple[int, ...]) -> list[Heard]:
        """As Generator._failed has it: nobody knows whose failure it is where several are at work."""
        failed = Failed("lost" if len(at_work) > 1 else "error", f"raised at {at_work}")
        others = tuple((shard, failed) for shard in member.left)
        member.left, member.written = (), (*member.written, *others)
        if member.shard is not None:
            return self._answers(member, failed)
        member.asked = None
        self._answered(member)
        return []

    def _answers(self, member: ModelActor, outcome: Any) -> list[Heard]:
        shard, member.asked = member.shard, None
        self._answered(member, open_=member.open and isinstance(outcome, ShardRecord))  # as RayPool takes it
        return [Heard(member, shard, outcome)]

    def _is_published(self, member: ModelActor, failed: Failed | None) -> list[Heard]:
        (shard, _), *rest = member.written
        member.written = tuple(rest)
        self._published(member, shard)
        if failed is None:
            self.store.published(shard)
        return [Heard(member, shard, failed or self._record(member, shard))]

    def _is_refused(self, member: ModelActor) -> list[Heard]:
        self.troubles = replace(self.troubles, refusals=self.troubles.refusals - 1)
        return self._is_published(member, Failed("storage", "the storage did not take it"))

    def _ends(self, member: ModelActor, *, by_itself: bool = False) -> list[Heard]:
        if by_itself:
            self.troubles = replace(self.troubles, deaths=self.troubles.deaths - 1)
        self.ended += 1
        cut_off = self.cut_off
        self.end(member)
        self.cut_off = cut_off
        if member.state == "booting":
            return [Heard(member, None, Failed("lost", "the node went", gone=True))]
        return self.losses(member, Failed("died", "the actor ended", gone=True))

    def _stops(self) -> list[Heard]:
        self.driver.stop.set()
        return []

    def _made_by_others(self, shard: int) -> list[Heard]:
        self.troubles = replace(self.troubles, others=self.troubles.others - 1)
        self.store.published(shard)
        return []

    def _record(self, member: ModelActor, shard: int) -> Any:
        maker = actor_id(member.name, member.node, 1)
        return replace(self._template, shard=shard, start=shard, stop=shard + 1, actor=maker)

    def _state(self) -> object:
        """All that what comes can depend on. Names of actors do not count, but their order does."""
        schedule = self.driver.schedule
        members = [
            (one.state, one.shard, str(one.asked), one.left, one.written, one.open, schedule.trust.strikes(one.name),
             self.troubles.sick and one.name == "a0")
            for one in self.members.values()
        ]  # fmt: skip
        failures = [
            (shard, one.tries, one.deaths, one.finished, one.untold, bool(one.reason),
             tuple(name in one.actors for name in self.members), len(one.actors))
            for shard, one in sorted(schedule._failures.items())
        ]  # fmt: skip
        return (
            tuple(members), tuple(failures), schedule.waiting, frozenset(schedule._taken), schedule.fruitless,
            frozenset(schedule.given_up), schedule._finished, self.troubles, self.driver.begun,
            tuple(map(self.store.has, self.shards)), self.driver.boot_failures, self.driver.stop.is_set(),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Explored:
    """How many states there are, and of the ways to an end: the most actors that ended in one."""

    states: int
    ends: int
    most_ended: int


def explore(actors: int, shards: int, troubles: Troubles) -> Explored:
    """Tries all there is. Raises AssertionError, with what had happened, where the driver waits for nobody, gives a
    shard to two actors at once, or ends without having made what can be made."""
    run, explorer = simulated_run(shards), Explorer()
    ends = most_ended = 0
    for path in explorer.paths():
        pool = ModelPool(explorer, path, troubles, run)
        try:
            summary = _driven(pool, actors, run)
        except KnownError:
            continue
        ends, most_ended = ends + 1, max(most_ended, pool.ended)
        made = {shard for shard in pool.shards if pool.store.has(shard)}
        if pool.driver.stop.is_set():
            assert summary.exit_code == 75 or set(pool.shards) - made == set(summary.quarantined), pool.story
            assert not pool.cut_off, f"{pool.cut_off} had something in hand: {pool.story}"
            continue
        bad = troubles.killers | troubles.poison
        assert made >= set(pool.shards) - bad, f"not made: {set(pool.shards) - made}: {pool.story}"
        assert summary.exit_code == (0 if len(made) == shards else 3), pool.story
        assert troubles.poison <= set(summary.quarantined) <= bad, pool.story
    return Explored(len(explorer.seen), ends, most_ended)


def _driven(pool: ModelPool, actors: int, run: Run) -> RunSummary:
    def heard(event: object) -> None:
        """Nobody listens."""

    store: Any = pool.store
    account = Account(run, store, Totals(), heard, pool.clock, merge=lambda *found, **asked: None)
    shape = ActorShape("cuda", "auto", 8, 1.0, 1.0, actors)
    resources = Resources(cpus=actors, gpus=actors, nodes=actors, grows=True)
    ledger = Ledger(tuple(pool.shards), frozenset(), Totals())
    pool.driver = Driver(account, ledger, pool, shape, lambda: resources, LIMITS, threading.Event(), pool.clock)
    return pool.driver.run()
