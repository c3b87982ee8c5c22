"""The driver with Ray's own calls, against thousands of actors that a few processes play by sleeping.

A machine has no room for thousands of processes. Here every actor of the pool is a name within one of a few async
actors: calls, answers, heartbeats, records and what the driver does with them are as in a run; the processes, their
scheduling and their nodes are not.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray

from tests.scale.dataset import simulated_run
from tests.scale.run import record_template
from tests.scale.store import MarkStore
from xreal_synth.engine.account import Account
from xreal_synth.engine.driver import Driver
from xreal_synth.engine.journal import Journal, NoteKeeper
from xreal_synth.engine.ledger import Ledger, Totals
from xreal_synth.engine.metrics import RunMeters
from xreal_synth.engine.pool import Ready, actor_id
from xreal_synth.engine.progress import Event, Events, ShardDone
from xreal_synth.engine.ray_actor import Rendered
from xreal_synth.engine.ray_pool import RayMember, RayPool
from xreal_synth.engine.ray_session import Exported, resources
from xreal_synth.engine.schedule import Limits
from xreal_synth.errors import EngineError
from xreal_synth.run.resources import ActorShape, Resources
from xreal_synth.types import ShardRecord

PUBLISH_S = 0.2
_SPREAD = 0.2
_AT_ONCE = 100_000

_ray: Any = ray  # parts of its interface carry no types


class Host:
    """Plays many actors: `who` is the one that is asked."""

    def __init__(self, shard_s: float, template: ShardRecord) -> None:
        self._shard_s, self._template = shard_s, template
        self._rested: dict[str, float] = {}
        self._worked = self._waited = 0.0

    async def placed(self, who: str) -> str:
        return str(ray.get_runtime_context().get_node_id())

    async def ready(self, who: str) -> Ready:
        return Ready(socket.gethostname(), os.getpid(), self._template.fingerprint)

    async def shard(self, who: str, shard: int, attempt: int, replacing: bool, alone: bool) -> Rendered:
        began = time.monotonic()
        self._waited += began - self._rested.get(who, began)
        await asyncio.sleep(self._shard_s * random.uniform(1 - _SPREAD, 1 + _SPREAD))
        self._rested[who] = time.monotonic()
        self._worked += self._rested[who] - began
        return Rendered(self._template.samples)

    async def spent(self) -> tuple[float, float]:
        """Seconds of its actors at shards, and between one shard's end and the next one's beginning."""
        return self._worked, self._waited

    async def published(self, who: str, shard: int) -> ShardRecord:
        await asyncio.sleep(PUBLISH_S)
        actor = actor_id(who, socket.gethostname(), os.getpid())
        return replace(self._template, shard=shard, start=shard, stop=shard + 1, actor=actor)

    async def beat(self, who: str) -> tuple[float, bool]:
        return time.monotonic(), False


@dataclass(frozen=True, slots=True)
class _Method:
    """One of a host's methods, asked for one of its actors."""

    method: Any
    who: str

    def remote(self, *reported: object) -> Any:
        return self.method.remote(self.who, *reported)


class _Played:
    """What the pool takes for an actor's handle."""

    def __init__(self, host: Any, who: str) -> None:
        self.placed, self.ready = _Method(host.placed, who), _Method(host.ready, who)
        self.shard, self.published = _Method(host.shard, who), _Method(host.published, who)
        self.beat = _Method(host.beat, who)


class PlayedPool(RayPool):
    """RayPool whose actors the hosts play in turn."""

    def __init__(self, shape: ActorShape, hosts: list[Any]) -> None:
        super().__init__(shape, lambda name, shape: _never())
        self._hosts = hosts

    def _actor(self, name: str, shape: ActorShape) -> Any:
        return _Played(self._hosts[self._born % len(self._hosts)], name)

    def _kill(self, member: RayMember) -> None:
        """Nothing dies here but at the end, with the hosts."""
        for kind in list(member.asked):
            self._answer(member, kind)


@dataclass(frozen=True, slots=True)
class PlayedRow:
    """`shards` in `seconds` with every actor at work, the first and the last shard of each left out.

    Of a shard, microseconds of the processor: `loop_us` of the driver's own thread, which bounds it, and `process_us`
    of the driver's process with Ray's threads. `busy` is the share of the actors' time spent on shards, from the first
    one's beginning to the last one's end: the rest was spent waiting for the next.
    """

    actors: int
    shard_s: float
    shards: int
    seconds: float
    loop_us: float
    process_us: float
    busy: float

    @property
    def shards_per_s(self) -> float:
        return self.shards / self.seconds

    @property
    def limit_per_s(self) -> float:
        """Shards per second that fill the driver's thread."""
        return 1e6 / self.loop_us


@dataclass(slots=True)
class _Mark:
    """Clocks at a shard."""

    done: int
    wall: float
    loop: float
    process: float

    @classmethod
    def now(cls, done: int) -> _Mark:
        return cls(done, time.monotonic(), time.thread_time(), time.process_time())


def measure_played(
    actors: int,
    shard_s: float,
    rounds: int,
    hosts: int,
    on_shards: Callable[[int, int], None] = lambda done, total: None,
) -> PlayedRow:
    """A run of `rounds` shards of each actor, three at least, on the Ray that this process is connected to.

    Raises EngineError if it does not make every shard.
    """
    shards = rounds * actors
    run = simulated_run(shards)
    store = MarkStore(run.recipe.name, shards)
    marks: list[_Mark] = []

    def on_event(event: Event) -> None:
        if isinstance(event, ShardDone):
            store.published(event.shard)
            if event.done in (actors, shards - actors):
                marks.append(_Mark.now(event.done))
            on_shards(event.done, shards)

    make = _ray.remote(num_cpus=0, max_concurrency=_AT_ONCE)(Host)
    playing = [make.remote(shard_s, record_template(run.digest)) for _ in range(hosts)]
    try:
        events = Events([on_event])
        events += [
            NoteKeeper(store, shards, shards, events).on_event,
            Journal(store, {}, events).on_event,
            RunMeters(Exported(run.recipe.name)).on_event,
        ]
        account = Account(run, store, Totals(), events, merge=lambda *found, **asked: None)
        shape = ActorShape("cpu", "auto", 8, 1.0, 0.0, actors)
        ledger = Ledger(tuple(range(shards)), frozenset(), Totals())
        pool = PlayedPool(shape, playing)
        driver = Driver(account, ledger, pool, shape, lambda: _room(actors), Limits(), threading.Event())
        summary = driver.run()
        spent = [ray.get(host.spent.remote()) for host in playing]
    finally:
        for host in playing:
            ray.kill(host)
    if summary.exit_code or len(marks) != 2:
        raise EngineError(
            found=f"{actors} actors made {store.records} of {shards} shards: {summary.message}", wanted="all of them"
        )
    first, last = marks
    worked, waited = map(sum, zip(*spent, strict=True))
    made, seconds = last.done - first.done, last.wall - first.wall
    return PlayedRow(
        actors, shard_s, made, seconds, 1e6 * (last.loop - first.loop) / made,
        1e6 * (last.process - first.process) / made, worked / (worked + waited),
    )  # fmt: skip


def _room(actors: int) -> Resources:
    """Ray is asked as in a run, and has room for all."""
    return replace(resources(grows=True), cpus=float(actors))


def _never() -> Any:
    raise AssertionError("no actor of the engine is started here")
