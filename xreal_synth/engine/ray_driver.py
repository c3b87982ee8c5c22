"""A run on Ray: what is left to do is read from storage, and the driver's loop does it with Ray's actors.

A driver that has lost its cluster's head ends by itself: in order, in bounded time, with exit code 75. Ray ends the
process of a driver whose head has not answered for `RAY_gcs_rpc_server_reconnect_timeout_s` (60), at once and with exit
code 1; a call to the head that is under way waits for as long. So the head is asked first whether it is there; what is
in flight is finished in half of that time, for actors of other nodes work on without a head.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.engine.account import Account
from xreal_synth.engine.backend import BackendSpec, Networks
from xreal_synth.engine.driver import Driver
from xreal_synth.engine.journal import NoteKeeper, journal
from xreal_synth.engine.ledger import Ledger, read_ledger
from xreal_synth.engine.metrics import RunMeters
from xreal_synth.engine.progress import STOPPED, Events, OnEvent, RunEnded, RunSummary, Warned
from xreal_synth.engine.ray_actor import ActorConfig
from xreal_synth.engine.ray_pool import RayPool
from xreal_synth.engine.ray_probe import probed
from xreal_synth.engine.ray_session import Exported, resources, session, stop_signals
from xreal_synth.engine.schedule import Limits
from xreal_synth.run.reopen import kept_split, recipe_text
from xreal_synth.run.resources import ActorShape, Resources, actor_shape, recorded_micro_batch
from xreal_synth.run.setup import Run, check_before_start, claim
from xreal_synth.storage import Store, retrying

PATIENCE_VARIABLE = "RAY_gcs_rpc_server_reconnect_timeout_s"
PATIENCE_S = 60.0
"""Ray's own."""

WARN, STOP, EXIT = 1 / 6, 1 / 2, 0.9
"""Shares of Ray's patience after which the loss is told, the run stops, and the process ends whatever it waits for."""

_LOOK_EVERY_S = 1.0
_ANSWER_S = 2.0


def generate(
    run: Run,
    store: Store,
    *,
    address: str | None = None,
    on_event: OnEvent = lambda event: None,
    stop: threading.Event | None = None,
    backend: BackendSpec | None = None,
    limits: Limits | None = None,
    again: Collection[int] = (),
    leave: Mapping[int, str] = MappingProxyType({}),
) -> RunSummary:
    """Makes what the dataset at `store` still lacks; running it again goes on where it ended.

    `address` is a Ray cluster's, None a Ray of this machine's own. Shards in `again` are made again, though they have
    records; those in `leave` are not made, for the reasons given there. `stop`, SIGTERM and SIGINT finish the
    shards in flight and end with exit code 75. The summary's exit code is 0 complete, 3 partial, 75 stopped;
    exit code 2 is an exception: XrealError where nothing could start, and then nothing is written.
    """
    stop, backend = stop or threading.Event(), backend or Networks()
    given = run.recipe.compute
    limits = limits or Limits(boot_s=given.boot_timeout_s, hang_s=given.hang_timeout_s, drain_s=given.drain_s)
    store = retrying(store)
    events = Events([on_event])
    keeper = NoteKeeper(store, run.recipe.anatomies, run.plan.shard_count, events)
    with journal(run, store, events) as log, keeper:
        events += [keeper.on_event, log.on_event, RunMeters(Exported(run.recipe.name)).on_event]
        head = check_before_start(run, store)
        if head is not None:
            _compare_split(run, store, events)
        store.sweep()
        ledger = read_ledger(run, store, head.fingerprint if head else {}, events, again, leave)
        account = Account(run, store, ledger.totals, events)
        if head is not None and not ledger.todo:
            claim(run, store, head.fingerprint)
            summary = account.summary(head, leave, {}, stopped=False)
        else:
            summary = _on_ray(account, ledger, head, leave, address, stop, backend, limits)
        events(RunEnded(summary))
    return summary


def _compare_split(run: Run, store: Store, tell: OnEvent) -> None:
    """Tells where the recipe that is kept splits the images otherwise: no other change moves any."""
    before, now = kept_split(recipe_text(store)), run.recipe.split
    if before not in (None, now):
        was = f"val {before.val:g} and test {before.test:g} of this dataset, now val {now.val:g} and test {now.test:g}"
        tell(Warned(f"split: {was}: images go from one split to another"))


