"""The actors of a run, as the driver sees them: started, given shards, listened to, ended. No Ray here.

An actor renders one shard at a time; those before may still have groups that share its micro-batches, or be written
to their place meanwhile. What is bound to an engine (Ray, or a simulation) is left to subclasses; all costs per call
here are independent of the number of actors, but for the looks that a driver takes twice a second at most.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeVar, get_args

from xreal_synth.engine.micro_batch import Trial
from xreal_synth.engine.schedule import Cause
from xreal_synth.run.resources import ActorShape
from xreal_synth.types import ShardRecord

Clock = Callable[[], float]
"""Seconds since some moment; a simulation has its own."""

State = Literal["booting", "idle", "working", "retired"]
Call = Literal["ready", "settle", "shard", "finish"]


@dataclass(frozen=True, slots=True)
class Ready:
    """An actor that can make shards. `trials` are those by which it found the micro-batch, if it did; `canary` is the
    hash of the image that all actors make first, if it made one. One that is not `settled` has loaded its models and
    waits for the micro-batch."""

    node: str
    pid: int
    fingerprint: dict[str, str]
    trials: tuple[Trial, ...] = ()
    canary: str = ""
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Failed:
    """A failure as the driver hears of it; causes are the schedule's. `spoiled` means that the actor must be replaced,
    `gone` that it has ended: it is "lost" where its shard had no part in that (the node went, was preempted or cannot
    be reached), else "died"."""

    cause: Cause
    reason: str
    trace: str = ""
    spoiled: bool = False
    gone: bool = False


@dataclass(slots=True, eq=False)
class Member:
    """One actor. `node` is empty until it has a place, where it came up at `placed_at`; `images` and
    `changed_at` tell a slow shard from one that hangs. `publishing` are the shards that it has rendered before and not
    yet published, with their images; `open` says that some have groups left, which wait for its next shard, and
    `writing` that one is being written while it works."""

    name: str
    since: float
    state: State = "booting"
    shard: int | None = None
    images: float = 0
    changed_at: float = 0.0
    publishing: dict[int, float] = field(default_factory=dict)
    published_at: float = 0.0
    open: bool = False
    writing: bool = False
    placed_at: float = 0.0
    node: str = ""


def actor_id(name: str, host: str, pid: int) -> str:
    """How a record names the actor that made it: its machine by a hash, since records go out with a dataset."""
    return f"{name}@{hashlib.sha256(host.encode()).hexdigest()[:8]}:{pid}"


M = TypeVar("M", bound=Member)


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back: of the shard, or of the actor's start where there is none."""

    member: Member
    shard: int | None
    outcome: Ready | ShardRecord | Failed


