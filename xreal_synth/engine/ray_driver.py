"""A run on Ray: what is left to do is read from storage, and the driver's loop does it with Ray's actors."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.engine.account import Account
from xreal_synth.engine.backend import BackendSpec, Networks
from xreal_synth.engine.driver import Driver
from xreal_synth.engine.journal import NoteKeeper, journal
from xreal_synth.engine.ledger import Ledger, read_ledger
from xreal_synth.engine.metrics import RunMeters
from xreal_synth.engine.progress import Events, OnEvent, RunEnded, RunSummary, Warned
from xreal_synth.engine.ray_actor import ActorConfig
from xreal_synth.engine.ray_head import watched
from xreal_synth.engine.ray_metrics import Exported
from xreal_synth.engine.ray_pool import RayPool
from xreal_synth.engine.ray_probe import probed
from xreal_synth.engine.ray_session import resources, session, stop_signals
from xreal_synth.engine.schedule import Limits
from xreal_synth.run.resources import ActorShape, actor_shape, recorded_micro_batch
from xreal_synth.run.setup import Run, check_before_start
from xreal_synth.storage import Store, retrying


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
    events = Events(on_event)
    with journal(run, store, events) as log:
        note = NoteKeeper(store, run.recipe.anatomies, run.plan.shard_count, events)
        events.listen(note.on_event, log.on_event, RunMeters(run.recipe.name, Exported).on_event)
        head = check_before_start(run, store)
        store.sweep()
        ledger = read_ledger(run, store, head.fingerprint if head else {}, events, again, leave)
        account = Account(run, store, ledger.totals, events)
        if head is not None and not ledger.todo:
            summary = account.summary(head, leave, {}, stopped=False)
        else:
            summary = _on_ray(account, ledger, head, leave, address, stop, backend, limits)
        events(RunEnded(summary))
    return summary


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
