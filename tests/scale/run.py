"""A whole run of the driver against simulated actors, and what it cost.

Run as `python -m tests.scale.run`, it reads a world as JSON and prints progress and one row as JSON
lines: each run is measured in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tests.scale.dataset import simulated_run
from tests.scale.pool import FINGERPRINT, SimulatedPool
from tests.scale.steps import peak_bytes
from tests.scale.store import MarkStore
from tests.scale.world import ShardTimes, World
from xreal_synth.dataset.table import LABEL_COLUMNS
from xreal_synth.engine.account import Account
from xreal_synth.engine.driver import Driver
from xreal_synth.engine.journal import Journal, NoteKeeper
from xreal_synth.engine.ledger import Ledger, Totals
from xreal_synth.engine.metrics import Metric, RunMeters
from xreal_synth.engine.progress import Event, Events, RunEnded, ShardDone, ShardRetried
from xreal_synth.engine.schedule import Limits
from xreal_synth.errors import EngineError
from xreal_synth.opening import parse_json
from xreal_synth.run.resources import ActorShape
from xreal_synth.types import FileStamp, ShardRecord

_REPORTED_EVERY = 200
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class SimulationRow:
    """A run of `actors` over `shards`.

    `driver_us` is the driver's processor time per shard, the simulation's own not counted; `end_s` what reading the
    list of records at the end took of it. `core` is the share of one core that the driver takes, in virtual time.
    `idle`, `failures`, `start`, `tail` and `blocked` are shares of the actors' time: waiting for the driver while
    shards waited; lost to failures (work thrown away, detection, loading again, nodes that are gone); loading at
    first; nothing left to do; waiting for storage. `lost` shards are neither recorded nor given up, `doubled` were
    recorded twice. `log_bytes` are those of the run's log.
    """

    actors: int
    shards: int
    mean_s: float
    virtual_s: float
    cpu_s: float
    own_s: float
    peak_bytes: int
    log_bytes: int
    answers: int
    waits: int
    idle: float
    failures: float
    start: float
    tail: float
    blocked: float
    retried: int
    quarantined: int
    lost: int
    doubled: int
    exit_code: int
    happened: dict[str, int]

    @property
    def driver_us(self) -> float:
        return 1e6 * self.cpu_s / self.shards

    @property
    def core(self) -> float:
        return self.cpu_s / self.virtual_s

    @property
    def shards_per_s(self) -> float:
        return self.shards / self.virtual_s


def simulate(
    world: World, shards: int, on_shards: Callable[[int, int], None] = lambda done, total: None
) -> SimulationRow:
    """The driver, its schedule, account, note, meters and log as in a real run, against actors as the world has them.

    Shards and their merging at the end are left out. Raises EngineError where the run cannot start.
    """
    run, limits = simulated_run(shards), Limits(tick_s=max(_LOOK_S, world.times.mean_s / world.actors))
    store = MarkStore(run.recipe.name, shards)
    pool = SimulatedPool(world, shards, store, record_template(run.digest))
    retried = 0

    def on_event(event: Event) -> None:
        nonlocal retried
        if isinstance(event, ShardDone) and event.done % max(shards // _REPORTED_EVERY, 1) == 0:
            on_shards(event.done, event.total)
        retried += isinstance(event, ShardRetried)

    events = Events([on_event])
    events += [
        NoteKeeper(store, shards, shards, events, clock=pool.clock).on_event,
        Journal(store, {}, events, pool.clock).on_event,
        RunMeters(_nowhere).on_event,
    ]
    account = Account(run, store, Totals(), events, pool.clock, merge=lambda *found, **asked: None)
    shape = ActorShape("cuda", "auto", None if world.search_s else 8, 1.0, 1.0, world.actors)
    ledger = Ledger(tuple(range(shards)), frozenset(), Totals())
    began, cpu = time.perf_counter(), time.process_time()
    driver = Driver(account, ledger, pool, shape, pool.resources, limits, threading.Event(), pool.clock)
    summary = driver.run()
    events(RunEnded(summary))
    drivers = 1 - pool.own_s / (time.perf_counter() - began)
    cpu = (time.process_time() - cpu) * drivers
    given_up = set(summary.quarantined)
    lost = sum(not store.has(shard) and shard not in given_up for shard in range(shards))
    spent, there = pool.spent, world.actors * pool.now
    down = there - sum(asdict(spent).values()) + spent.wasted
    return SimulationRow(
        actors=world.actors, shards=shards, mean_s=world.times.mean_s, virtual_s=pool.now, cpu_s=cpu,
        own_s=pool.own_s, peak_bytes=peak_bytes(), log_bytes=sum(store.log_bytes.values()),
        answers=pool.answers, waits=pool.waits,
        idle=spent.idle / there, failures=down / there, start=spent.start / there, tail=spent.tail / there,
        blocked=spent.blocked / there, retried=retried, quarantined=len(given_up), lost=lost,
        doubled=store.again, exit_code=summary.exit_code, happened=dict(sorted(pool.happened.items())),
    )  # fmt: skip


def simulate_apart(
    world: World, shards: int, on_shards: Callable[[int, int], None] = lambda done, total: None
) -> SimulationRow:
    """The same in a process of its own, so that its memory is its own. Raises EngineError if it fails."""
    reported = json.dumps({"world": asdict(world), "shards": shards})
    command = [sys.executable, "-m", "tests.scale.run"]
    row: SimulationRow | None = None
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(reported)
        process.stdin.close()
        try:
            for line in process.stdout:
                fields = parse_json(line)
                if "done" in fields:
                    on_shards(fields["done"], shards)
                else:
                    row = SimulationRow(**fields)
        except BaseException:
            process.kill()
            raise
        wrong = process.stderr.read()
    if row is None:
        raise EngineError(
            found=f"{world.actors} simulated actors: {wrong.strip().splitlines()[-1:]}", wanted="a run that ends"
        )
    return row


def _nowhere(metric: Metric, value: float, **tags: str) -> None:
    """Ray's own metrics are not here."""


def record_template(digest: str) -> ShardRecord:
    """A record as large as a real one's."""
    stamp = FileStamp("shards/simulated.tar", 10_000_000, "0" * 64)
    return ShardRecord(
        shard=0, start=0, stop=1, samples=1, groups=1, rejected=0, dropped=0, tar=stamp, table=stamp, rejects=None,
        digest=digest, fingerprint=FINGERPRINT, label_counts=dict.fromkeys(LABEL_COLUMNS, 1),
        timings={}, actor="", attempt=0,
    )  # fmt: skip


def _world(fields: dict[str, Any]) -> World:
    times = fields.pop("times")
    return World(times=ShardTimes(times["mean_s"], times["spread"], tuple(times["measured"])), **fields)


def main() -> None:
    reported = parse_json(sys.stdin.read())

    def on_shards(done: int, total: int) -> None:
        print(json.dumps({"done": done}), flush=True)

    print(json.dumps(asdict(simulate(_world(reported["world"]), reported["shards"], on_shards))), flush=True)


if __name__ == "__main__":
    main()
