"""The actors of a run: started, given shards, listened to, ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import ray

from xreal_synth.engine.ray_actor import Failed, Order, Ready, actor_class
from xreal_synth.engine.resources import ActorShape
from xreal_synth.types import ShardRecord

BEAT_EVERY_S = 1.0
_BEATS_PER_S = 200
ANSWER_S = 60.0
"""For an answer that Ray says is there."""

State = Literal["booting", "idle", "working"]


@dataclass(frozen=True, slots=True)
class Lost:
    """The actor or its node is gone. `outside` says that its shard had no part in it: the node went, was
    preempted or cannot be reached."""

    reason: str
    outside: bool = False


Outcome = Ready | ShardRecord | Failed | Lost


@dataclass(slots=True, eq=False)
class Member:
    """One actor. `node` is empty until it has a place, where it came up at `placed_at`; `films` and
    `changed_at` tell a slow shard from one that hangs."""

    name: str
    handle: Any
    call: Any
    since: float
    state: State = "booting"
    shard: int | None = None
    films: float = 0
    changed_at: float = 0.0
    beat: Any = None
    beat_at: float = 0.0
    placing: Any = None
    placed_at: float = 0.0
    node: str = ""


class Pool:
    """Actors by name. `order_of(name)` says what a new actor is told."""

    def __init__(self, shape: ActorShape, order_of: Callable[[str], Order]) -> None:
        self._class = actor_class(shape)
        self._order_of = order_of
        self._born = 0
        self.members: dict[str, Member] = {}
        self.longest_gap_s = 0.0

    def __len__(self) -> int:
        return len(self.members)

    def in_state(self, state: State) -> list[Member]:
        return [member for member in self.members.values() if member.state == state]

    def start(self) -> Member:
        """Asks Ray for one more actor: until it fits somewhere it is demand for an autoscaler."""
        name = f"a{self._born}"
        self._born += 1
        handle = self._class.remote(self._order_of(name))
        placing = handle.placed.remote()
        member = Member(name, handle, handle.ready.remote(), time.monotonic(), placing=placing)
        self.members[name] = member
        return member

    def assign(self, member: Member, shard: int, attempt: int, replacing: bool) -> None:
        assert member.state == "idle", f"{member.name} is {member.state}"
        member.state, member.shard, member.films = "working", shard, 0
        member.since = member.changed_at = member.beat_at = time.monotonic()
        member.call = member.handle.shard.remote(shard, attempt, replacing)

    def wait(self, timeout_s: float) -> list[tuple[Member, Outcome]]:
        """What has come back by then; the members concerned are idle afterwards, or gone."""
        self._ask_beats()
        calls = {member.call: member for member in self.members.values() if member.call is not None}
        beats = {member.beat: member for member in self.members.values() if member.beat is not None}
        places = {member.placing: member for member in self.members.values() if member.placing is not None}
        everything = [*calls, *beats, *places]
        if not everything:
            time.sleep(timeout_s)
            return []
        ray.wait(everything, num_returns=1, timeout=timeout_s)
        back, _ = ray.wait(everything, num_returns=len(everything), timeout=0)
        for call in back:
            if call in beats:
                self._note_beat(beats[call])
            elif call in places:
                self._note_place(places[call])
        return [(calls[call], self._outcome(calls[call])) for call in back if call in calls]

    def hung(self, limit_s: float) -> list[Member]:
        """Members whose shard shows no new film for `limit_s`, or ten times the longest gap seen."""
        limit, now = max(limit_s, 10 * self.longest_gap_s), time.monotonic()
        return [member for member in self.in_state("working") if now - member.changed_at > limit]

    def unready(self, limit_s: float) -> list[Member]:
        """Members that have had a place for `limit_s` and are not ready."""
        now = time.monotonic()
        return [
            member for member in self.in_state("booting") if member.node and now - member.placed_at > limit_s
        ]

    def end(self, member: Member) -> None:
        """Kills the actor, alive or not: one that seemed unavailable may still be working."""
        self.members.pop(member.name, None)
        ray.kill(member.handle)

    def end_all(self, members: Iterable[Member] | None = None) -> None:
        for member in list(self.members.values() if members is None else members):
            self.end(member)

    def _outcome(self, member: Member) -> Outcome:
        call, member.call, member.beat = member.call, None, None
        try:
            outcome: Outcome = ray.get(call, timeout=ANSWER_S)
        except ray.exceptions.RayTaskError as error:
            outcome = Failed(
                "error", f"{type(error.cause).__name__}: {error.cause}", str(error), spoiled=True
            )
        except ray.exceptions.RayError as error:
            self.end(member)
            return Lost(_first_lines(error), _outside(error))
        member.state = "idle"
        return outcome

    def _ask_beats(self) -> None:
        now = time.monotonic()
        every = max(BEAT_EVERY_S, len(self.members) / _BEATS_PER_S)
        for member in self.members.values():
            if member.state == "working" and member.beat is None and now - member.beat_at >= every:
                member.beat, member.beat_at = member.handle.beat.remote(), now

    def _note_beat(self, member: Member) -> None:
        call, member.beat = member.beat, None
        try:
            films = float(ray.get(call, timeout=ANSWER_S))
        except ray.exceptions.RayError:
            return  # the shard's own call tells what happened
        if films != member.films:
            now = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now - member.changed_at)
            member.films, member.changed_at = films, now

    def _note_place(self, member: Member) -> None:
        call, member.placing = member.placing, None
        try:
            member.node, member.placed_at = str(ray.get(call, timeout=ANSWER_S)), time.monotonic()
        except ray.exceptions.RayError:
            return  # the call of ready() tells what happened


def _outside(error: Exception) -> bool:
    if isinstance(error, ray.exceptions.RayActorError) and error.preempted:
        return True
    unreachable = isinstance(error, ray.exceptions.ActorUnavailableError | ray.exceptions.GetTimeoutError)
    return unreachable or "node has died" in str(error) or "node was" in str(error)


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [
        line for line in lines if not line.startswith(("class_name", "actor_id", "namespace", "pid", "ip:"))
    ]
    return f"{type(error).__name__}: {' '.join(kept)[:400]}"
