"""The driver: hands shards to actors, hears of failures, and ends with a summary.

It owns the retry policy (schedule.py); Ray owns placement and the detection of dead actors and nodes.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from xreal_synth.engine.account import Account, Ending
from xreal_synth.engine.backend import BackendSpec, Networks
from xreal_synth.engine.fingerprint import fingerprint_differences
from xreal_synth.engine.journal import journal
from xreal_synth.engine.ledger import Ledger, missing_records, read_ledger
from xreal_synth.engine.note import NoteKeeper
from xreal_synth.engine.own_prompts import Encode, kept
from xreal_synth.engine.patient import patient
from xreal_synth.engine.progress import (
    ActorLost,
    ActorUp,
    MicroBatchFound,
    OnEvent,
    RunStarted,
    RunSummary,
    ShardQuarantined,
    ShardRetried,
    Stopping,
    Warned,
)
from xreal_synth.engine.publish import with_retries
from xreal_synth.engine.ray_actor import Failed, Order, Ready, actor_id
from xreal_synth.engine.ray_pool import Lost, Member, Outcome, Pool
from xreal_synth.engine.ray_probe import probed
from xreal_synth.engine.ray_session import resources, session, stop_signals
from xreal_synth.engine.resources import actor_shape, recorded_micro_batch
from xreal_synth.engine.schedule import Limits, Schedule
from xreal_synth.engine.setup import Run, check_before_start, claim
from xreal_synth.errors import EngineError, StorageError
from xreal_synth.recipe.schema import Compute
from xreal_synth.shards.head import DatasetHead
from xreal_synth.shards.names import quarantine_key, stem_of
from xreal_synth.shards.seal import sealed
from xreal_synth.storage import Store
from xreal_synth.types import ShardRecord

_RESOURCES_EVERY_S = 5.0
_LONGEST_BOOT_WAIT_S = 60.0


def generate(
    run: Run,
    store: Store,
    *,
    address: str | None = None,
    on_event: OnEvent = lambda event: None,
    stop: threading.Event | None = None,
    backend: BackendSpec | None = None,
    limits: Limits | None = None,
    encode: Encode | None = None,
    again: Collection[int] = (),
    leave: Mapping[int, str] = MappingProxyType({}),
) -> RunSummary:
    """Makes what the dataset at `store` still lacks; running it again goes on where it ended.

    `address` is a Ray cluster's, None a Ray of this machine's own. `encode` is called, once, if the recipe has
    prompts that neither the bundle nor the dataset has. Shards in `again` are made again, though they have
    records; those in `leave` are not made, for the reasons given there. `stop`, SIGTERM and SIGINT finish the
    shards in flight and end with exit code 75. The summary's exit code is 0 complete, 3 partial, 75 stopped;
    exit code 2 is an exception: XrealError where nothing could start, and then nothing is written.
    """
    stop, backend = stop or threading.Event(), backend or Networks()
    limits = limits or limits_of(run.recipe.compute)
    store = patient(store)
    with journal(run, store, on_event) as log:
        note = NoteKeeper(store, run.recipe.samples, run.plan.shard_count, log.on_event)
        head = check_before_start(run, store)
        store.sweep()
        on_event = note.on_event
        ledger = read_ledger(run, store, head.fingerprint if head else {}, on_event, again, leave)
        account = Account(run, store, ledger.totals, on_event)
        if head is not None and not ledger.todo:
            summary = account.summary(head, Ending(dict(leave), {}, stopped=False))
        else:
            summary = _generate(
                run, store, address, account, stop, backend, limits, encode, head, ledger, dict(leave)
            )
        note.ended(summary)
        log.ended(summary)
    return summary


def _generate(
    run: Run, store: Store, address: str | None, account: Account, stop: threading.Event,
    backend: BackendSpec, limits: Limits, encode: Encode | None, head: DatasetHead | None, ledger: Ledger,
    leave: dict[int, str],
) -> RunSummary:  # fmt: skip
    with (
        kept(run, store, head, encode) as run,
        session(address, run.recipe.compute),
        stop_signals(stop),
    ):
        recorded = recorded_micro_batch(head.fingerprint) if head else None
        shape = actor_shape(run.recipe.compute, resources(grows=address is not None), recorded)
        with probed(store, cluster=address is not None) as probe:
            own = (run.own.encoder, run.own.stamp) if run.own is not None else (None, None)
            order = Order("", run.loaded, run.digest, store.uri, shape, backend, str(Path.cwd()), probe, *own)
            return _Driver(run, store, ledger, account, order, stop, limits, head, leave).run()


def limits_of(compute: Compute) -> Limits:
    """The recipe's timeouts, and the engine's own limits."""
    return Limits(
        boot_s=compute.boot_timeout_s, hang_s=compute.hang_timeout_s, drain_s=compute.drain_s
    )  # fmt: skip


class _Driver:
    """One run's loop."""

    def __init__(
        self, run: Run, store: Store, ledger: Ledger, account: Account, order: Order,
        stop: threading.Event, limits: Limits, head: DatasetHead | None, leave: dict[int, str],
    ) -> None:  # fmt: skip
        self.run_, self.store, self.account = run, store, account
        self.shape = order.shape
        self.pool = Pool(order.shape, lambda name: replace(order, actor=name, shape=self.shape))
        self.stop, self.limits, self.head = stop, limits, head
        self.replacing = ledger.replacing
        self.schedule = Schedule(ledger.todo, limits, ledger.totals.shards)
        self.leave = leave
        self.made: set[int] = set()
        self.begun = False
        self.ours: set[str] = set()
        self.told_of_others = False
        self.boot_failures, self.boot_again_at = 0, 0.0
        self.fingerprints: list[dict[str, str]] = [head.fingerprint] if head else []
        self.claimed = False
        self.resources, self.resources_at = resources(), time.monotonic()
        self.warned_at = time.monotonic()

    def run(self) -> RunSummary:
        self._announce()
        try:
            while self._more() and not self.stop.is_set():
                self._staff()
                self._assign()
                self._listen()
            if self.stop.is_set() and self._more():
                self._drain()
        finally:
            self.pool.end_all()
        return self._ended()

    def _more(self) -> bool:
        working = self.pool.in_state("working")
        return bool(working) or (len(self.schedule) > 0 and not self._exhausted())

    def _exhausted(self) -> bool:
        return self.schedule.exhausted(len(self.pool))

    def _announce(self) -> None:
        total, todo = self.run_.plan.shard_count, len(self.schedule)
        self.account.tell(
            RunStarted(
                uri=self.store.uri,
                shards_total=total,
                shards_done=self.account.totals.shards,
                films_total=self.account.films_total,
                films_done=self.account.totals.samples,
                actors=self.shape.wanted(self.resources, todo),
                device=self.shape.device,
                micro_batch=self.shape.micro_batch,
            )
        )

    def _staff(self) -> None:
        """Starts actors up to what fits, and replaces idle ones on which all that waits has failed."""
        now = time.monotonic()
        if now - self.resources_at > _RESOURCES_EVERY_S:
            self.resources, self.resources_at = resources(), now
        names = list(self.pool.members)
        for member in self.pool.in_state("idle"):
            if self.schedule.stale(member.name, [name for name in names if name != member.name]):
                self.pool.end(member)
        if self._exhausted() or now < self.boot_again_at:
            return
        unfinished = len(self.schedule) + len(self.pool.in_state("working"))
        wanted = self.shape.wanted(self.resources, unfinished) if self.shape.micro_batch is not None else 1
        for _ in range(wanted - len(self.pool)):
            self.pool.start()
        waiting = self.pool.in_state("booting")
        oldest = min((member.since for member in waiting), default=now)
        if now - max(oldest, self.warned_at) > self.limits.pending_warning_s:
            self.warned_at = now
            self.account.tell(
                Warned(
                    f"{len(waiting)} actors have waited {now - oldest:.0f} s for {self.shape.cpus:g} CPU and "
                    f"{self.shape.gpus:g} GPU each; the cluster has {self.resources.cpus:g} and "
                    f"{self.resources.gpus:g}"
                )
            )

    def _assign(self) -> None:
        idle = self.pool.in_state("idle")
        self.begun = self.begun or len(idle) >= min(self.shape.least, len(self.schedule))
        if self._exhausted() or not self.begun:
            return
        for member in idle:
            shard = self.schedule.take(member.name)
            if shard is not None:
                tries = self.schedule.tries(shard)
                self.pool.assign(member, shard, tries, shard in self.replacing and shard not in self.made)

    def _listen(self) -> None:
        self._hear_all(self.limits.tick_s)
        for member in self.pool.hung(self.limits.hang_s):
            self.pool.end(member)
            self._lost(member, Lost(f"no new film for {time.monotonic() - member.changed_at:.0f} s"))
        for member in self.pool.unready(self.limits.boot_s):
            self.pool.end(member)
            reason = f"not ready {time.monotonic() - member.placed_at:.0f} s after it had a place"
            self._boot_failed(member, Failed("lost", reason, reason))
        self.account.advance(self.pool.in_state("working"), len(self.pool))

    def _hear_all(self, timeout_s: float) -> None:
        """Two actors or more of one node that end together are taken for the node's end."""
        heard = self.pool.wait(timeout_s)
        lost = Counter(member.node for member, outcome in heard if isinstance(outcome, Lost))
        for member, outcome in heard:
            if isinstance(outcome, Lost) and lost[member.node] > 1:
                outcome = replace(outcome, outside=True)
            self._hear(member, outcome)

    def _hear(self, member: Member, outcome: Outcome) -> None:
        shard, member.shard = member.shard, None
        if isinstance(outcome, ShardRecord):
            self.made.add(outcome.shard)
            self.schedule.done(outcome.shard)
            self.account.done(outcome)
            self._tell_of_others(outcome)
        elif isinstance(outcome, Ready):
            self._ready(member, outcome)
        elif isinstance(outcome, Lost):
            member.shard = shard
            self._lost(member, outcome)
        elif shard is None:
            self.pool.end(member)
            self._boot_failed(member, outcome)
        else:
            self._failed(member, shard, outcome)

    def _ready(self, member: Member, ready: Ready) -> None:
        if not self.claimed:
            self.head, self.claimed = self._claim(ready), True
            self.fingerprints = self.fingerprints or [self.head.fingerprint]
            self.account.start_clock()
        if self.shape.micro_batch is None and not self._fixed(member, ready):
            return
        self.ours.add(actor_id(member.name, ready.node, ready.pid))
        if ready.fingerprint not in self.fingerprints:
            differences = "; ".join(fingerprint_differences(self.fingerprints[0], ready.fingerprint))
            self.fingerprints.append(ready.fingerprint)
            self.account.tell(
                Warned(f"films made on {ready.node} may differ in their last bits: {differences}")
            )
        self.boot_failures = 0
        self.account.tell(ActorUp(member.name, ready.node, time.monotonic() - member.since))

    def _claim(self, ready: Ready) -> DatasetHead:
        """Raises EngineError where the place cannot be written: nothing could start."""
        try:
            return claim(self.run_, self.store, ready.fingerprint)
        except OSError as error:
            raise EngineError(
                where=self.store.uri, found=f"cannot be written: {error.strerror or error}",
                wanted="a place for the dataset", mend="make room or mend the place, or give another with --output",
            ) from error  # fmt: skip

    def _fixed(self, member: Member, ready: Ready) -> bool:
        """Fixes the micro-batch as the dataset records it: found by this actor, or by another run that came
        first; this actor is ended then, for it has another."""
        assert self.head is not None, "the place is claimed"
        found = recorded_micro_batch(ready.fingerprint)
        fixed = recorded_micro_batch(self.head.fingerprint) or found
        self.shape = replace(self.shape, micro_batch=fixed)
        tried = tuple((trial.micro_batch, trial.films_per_s, trial.memory) for trial in ready.trials)
        self.account.tell(MicroBatchFound(fixed or 0, tried))
        if found != fixed:
            self.pool.end(member)
        return found == fixed

    def _tell_of_others(self, record: ShardRecord) -> None:
        if record.actor in self.ours or self.told_of_others:
            return
        self.told_of_others = True
        self.account.tell(
            Warned(
                f"shard {record.shard} was made by {record.actor}, which is not of this run: another run works on "
                "this output. That does no harm, the bytes are equal, but the same work may be done twice"
            )
        )

    def _boot_failed(self, member: Member, failed: Failed) -> None:
        self.boot_failures += 1
        if not self.claimed and (
            failed.cause == "mistake" or self.boot_failures >= self.limits.boot_failures
        ):
            raise EngineError(
                found=f"no actor can start: {failed.reason}",
                wanted="an actor that loads the models",
                mend="" if failed.cause == "mistake" else f"the traceback of the last try:\n{failed.trace}",
            )
        self.boot_again_at = time.monotonic() + min(2.0**self.boot_failures / 2, _LONGEST_BOOT_WAIT_S)
        self.schedule.fruitless += 1
        self.account.tell(ActorLost(member.name, None, failed.reason))

    def _lost(self, member: Member, lost: Lost) -> None:
        shard, reason = member.shard, lost.reason
        if shard is None:
            self._boot_failed(member, Failed("lost", reason, reason))
            return
        self.account.tell(ActorLost(member.name, shard, reason))
        if lost.outside:
            again = self.schedule.failed(shard, member.name, "lost", reason)
        else:
            again = self.schedule.died(shard, reason)
        if again:
            self.account.tell(ShardRetried(shard, self.schedule.tries(shard), reason))
        else:
            self._quarantine(shard, Failed("lost", self.schedule.given_up[shard], reason))

    def _failed(self, member: Member, shard: int, failed: Failed) -> None:
        if failed.spoiled:
            self.pool.end(member)
            self.account.tell(ActorLost(member.name, None, failed.reason))
        if self.schedule.failed(shard, member.name, failed.cause, failed.reason):
            self.account.tell(ShardRetried(shard, self.schedule.tries(shard), failed.reason))
        else:
            self._quarantine(shard, failed)

    def _quarantine(self, shard: int, failed: Failed) -> None:
        key = quarantine_key(stem_of(self.run_.recipe.name, shard))
        content = sealed({"shard": shard, "reason": failed.reason, "traceback": failed.trace})
        try:
            with_retries(f"writing {key}", lambda: self.store.replace(key, content))
        except StorageError as error:
            self.account.tell(Warned(str(error)))
        self.account.tell(ShardQuarantined(shard, failed.reason))

    def _drain(self) -> None:
        """Finishes what is in flight, up to `drain_s`."""
        self.pool.end_all(self.pool.in_state("booting") + self.pool.in_state("idle"))
        working = self.pool.in_state("working")
        self.account.tell(Stopping(len(working)))
        deadline = time.monotonic() + self.limits.drain_s
        while self.pool.in_state("working") and time.monotonic() < deadline:
            self._hear_all(min(self.limits.tick_s, 0.2))
            self.account.advance(self.pool.in_state("working"), len(self.pool))
        for member in self.pool.in_state("working"):
            assert member.shard is not None, "a working actor has a shard"
            self.schedule.failed(member.shard, member.name, "lost", "stopped before it was finished")

    def _ended(self) -> RunSummary:
        if self.head is None:
            if self.stop.is_set():
                return self.account.summary(None, Ending({}, dict.fromkeys(self.schedule.waiting, ""), True))
            raise EngineError(
                found="no actor ever started", wanted="one actor at least", mend="see the messages above"
            )
        not_made = {shard: self.schedule.reason(shard) for shard in self.schedule.waiting}
        not_made |= dict.fromkeys(missing_records(self.run_, self.store, self.made), "its record has gone")
        ending = Ending(self.leave | self.schedule.given_up, not_made, stopped=self.stop.is_set())
        return self.account.summary(self.head, ending)
