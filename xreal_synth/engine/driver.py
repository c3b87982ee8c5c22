"""The driver's loop: hands shards to actors, hears of failures, and ends with a summary. No Ray here.

It owns the retry policy (schedule.py); the pool's engine owns placement and the detection of dead actors and nodes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.names import DATASET, quarantine_key, stem_of
from xreal_synth.dataset.seal import sealed
from xreal_synth.engine.account import Account
from xreal_synth.engine.ledger import Ledger, missing_records
from xreal_synth.engine.pool import Clock, Failed, Heard, Member, Pool, Ready, actor_id
from xreal_synth.engine.progress import (
    ActorLost,
    ActorUp,
    MicroBatchFound,
    RunStarted,
    RunSummary,
    ShardQuarantined,
    ShardRetried,
    Stopping,
    Warned,
)
from xreal_synth.engine.schedule import Limits, ShardSchedule
from xreal_synth.errors import EngineError, StorageError
from xreal_synth.run.fingerprint import fingerprint_differences
from xreal_synth.run.resources import ActorShape, Resources, recorded_micro_batch
from xreal_synth.run.setup import claim
from xreal_synth.storage import with_retries
from xreal_synth.types import ShardRecord

_RESOURCES_EVERY_S = 5.0
_LOOK_EVERY_S = 0.5
"""Between looks at every actor."""

_LONGEST_BOOT_WAIT_S = 60.0


class Driver:
    """One run's loop. `resources()` tells what there is for actors now; `head` is the dataset's, if it has one; `leave`
    are shards not to be made, with the reasons."""

    def __init__(
        self, account: Account, ledger: Ledger, pool: Pool[Any], shape: ActorShape,
        resources: Callable[[], Resources], limits: Limits, stop: threading.Event, clock: Clock = time.monotonic, *,
        head: DatasetHead | None = None, leave: Mapping[int, str] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.run_, self.store, self.account, self.tell = account.run, account.store, account, account.tell
        self.pool, self.shape, self.clock = pool, shape, clock
        self.stop, self.limits, self.head = stop, limits, head
        self.replacing, self.leave = ledger.replacing, dict(leave)
        self.schedule = ShardSchedule(ledger.todo, limits, ledger.totals.shards)
        self.made: set[int] = set()
        self.begun = self.claimed = self.reported_of_others = False
        self.ours: set[str] = set()
        self.searcher = ""
        self.boot_failures, self.boot_again_at = 0, 0.0
        self.fingerprints: list[dict[str, str]] = [head.fingerprint] if head else []
        self._resources = resources
        self.resources, self.resources_at = resources(), clock()
        self.warned_at = self.looked_at = clock()

    def run(self) -> RunSummary:
        """Raises EngineError where nothing could start."""
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
        return self.pool.busy or (len(self.schedule) > 0 and not self._exhausted())

    def _exhausted(self) -> bool:
        return self.schedule.exhausted(len(self.pool) - self.pool.count("retired"))

    def _announce(self) -> None:
        self.tell(
            RunStarted(
                uri=self.store.uri,
                shards_total=self.run_.plan.shard_count,
                shards_done=self.account.totals.shards,
                images_total=self.account.images_total,
                images_done=self.account.totals.samples,
                actors=self.shape.wanted(self.resources, len(self.schedule)),
                device=self.shape.device,
                micro_batch=self.shape.micro_batch,
            )
        )

    def _staff(self) -> None:
        """Starts actors up to what fits, and replaces idle ones on which all that waits has failed."""
        self._settle_held()
        now = self.clock()
        if now - self.resources_at > _RESOURCES_EVERY_S:
            self.resources, self.resources_at = self._resources(), now
        if self.schedule.all_failed and self.schedule.stale(self.pool.active):
            self.pool.end_all([member for member in self.pool.in_state("idle") if not member.publishing])
        if self._exhausted() or now < self.boot_again_at:
            return
        retired = self.pool.in_state("retired")
        unfinished = len(self.schedule) + self.pool.count("working") + len(retired)
        wanted = self.shape.wanted(self.resources, unfinished)
        if len(retired) == len(self.pool) >= wanted:
            self.pool.end_all(retired)  # nobody else is left, or can come
        for _ in range(wanted - len(self.pool)):
            self.pool.start(self.shape)

    def _settle_held(self) -> None:
        """The first actor that has loaded finds the micro-batch, while the others load theirs and wait for it."""
        for member in list(self.pool.held.values()):
            if self.shape.micro_batch is None:
                if self.searcher in self.pool.members:
                    return
                self.searcher = member.name
            self.pool.settle(member, self.shape.micro_batch)

    def _assign(self) -> None:
        """Gives idle actors shards; one that gets none decides what it has left. A shard that has failed is made alone,
        by an actor whose others are published: it is told from those that would share its micro-batches, and takes none
        with it whenever it ends an actor."""
        idle = self.pool.count("idle")
        self.begun = self.begun or idle >= min(self.shape.least, len(self.schedule))
        giving = self.begun and not self._exhausted() and not self.stop.is_set()
        alone = self.schedule.all_failed
        for member in self.pool.in_state("idle") if idle else ():
            others = self.pool.active if self.schedule.trust.strikes(member.name) else ()
            take = giving and not (alone and (member.open or member.publishing))
            shard = self.schedule.take(member.name, others) if take else None
            if shard is not None:
                self.pool.assign(
                    member, shard, self.schedule.tries(shard), alone=bool(self.schedule.reason(shard)),
                    replacing=shard in self.replacing and shard not in self.made,
                )  # fmt: skip
            elif member.open:
                self.pool.finish(member)

    def _listen(self) -> None:
        self._hear_all(self.limits.tick_s)
        if self.clock() - self.looked_at >= min(_LOOK_EVERY_S, self.limits.tick_s):
            self._look()
            self.looked_at = self.clock()
        if self.account.due:
            self.account.advance(self.pool.in_flight(), self.pool.states)

    def _look(self) -> None:
        """For actors that hang, and for those that wait for a place."""
        for member, lost in self.pool.hung(self.limits.hang_s):
            self.pool.end(member)
            for heard in self.pool.losses(member, lost):
                self._hear(heard)
        for member in self.pool.unready(self.limits.boot_s):
            self.pool.end(member)
            reason = f"not ready {self.clock() - member.placed_at:.0f} s after it had a place"
            self._boot_failed(member, Failed("died", reason, gone=True))
        now = self.clock()
        waiting = [member for member in self.pool.in_state("booting") if not member.node]
        oldest = min((member.since for member in waiting), default=now)
        if now - max(oldest, self.warned_at) > self.limits.pending_warning_s:
            self.warned_at = now
            self.tell(
                Warned(
                    f"{len(waiting)} actors have waited {now - oldest:.0f} s for {self.shape.cpus:g} CPU and "
                    f"{self.shape.gpus:g} GPU each; the cluster has {self.resources.cpus:g} and "
                    f"{self.resources.gpus:g}"
                )
            )

    def _hear_all(self, timeout_s: float) -> None:
        """Two actors or more of one node that end together are taken for the node's end."""
        heard = self.pool.wait(timeout_s)
        ended: dict[str, set[str]] = {}
        for each in heard:
            if isinstance(each.outcome, Failed) and each.outcome.gone:
                ended.setdefault(each.member.node, set()).add(each.member.name)
        for each in heard:
            if isinstance(each.outcome, Failed) and each.outcome.gone and len(ended[each.member.node]) > 1:
                each = replace(each, outcome=replace(each.outcome, cause="lost"))
            self._hear(each)

    def _hear(self, heard: Heard) -> None:
        member, shard, outcome = heard.member, heard.shard, heard.outcome
        if isinstance(outcome, ShardRecord):
            self.made.add(outcome.shard)
            guilty = self.schedule.done(outcome.shard, member.name)
            self.account.done(outcome)
            self._tell_of_others(outcome)
            for name in guilty:
                self._retire(name, f"it failed two shards in a row, and {member.name} made one of them")
        elif isinstance(outcome, Ready):
            self._ready(member, outcome)
        elif shard is None:
            self._boot_failed(member, outcome)
        else:
            self._failed(member, shard, outcome)

    def _ready(self, member: Member, ready: Ready) -> None:
        if not ready.settled:
            self.boot_failures = 0
            self.pool.hold(member)
            return
        if not self.claimed:
            self.head, self.claimed = self._claim(ready), True
            self.fingerprints = self.fingerprints or [self.head.fingerprint]
            self.schedule.trust.shows(DATASET, self.head.fingerprint, self.head.canary)
            self.account.start_clock()
        if self.shape.micro_batch is None and not self._fixed(member, ready):
            return
        self.ours.add(actor_id(member.name, ready.node, ready.pid))
        if ready.fingerprint not in self.fingerprints:
            differences = "; ".join(fingerprint_differences(self.fingerprints[0], ready.fingerprint))
            self.fingerprints.append(ready.fingerprint)
            self.tell(Warned(f"images made on {ready.node} may differ in their last bits: {differences}"))
        self.boot_failures = 0
        self.tell(ActorUp(member.name, ready.node, self.clock() - member.since))
        self._look_at_canary(member, ready)

    def _claim(self, ready: Ready) -> DatasetHead:
        """Raises EngineError where the place cannot be written: nothing could start."""
        try:
            return claim(self.run_, self.store, ready.fingerprint, ready.canary)
        except OSError as error:
            raise EngineError(
                where=self.store.uri, found=f"cannot be written: {error.strerror or error}",
                wanted="a place for the dataset", hint="make room or fix the place, or give another with --output",
            ) from error  # fmt: skip

    def _fixed(self, member: Member, ready: Ready) -> bool:
        """Fixes the micro-batch as the dataset records it: found by this actor, or by another run that came
        first; this actor is ended then, for it has another."""
        assert self.head is not None, "the place is claimed"
        found = recorded_micro_batch(ready.fingerprint)
        fixed = recorded_micro_batch(self.head.fingerprint) or found
        self.shape = replace(self.shape, micro_batch=fixed)
        tried = tuple((trial.micro_batch, trial.images_per_s, trial.memory) for trial in ready.trials)
        self.tell(MicroBatchFound(fixed or 0, tried))
        if found != fixed:
            self.pool.end(member)
        return found == fixed

    def _tell_of_others(self, record: ShardRecord) -> None:
        if record.actor in self.ours or self.reported_of_others:
            return
        self.reported_of_others = True
        self.tell(
            Warned(
                f"shard {record.shard} was made by {record.actor}, which is not of this run: another run works on "
                "this output. That does no harm, the bytes are equal, but the same work may be done twice"
            )
        )

    def _look_at_canary(self, member: Member, ready: Ready) -> None:
        """Retires the actors whose canary image is another than that of most with their fingerprint."""
        odd, cleared = self.schedule.trust.shows(member.name, ready.fingerprint, ready.canary)
        for one in self.pool.in_state("retired"):
            if one.name in cleared:
                self.pool.restore(one)
        if DATASET in odd:
            self.tell(Warned(
                "most actors make another canary image than the one in dataset.json, in an environment of the same "
                "fingerprint: what was made before may differ from what is made now (verify --replay tells)"
            ))  # fmt: skip
        for name in odd - {DATASET}:
            self._retire(name, "its canary image is another than other actors', in an equal environment")

    def _retire(self, name: str, reason: str) -> None:
        """Gives an actor no more shards; it keeps its device from others. One at work is ended."""
        member = self.pool.members.get(name)
        if member is None or member.state == "retired":
            return
        if member.state != "idle":
            self._end_spoiled(member, reason)
            return
        self.pool.retire(member)
        self.tell(Warned(f"actor {name} gets no more shards, its device (node {member.node[:12] or 'unknown'}) is not "
                         f"to be trusted: {reason}"))  # fmt: skip

    def _boot_failed(self, member: Member, failed: Failed) -> None:
        self.pool.end(member)
        self.schedule.fruitless += 1
        if failed.cause != "lost":
            self.boot_failures += 1
            loading = any(one.node for one in self.pool.in_state("booting"))
            mistake = failed.cause == "mistake"
            hopeless = self.boot_failures >= self.limits.boot_failures and not loading
            if not self.claimed and (mistake or hopeless):
                trace = f"the traceback of the last try:\n{failed.trace or failed.reason}"
                raise EngineError(
                    found=f"no actor can start: {failed.reason}",
                    wanted="an actor that loads the models",
                    hint="" if mistake else trace,
                )
            wait_s = min(2.0 ** min(self.boot_failures, 10) / 2, _LONGEST_BOOT_WAIT_S)
            self.boot_again_at = self.clock() + wait_s
        self.tell(ActorLost(member.name, None, failed.reason))

    def _failed(self, member: Member, shard: int, failed: Failed) -> None:
        if failed.gone and (shard == member.shard or member.shard is None):
            self.tell(ActorLost(member.name, shard, failed.reason))
        if failed.spoiled and member.name in self.pool.members:
            self._end_spoiled(member, failed.reason)
        if self.schedule.failed(shard, member.name, failed.cause, failed.reason):
            self.tell(ShardRetried(shard, self.schedule.tries(shard), failed.reason))
        else:
            self._quarantine(shard, failed)

    def _end_spoiled(self, member: Member, reason: str) -> None:
        """Ends an actor that cannot be trusted; what else it had in hand is made again."""
        self.pool.end(member)
        self.tell(ActorLost(member.name, None, reason))
        for other in (member.shard, *member.publishing):
            if other is not None:
                self._failed(member, other, Failed("lost", reason))

    def _quarantine(self, shard: int, failed: Failed) -> None:
        key = quarantine_key(stem_of(self.run_.recipe.name, shard))
        reason = self.schedule.given_up[shard]
        content = sealed({"shard": shard, "reason": reason, "traceback": failed.trace or failed.reason})
        try:
            with_retries(f"writing {key}", lambda: self.store.replace(key, content))
        except StorageError as error:
            self.tell(Warned(str(error)))
        self.tell(ShardQuarantined(shard, reason))

    def _drain(self) -> None:
        """Finishes what is in flight, up to `drain_s`."""
        members = self.pool.members.values()
        self.pool.end_all([one for one in members if one.state != "working" and not one.publishing])
        self.tell(Stopping(len(self.pool.in_flight())))
        deadline = self.clock() + self.limits.drain_s
        while self.pool.busy and self.clock() < deadline:
            self._assign()
            self._hear_all(min(self.limits.tick_s, 0.2))
            self.account.advance(self.pool.in_flight(), self.pool.states, stopping=True)
        for shard, _ in self.pool.in_flight():
            self.schedule.failed(shard, "", "lost", "stopped before it was finished")

    def _ended(self) -> RunSummary:
        stopped = self.stop.is_set()
        if self.head is None and not stopped:
            raise EngineError(
                found="no actor ever started",
                wanted="one actor at least",
                hint="`xreal-synth status` and the run's log (logs/) name what each try met",
            )
        not_made = {shard: self.schedule.reason(shard) for shard in self.schedule.waiting}
        not_made |= dict.fromkeys(missing_records(self.run_, self.store, self.made), "its record has gone")
        return self.account.summary(self.head, self.leave | self.schedule.given_up, not_made, stopped=stopped)