class Pool(ABC, Generic[M]):
    """Actors by name."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.members: dict[str, M] = {}
        self.longest_gap_s = 0.0
        self._born = 0
        self._by_state: dict[State, dict[str, M]] = {state: {} for state in get_args(State)}
        self._publishing: dict[str, M] = {}
        self.held: dict[str, M] = {}

    @abstractmethod
    def wait(self, timeout_s: float) -> list[Heard]:
        """What has come back by then. An actor that is lost is gone afterwards; one that has rendered its shard
        is idle, whether its shards are published yet or not."""

    @abstractmethod
    def _launch(self, name: str, shape: ActorShape) -> M:
        """Asks for an actor."""

    @abstractmethod
    def _call(self, member: M, method: Call, *arguments: Any) -> None:
        """Asks an actor for something, whose answer `wait` tells: of `ray_actor.Generator`, the method of that name."""

    @abstractmethod
    def _kill(self, member: M) -> None:
        """Ends an actor, alive or not: one that seemed unavailable may still be working."""

    def __len__(self) -> int:
        return len(self.members)

    @property
    def busy(self) -> bool:
        """Whether any shard is in flight."""
        return bool(self._by_state["working"] or self._publishing)

    def count(self, state: State) -> int:
        return len(self._by_state[state])

    @property
    def states(self) -> dict[str, int]:
        """How many actors are in each state; retired ones where there are some."""
        return {state: len(members) for state, members in self._by_state.items() if members or state != "retired"}

    @property
    def active(self) -> list[str]:
        """The names of those that are given shards."""
        return [name for name, member in self.members.items() if member.state != "retired"]

    def in_state(self, state: State) -> list[M]:
        return list(self._by_state[state].values())

    def in_flight(self) -> list[tuple[int, float]]:
        """The shards being rendered and published, each with the images made in it so far."""
        working = [(m.shard, m.images) for m in self.in_state("working") if m.shard is not None]
        return working + [each for m in self._publishing.values() for each in m.publishing.items()]

    def start(self, shape: ActorShape) -> M:
        """Asks for one more actor."""
        member = self._launch(f"a{self._born}", shape)
        self._born += 1
        self.members[member.name] = self._by_state["booting"][member.name] = member
        return member

    def assign(self, member: M, shard: int, attempt: int, *, replacing: bool, alone: bool) -> None:
        """Gives an idle actor a shard; `alone` it shares no micro-batch with others."""
        self._begin(member, shard)
        self._call(member, "shard", shard, attempt, replacing, alone)

    def hold(self, member: Member) -> None:
        """An actor that has loaded waits for the micro-batch: it is in `held`."""
        self._move(self.members[member.name], "booting")
        self.held[member.name] = self.members[member.name]

    def settle(self, member: M, micro_batch: int | None) -> None:
        """Tells a held actor the micro-batch, or to find it; it is ready when it answers."""
        del self.held[member.name]
        self._call(member, "settle", micro_batch)

    def finish(self, member: M) -> None:
        """Has an idle actor decide the groups that it has left: there is no next shard for it."""
        self._begin(member, None)
        self._call(member, "finish")

    def end(self, member: M) -> None:
        """Ends an actor; what it had in hand stays noted in it."""
        if self.members.pop(member.name, None) is not None:
            del self._by_state[member.state][member.name]
            self._publishing.pop(member.name, None)
            self.held.pop(member.name, None)
            self._kill(member)

    def end_all(self, members: Iterable[M] | None = None) -> None:
        for member in list(self.members.values() if members is None else members):
            self.end(member)

    def retire(self, member: Member) -> None:
        """An idle actor gets no more shards, and keeps its device, so that no other comes to it."""
        assert member.state == "idle", f"{member.name} is {member.state}"
        self._move(self.members[member.name], "retired")

    def restore(self, member: Member) -> None:
        """A retired actor gets shards again."""
        self._move(self.members[member.name], "idle")

    def losses(self, member: Member, lost: Failed) -> list[Heard]:
        """What an actor's end means for the shards that it had: the one it was rendering is to blame, if one is, or the
        only one. The others are made alone then, which tells."""
        published = list(member.publishing)
        if member.shard is None and len(published) <= 1:
            return [Heard(member, published[0] if published else None, lost)]
        others = replace(lost, cause="lost", reason=f"{lost.reason} (it was not published yet)")
        rendering = [] if member.shard is None else [Heard(member, member.shard, lost)]
        return rendering + [Heard(member, shard, others) for shard in published]

    def hung(self, limit_s: float) -> list[tuple[M, Failed]]:
        """Members that show no new image for `limit_s`, or ten times the longest gap seen: of their shard, or of those
        that they are to publish."""
        limit, now = max(limit_s, 10 * self.longest_gap_s), self.clock()
        found: list[tuple[M, Failed]] = []
        for m in self._publishing.values():
            rendering = m.state == "working" and not m.writing  # what is not published waits for its verdicts
            if not rendering and now - max(m.published_at, m.changed_at) > limit:
                reason = f"files not written for {now - m.published_at:.0f} s"
                found.append((m, Failed("lost", reason, gone=True)))
        stuck = [m for m, _ in found]
        for m in self.in_state("working"):
            if m not in stuck and now - m.changed_at > limit:
                found.append((m, Failed("died", f"no new image for {now - m.changed_at:.0f} s", gone=True)))
        return found

    def unready(self, limit_s: float) -> list[M]:
        """Members that have had a place for `limit_s` and are not ready."""
        now = self.clock()
        return [m for m in self.in_state("booting") if m.node and now - m.placed_at > limit_s]

    def _begin(self, member: M, shard: int | None) -> None:
        assert member.state == "idle", f"{member.name} is {member.state}"
        self._move(member, "working")
        member.shard, member.images, member.writing = shard, 0, False
        member.since = member.changed_at = self.clock()

    def _move(self, member: M, state: State) -> None:
        del self._by_state[member.state][member.name]
        member.state = state
        self._by_state[state][member.name] = member

    def _answered(self, member: M, *, open_: bool = False) -> None:
        """The member is ready for a shard: its start, or its rendering, has come back; `open_` says that groups are
        left."""
        self._move(member, "idle")
        member.shard, member.open = None, open_

    def _rendered(self, member: M, images: float, *, open_: bool = False) -> None:
        """The member's shard is rendered, and will be published."""
        assert member.shard is not None, f"{member.name} has no shard"
        if not member.publishing:
            member.published_at = self.clock()
        member.publishing[member.shard] = images
        self._publishing[member.name] = member
        self._answered(member, open_=open_)

    def _published(self, member: M, shard: int) -> None:
        del member.publishing[shard]
        member.published_at = self.clock()
        if not member.publishing:
            del self._publishing[member.name]

    def _progress(self, member: M, images: float, writing: bool) -> None:
        """What a heartbeat has told."""
        member.writing = writing
        if images != member.images:
            now = self.clock()
            self.longest_gap_s = max(self.longest_gap_s, now - member.changed_at)
            member.images, member.changed_at = images, now
