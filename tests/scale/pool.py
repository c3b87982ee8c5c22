"""Actors that nobody runs: a simulation of discrete events in virtual time behind the driver's own pool.

What the simulation itself takes is counted in `own_s` (seconds by the clock), to be taken from the run's.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tests.scale.store import MarkStore
from tests.scale.world import Chances, World
from xreal_synth.engine.pool import Call, Failed, Heard, Member, Pool, Ready, actor_id
from xreal_synth.engine.schedule import Cause
from xreal_synth.run.resources import ActorShape, Resources
from xreal_synth.types import ShardRecord

What = Literal["ready", "settled", "rendered", "raised", "published", "dies", "gone", "node-goes", "node-comes"]

_PAUSE_PER_ACTOR_S = 5e-5
_LONGEST_PAUSE_S = 0.25
"""As RayPool waits for more answers after the first."""

FINGERPRINT = {"device": "simulated", "micro_batch": "8"}


@dataclass(slots=True, eq=False)
class Node:
    """A node with places for so many actors; `up` until it goes. `sick` are what its free sick cards do."""

    name: str
    places: int
    sick: list[Cause] = field(default_factory=list)
    up: bool = True
    members: dict[str, SimulatedMember] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class SimulatedMember(Member):
    """`free_at` is since when it could make a shard, `dead_at` when it ended, None while it lives."""

    place: Node | None = None
    sick: Cause | None = None
    first: bool = False
    free_at: float = 0.0
    dead_at: float | None = None
    hangs: bool = False
    render_s: float = 0.0
    written_at: float = 0.0
    publishing_s: float = 0.0


@dataclass(slots=True)
class Spent:
    """Virtual seconds of actors, by what they went into.

    `useful` ended in a record. `idle` while shards waited: the driver had not come to them. `blocked` by the shard
    before, not published yet. `wasted` on shards that were lost. `start` loading models at the beginning, `tail`
    with nothing left to make.
    """

    useful: float = 0.0
    idle: float = 0.0
    blocked: float = 0.0
    wasted: float = 0.0
    start: float = 0.0
    tail: float = 0.0


class OwnTime:
    """Adds up seconds within `with` blocks, of which some are inside others."""

    def __init__(self) -> None:
        self.seconds = self._began = 0.0
        self._depth = 0

    def __enter__(self) -> None:
        if not self._depth:
            self._began = time.perf_counter()
        self._depth += 1

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if not self._depth:
            self.seconds += time.perf_counter() - self._began


class SimulatedPool(Pool[SimulatedMember]):
    """A cluster as `world` says. `template` is any shard's record."""

    def __init__(self, world: World, shards: int, store: MarkStore, template: ShardRecord) -> None:
        self.now = 0.0
        super().__init__(lambda: self.now)
        self._world, self._store, self._template = world, store, template
        self._chances = Chances(world)
        self._events: list[tuple[float, int, What, SimulatedMember | Node]] = []
        self._order = itertools.count()
        bad = self._chances.some(world.poison + world.killers, shards)
        self._poison, self._killers = frozenset(bad[: world.poison]), frozenset(bad[world.poison :])
        self._unplaced: deque[SimulatedMember] = deque()
        self._roomy: list[Node] = []
        self._nodes_born = 0
        self._places = self._nodes = 0
        self._own = OwnTime()
        self.happened: Counter[What | str] = Counter()
        self.spent = Spent()
        self.answers = self.waits = 0
        kinds: dict[Cause, int] = {"error": world.failing, "overflow": world.overflowing}
        sick = [kind for kind, count in kinds.items() for _ in range(count)]
        nodes = range(0, world.actors, world.per_node)
        struck = dict(zip(self._chances.some(len(sick), len(nodes)) if sick else (), sick, strict=True))
        for number, first in enumerate(nodes):
            cards = [struck[number]] if number in struck else []
            self._node_comes(min(world.per_node, world.actors - first), cards)

    @property
    def own_s(self) -> float:
        return self._own.seconds

    def resources(self) -> Resources:
        """What the nodes alive have."""
        return Resources(cpus=self._places, gpus=self._places, nodes=self._nodes, grows=True)

    def wait(self, timeout_s: float) -> list[Heard]:
        with self._own:
            self.waits += 1
            heard: list[Heard] = []
            until, reported = self.now + timeout_s, 0
            while self._events and self._events[0][0] <= until:
                at, _, what, whom = heapq.heappop(self._events)
                self.now = max(self.now, at)
                if self._happens(at, what, whom, heard):
                    reported += 1
                    if reported == 1:
                        pause = min(_PAUSE_PER_ACTOR_S * len(self), _LONGEST_PAUSE_S)
                        until = self.now + pause
            self.now = max(self.now, until) + reported * self._world.answer_s
            self.answers += reported
            return heard

    def hung(self, limit_s: float) -> list[tuple[SimulatedMember, Failed]]:
        """Heartbeats come from all that do not hang."""
        with self._own:
            for member in self.in_state("working"):
                if not member.hangs and member.dead_at is None:
                    member.changed_at = self.now
        found = super().hung(limit_s)
        self.happened["hung"] += len(found)
        return found

    def retire(self, member: Member) -> None:
        self.happened["retired"] += 1
        super().retire(member)

    def _launch(self, name: str, shape: ActorShape) -> SimulatedMember:
        with self._own:
            member = SimulatedMember(name, self.now, first=self._born < self._world.actors)
            self._unplaced.append(member)
            self._place()
            return member

    def _call(self, member: SimulatedMember, method: Call, *arguments: Any) -> None:
        if method == "settle":
            self._later(self._world.search_s if arguments[0] is None else 1.0, "settled", member)
            return
        assert method == "shard", "simulated shards leave no groups"
        shard = arguments[0]
        with self._own:
            self.spent.idle += self.now - member.free_at
            member.images = self._template.samples / 2
            member.render_s = seconds = self._chances.shard_s()
            if member.dead_at is not None:
                return
            if member.sick is not None:
                world = self._world
                self._later(world.failing_s if member.sick == "error" else world.overflow_s, "raised", member)
            elif shard in self._poison:
                self._later(0.3 * seconds, "raised", member)
            elif shard in self._killers:
                self._later(0.5 * seconds, "dies", member)
            elif self._chances.happens(self._world.hangs):
                member.hangs = True
            else:
                blocked = max(member.written_at - self.now - seconds, 0.0)
                self.spent.blocked += blocked
                self._later(seconds + blocked, "rendered", member)

    def _kill(self, member: SimulatedMember) -> None:
        with self._own:
            ended = self.now if member.dead_at is None else member.dead_at
            if member.shard is not None:
                self.spent.wasted += max(ended - member.since, 0.0)
            elif member.state == "idle":
                self.spent.tail += max(ended - member.free_at, 0.0)
            if member.publishing:
                self.spent.wasted += member.publishing_s
            member.dead_at = ended
            node, member.place = member.place, None
            if node is not None:
                node.members.pop(member.name, None)
                node.sick += [] if member.sick is None else [member.sick]
                if node.up:
                    self._roomy.append(node)
                    self._place()

    def _happens(self, at: float, what: What, whom: SimulatedMember | Node, heard: list[Heard]) -> bool:
        """Lets an event happen that was due `at`; whether the driver hears of it."""
        if isinstance(whom, Node):
            if what == "node-goes":
                self._node_goes(at, whom)
            else:
                self._node_comes(whom.places)
            return False
        if whom.name not in self.members or (whom.dead_at is not None and what != "gone"):
            return False
        if what == "dies":
            self.happened["died"] += 1
            whom.dead_at = at
            self._later(self._world.death_seen_s, "gone", whom)
            return False
        self.happened[what] += 1
        if what in ("ready", "settled"):
            heard.append(self._ready(whom, at, settled=what == "settled" or not self._world.search_s))
        elif what == "rendered":
            self._is_rendered(whom, at)
        elif what == "published":
            heard.append(self._is_published(whom))
        elif what == "raised":
            heard.append(self._raised(whom, at))
        else:
            heard += self._gone(whom)
        return True

    def _ready(self, member: SimulatedMember, at: float, *, settled: bool) -> Heard:
        if not settled:
            self._answered(member)
            return Heard(member, None, Ready(member.node, 1, {}, settled=False))
        if member.first:
            self.spent.start += at - member.since
        self._answered(member)
        member.free_at = at
        return Heard(member, None, Ready(member.node, 1, FINGERPRINT))

    def _is_rendered(self, member: SimulatedMember, at: float) -> None:
        self._rendered(member, self._template.samples)
        member.free_at, member.publishing_s = at, member.render_s
        seconds = self._chances.about_s(self._world.publish_s)
        member.written_at = at + seconds
        self._at(member.written_at, "published", member)

    def _is_published(self, member: SimulatedMember) -> Heard:
        shard = next(iter(member.publishing))
        self._published(member, shard)
        if self._chances.happens(self._world.storage_errors):
            self.happened["storage"] += 1
            self.spent.wasted += member.publishing_s
            return Heard(member, shard, Failed("storage", "the storage did not take it"))
        if self._store.has(shard):
            self.spent.wasted += member.publishing_s
        else:
            self.spent.useful += member.publishing_s
        self._store.published(shard)
        record = replace(
            self._template, shard=shard, start=shard, stop=shard + 1, actor=actor_id(member.name, member.node, 1),
            timings={"make_s": round(member.publishing_s, 3)},
        )  # fmt: skip
        return Heard(member, shard, record)

    def _raised(self, member: SimulatedMember, at: float) -> Heard:
        shard = member.shard
        self.spent.wasted += at - member.since
        self._answered(member)
        member.free_at = at
        if member.sick is not None:
            return Heard(member, shard, Failed(member.sick, "the card is sick"))
        return Heard(member, shard, Failed("error", f"shard {shard} is poison"))

    def _gone(self, member: SimulatedMember) -> list[Heard]:
        node = member.place
        outside = node is not None and not node.up
        self.end(member)
        reason = "the node has died" if outside else "the actor's process has died"
        return self.losses(member, Failed("lost" if outside else "died", reason, gone=True))

    def _node_comes(self, places: int, sick: list[Cause] | None = None) -> None:
        node = Node(f"n{self._nodes_born}", places, sick=sick or [])
        self._nodes_born += 1
        self._nodes += 1
        self._places += places
        self._roomy += [node] * places
        self._later(self._chances.after_s(self._world.node_losses), "node-goes", node)
        self._place()

    def _node_goes(self, at: float, node: Node) -> None:
        self.happened["node-goes"] += 1
        node.up = False
        self._nodes -= 1
        self._places -= node.places
        for member in node.members.values():
            if member.dead_at is None:
                member.dead_at = at
                self._later(self._world.node_seen_s, "gone", member)
        self._later(self._chances.about_s(self._world.node_back_s), "node-comes", node)

    def _place(self) -> None:
        """Puts waiting actors onto nodes with room."""
        while self._unplaced and self._roomy:
            node = self._roomy.pop()
            if not node.up:
                continue
            member = self._unplaced.popleft()
            if member.dead_at is not None:
                self._roomy.append(node)
                continue
            node.members[member.name] = member
            member.sick = node.sick.pop() if node.sick else None
            member.place, member.node, member.placed_at = node, node.name, self.now
            self._later(self._chances.about_s(self._world.boot_s), "ready", member)
            self._later(self._chances.after_s(self._world.deaths), "dies", member)

    def _later(self, seconds: float, what: What, whom: SimulatedMember | Node) -> None:
        self._at(self.now + seconds, what, whom)

    def _at(self, at: float, what: What, whom: SimulatedMember | Node) -> None:
        if at < float("inf"):
            heapq.heappush(self._events, (at, next(self._order), what, whom))