def _on_ray(
    account: Account, ledger: Ledger, dataset: DatasetHead | None, leave: Mapping[int, str], address: str | None,
    stop: threading.Event, backend: BackendSpec, limits: Limits,
) -> RunSummary:  # fmt: skip
    run, store, cluster, folder = account.run, account.store, address is not None, str(Path.cwd())
    compute = run.recipe.compute
    if cluster and os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        risk = "if it asks for none, whoever reaches it can run code there"
        account.tell(Warned(f"no token is given to the head at {address}: {risk}"))
    with session(address, compute), stop_signals(stop):
        recorded = recorded_micro_batch(dataset.fingerprint) if dataset else None
        shape = actor_shape(compute, resources(grows=cluster), recorded)
        with probed(store, cluster=cluster) as probe, watched(resources, stop, account.tell) as head:

            def order(name: str, shape: ActorShape) -> ActorConfig:
                return ActorConfig(name, run.loaded, run.digest, store.uri, shape, backend, folder, probe)

            pool = RayPool(shape, order, head.there)
            driver = Driver(account, ledger, pool, shape, head.resources, limits, stop, head=dataset, leave=leave)
            return driver.run()


class Head:
    """The head at `address` (host:port); an empty one always answers."""

    def __init__(self, address: str, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.address, self.patience_s, self._clock = address, patience_s, clock
        self._seen_at = self._asked_at = clock()
        self._there = True

    @property
    def there(self) -> bool:
        """Whether it answers; asked again after a second."""
        if self._clock() - self._asked_at > _LOOK_EVERY_S:
            self._there, self._asked_at = self._answers(), self._clock()
            self._seen_at = self._asked_at if self._there else self._seen_at
        return self._there

    @property
    def silent_s(self) -> float:
        """How long it has not answered; 0 while it is there."""
        return 0.0 if self.there else self._clock() - self._seen_at

    def reported(self) -> str:
        """How long it has been away, in words."""
        seconds = self._clock() - self._seen_at
        return f"the head of the Ray cluster ({self.address}) has not answered for {seconds:.0f} s"

    def _answers(self) -> bool:
        if not self.address:
            return True
        host, _, port = self.address.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S):
                return True
        except OSError:
            return False


class HeadWatch:
    """`resources()` of a cluster while its head answers, and the last ones known after that; a head that stays
    away is told of, and stops the run. `there()` says whether it answers."""

    def __init__(self, head: Head, ask: Callable[[], Resources], stop: threading.Event, on_event: OnEvent) -> None:
        self._head, self._ask, self._stop, self._on_event = head, ask, stop, on_event
        self._known: Resources | None = None
        self._warned = False

    def there(self) -> bool:
        return self._head.there

    def resources(self) -> Resources:
        silent_s = self._head.silent_s
        if not silent_s or self._known is None:
            self._known, self._warned = self._ask(), False
            return self._known
        patience_s = self._head.patience_s
        if silent_s > WARN * patience_s and not self._warned:
            self._warned = True
            self._on_event(Warned(f"{self._head.reported()}; the run stops if it stays away"))
        if silent_s > STOP * patience_s and not self._stop.is_set():
            self._on_event(Warned(f"{self._head.reported()}; what is in flight is finished, then this run ends"))
            self._stop.set()
        return self._known


@contextmanager
def watched(ask: Callable[[], Resources], stop: threading.Event, on_event: OnEvent) -> Iterator[HeadWatch]:
    """While a run lasts; to be entered after Ray is connected. The process ends with 75 if the head has gone and the
    run has not ended, or Ray not been left, before Ray would end the process."""
    context: Any = ray.get_runtime_context()
    patience_s = float(os.environ.get(PATIENCE_VARIABLE, PATIENCE_S))
    address, over = str(context.gcs_address), threading.Event()
    head = Head(address, patience_s)
    watching = (Head(address, patience_s), over)
    threading.Thread(target=_last_resort, args=watching, name="head-watch", daemon=True).start()
    try:
        yield HeadWatch(head, ask, stop, on_event)
    finally:
        if head.there:  # else leaving Ray may take for ever
            over.set()


def _last_resort(head: Head, over: threading.Event) -> None:
    while not over.wait(_LOOK_EVERY_S):
        if head.silent_s > EXIT * head.patience_s:
            next_step = "finished shards are kept. Start a head, then run the same command again to go on"
            print(f"stopped: {head.reported()}; {next_step}", file=sys.stderr, flush=True)
            os._exit(STOPPED)
