"""The actors of a run on Ray."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import ray

from xreal_synth.engine.pool import Call, Failed, Heard, Member, Pool
from xreal_synth.engine.ray_actor import ActorConfig, Rendered, actor_class
from xreal_synth.run.resources import ActorShape
from xreal_synth.types import ShardRecord

BEAT_EVERY_S = 1.0
_BEATS_PER_S = 200
ANSWER_S = 60.0
"""For an answer that Ray says is there."""

_PAUSE_PER_ACTOR_S = 5e-5
_LONGEST_PAUSE_S = 0.25
"""After the first answer the driver waits a little for others, to handle many at once where actors are many."""

Asked = Literal["call", "beat", "placing"] | int
"""What an actor is asked; a number: whether that shard is published."""


@dataclass(slots=True, eq=False)
class RayMember(Member):
    """An actor's handle, and what it has been asked and has not answered."""

    handle: Any = None
    asked: dict[Asked, Any] = field(default_factory=dict)
    beat_at: float = 0.0


class RayPool(Pool[RayMember]):
    """`order_of(name, shape)` says what a new actor is told; `head_there()` whether the cluster's head answers: without
    it nobody can be ended, and Ray would wait for it."""

    def __init__(
        self, shape: ActorShape, order_of: Callable[[str, ActorShape], ActorConfig],
        head_there: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        super().__init__(time.monotonic)
        self._class = actor_class(shape)
        self._order_of, self._head_there = order_of, head_there
        self._awaited: dict[Any, tuple[RayMember, Asked]] = {}
        self._minor: dict[Any, tuple[RayMember, Asked]] = {}
        self._beats: deque[RayMember] = deque()

    def _launch(self, name: str, shape: ActorShape) -> RayMember:
        """Until the actor fits somewhere it is demand for an autoscaler."""
        handle = self._actor(name, shape)
        member = RayMember(name, self.clock(), handle=handle)
        self._ask(member, "placing", handle.placed.remote())
        self._call(member, "ready")
        self._beats.append(member)
        return member

    def _actor(self, name: str, shape: ActorShape) -> Any:
        return self._class.remote(self._order_of(name, shape))

    def _call(self, member: RayMember, method: Call, *arguments: Any) -> None:
        self._ask(member, "call", getattr(member.handle, method).remote(*arguments))

    def _kill(self, member: RayMember) -> None:
        for kind in list(member.asked):
            self._answer(member, kind)
        if self._head_there():
            ray.kill(member.handle)

    def _ask(self, member: RayMember, kind: Asked, ref: Any) -> None:
        member.asked[kind] = ref
        self._table(kind)[ref] = member, kind

    def _answer(self, member: RayMember, kind: Asked) -> Any:
        """The reference, no longer awaited."""
        ref = member.asked.pop(kind)
        del self._table(kind)[ref]
        return ref

    def _table(self, kind: Asked) -> dict[Any, tuple[RayMember, Asked]]:
        return self._minor if kind in ("beat", "placing") else self._awaited

    def wait(self, timeout_s: float) -> list[Heard]:
        self._ask_beats()
        if not self._awaited:
            time.sleep(timeout_s)
            return []
        awaited = list(self._awaited)
        first, _ = ray.wait(awaited, num_returns=1, timeout=timeout_s)
        if first:
            time.sleep(min(_PAUSE_PER_ACTOR_S * len(self), _LONGEST_PAUSE_S))
        self._note_minor()
        return self._outcomes(awaited) if first else []

    def _outcomes(self, awaited: list[Any]) -> list[Heard]:
        """Published shards first: they are whole, whatever has become of their actor since."""
        back, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0)
        reported = sorted((self._awaited[ref] for ref in back), key=lambda each: each[1] == "call")
        heard: list[Heard] = []
        for member, kind in reported:
            if member.name not in self.members:
                continue
            outcome = self._got(member, kind)
            if isinstance(outcome, Failed) and outcome.gone:
                self.end(member)
                heard += self.losses(member, outcome)
            elif isinstance(kind, int):
                self._published(member, kind)
                heard.append(Heard(member, kind, outcome))
            else:
                heard += self._answer_of(member, outcome)
        return heard

    def _answer_of(self, member: RayMember, outcome: Any) -> list[Heard]:
        """What has come of a call: nothing yet for the driver where a shard is rendered, and of groups decided. Where
        another run has made the shard, groups of those before are still left."""
        shard = member.shard
        if "beat" in member.asked:
            self._answer(member, "beat")
        if not isinstance(outcome, Rendered):
            self._answered(member, open_=member.open and isinstance(outcome, ShardRecord))
            return [Heard(member, shard, outcome)] if outcome is not None else []
        assert shard is not None, "a shard was asked for"
        self._rendered(member, outcome.images, open_=outcome.open)
        self._ask(member, shard, member.handle.published.remote(shard))
        return []

    def _got(self, member: RayMember, kind: Asked) -> Any:
        """What the actor has answered; Failed where Ray has no answer of it."""
        try:
            return ray.get(self._answer(member, kind), timeout=ANSWER_S)
        except ray.exceptions.RayTaskError as error:
            return Failed("error", f"{type(error.cause).__name__}: {error.cause}", str(error), spoiled=True)
        except ray.exceptions.RayError as error:
            return Failed("lost" if _outside(error) else "died", _first_lines(error), gone=True)

    def _ask_beats(self) -> None:
        """Each member at work in its turn, a few hundred a second at most."""
        now = self.clock()
        every = max(BEAT_EVERY_S, len(self.members) / _BEATS_PER_S)
        for _ in range(len(self._beats)):
            if now - self._beats[0].beat_at < every:
                return
            member = self._beats.popleft()
            if member.name not in self.members:
                continue
            member.beat_at = now
            if member.state == "working" and "beat" not in member.asked:
                self._ask(member, "beat", member.handle.beat.remote())
            self._beats.append(member)

    def _note_minor(self) -> None:
        """Heartbeats and places that have come back; of one that failed the member's other calls tell."""
        if not self._minor:
            return
        back, _ = ray.wait(list(self._minor), num_returns=len(self._minor), timeout=0)
        for member, kind in [self._minor[ref] for ref in back]:
            try:
                reported = ray.get(self._answer(member, kind), timeout=ANSWER_S)
            except ray.exceptions.RayError:
                continue
            if kind == "placing":
                member.node, member.placed_at = str(reported), self.clock()
            elif member.state == "working":
                self._progress(member, *reported)


def _outside(error: Exception) -> bool:
    if isinstance(error, ray.exceptions.RayActorError) and error.preempted:
        return True
    unreachable = isinstance(error, ray.exceptions.ActorUnavailableError | ray.exceptions.GetTimeoutError)
    return unreachable or "node has died" in str(error) or "node was" in str(error)


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("class_name", "actor_id", "namespace", "pid", "ip:"))]
    return f"{type(error).__name__}: {' '.join(kept)[:400]}"
