"""The Ray actor: loads the models once, renders a shard at a time, shares micro-batches between one and the next, and
publishes what is through meanwhile; returns records and never images."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import ray

from xreal_synth.dataset.record import read_record
from xreal_synth.engine.backend import Backend, BackendSpec
from xreal_synth.engine.metrics import ActorMeters
from xreal_synth.engine.pool import Failed, Ready, actor_id
from xreal_synth.engine.publish import OpenShard, publish_shard
from xreal_synth.engine.ray_probe import Probe, refuse_unshared, sees
from xreal_synth.engine.ray_session import Exported
from xreal_synth.engine.schedule import Cause
from xreal_synth.engine.worker import Worker, environment
from xreal_synth.errors import DatasetError, EngineError, NotFiniteError, StorageError, XrealError
from xreal_synth.recipe.load import LoadedRecipe
from xreal_synth.run.resources import ActorShape
from xreal_synth.run.setup import Run, open_run
from xreal_synth.storage import FULL, Store, open_store, retrying, scrubbed, with_retries
from xreal_synth.types import ShardPlan, ShardRecord

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

SPOILS_DEVICE = ("OutOfMemoryError", "AcceleratorError")
"""Exceptions of torch after which the process's device context cannot be trusted."""

OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError")
OUT_OF_MEMORY_HINT = (
    "free the device's memory for this actor; or begin another dataset with a smaller compute.micro_batch: a dataset's "
    "own, recorded in dataset.json, is never changed, because it changes bytes"
)

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Several processes of one thread keep all cores busy; several threads in one do not, and change bytes. Ray sets
the first before numpy loads, unless the node has its own; torch, loaded later, sees all three."""


@dataclass(frozen=True, slots=True)
class ActorConfig:
    """What an actor is told at birth. `folder` is the driver's working directory: relative paths of bundle and
    masks start there where it exists, as it does on one machine and in a job."""

    actor: str
    loaded: LoadedRecipe
    digest: str
    store: str
    shape: ActorShape
    backend: BackendSpec
    folder: str
    probe: Probe | None


WAITING = 3
"""Shards that may have groups left while the next is rendered: each has an open tar in a temporary folder."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A shard whose groups were all begun, with the images made meanwhile; `open` says whether it or one before it has
    groups left that wait for the next shard, or for `finish`. What has none is being published."""

    images: float
    open: bool = False


@dataclass(frozen=True, slots=True)
class _Order:
    """How a shard is to be published, and where its record will be."""

    attempt: int
    replacing: bool
    record: Future[ShardRecord | Failed] = field(default_factory=Future)


class Generator:
    """Not used directly: `actor_class` makes the Ray actor of it."""

    _run: Run
    _store: Store
    _backend: Backend
    """From when it has loaded; from when its micro-batch is known also:"""
    _meters: ActorMeters
    _worker: Worker

    def __init__(self, config: ActorConfig) -> None:
        self._config = config
        self._images = 0.0
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="publish")
        self._last: Future[None] | None = None
        self._orders: dict[int, _Order] = {}

    def __repr__(self) -> str:
        """How Ray's dashboard and log lines name it. A name of Ray's own would have to be unique on the cluster."""
        return f"xreal_synth:{self._config.loaded.recipe.name}:{self._config.actor}"

    def ready(self) -> Ready | Failed:
        """Loads everything, once; not settled where the micro-batch is still to be found."""
        return _caught(self._load)

    def settle(self, micro_batch: int | None) -> Ready | Failed:
        """Fixes the micro-batch of an actor that has loaded, or finds it."""

        def settled() -> Ready:
            self._backend.settle(micro_batch)
            return self._begun()

        return _caught(settled)

    def shard(self, shard: int, attempt: int, replacing: bool, alone: bool) -> Rendered | ShardRecord | Failed:
        """Renders one shard, which is published when its last group is through; the record, if another run has made the
        shard meanwhile. `alone` it shares no micro-batch with others."""
        return _caught(lambda: self._make(shard, attempt, replacing, alone), self._failed)

    def finish(self) -> None:
        """Decides all groups that wait for a next shard; `published` tells what came of their shards."""
        self._images = 0.0
        _caught(lambda: self._meters.worked(self._worker.finish()), self._failed)

    @ray.method(concurrency_group="publish")
    def published(self, shard: int) -> ShardRecord | Failed:
        """Waits until a shard that was rendered is published; the next may be at work."""
        record = self._orders[shard].record.result()
        del self._orders[shard]
        return record

    @ray.method(concurrency_group="beat")
    def placed(self) -> str:
        """The id of the node it runs on; answers before anything is loaded."""
        return str(ray.get_runtime_context().get_node_id())

    @ray.method(concurrency_group="beat")
    def beat(self) -> tuple[float, bool]:
        """Images made in the shard at work, and whether one before it is being written; answers while one is made."""
        return self._images, self._last is not None and not self._last.done()

    def _load(self) -> Ready:
        config = self._config
        if config.shape.device == "cpu":
            os.environ.update(ONE_THREAD)
        if Path(config.folder).is_dir():
            os.chdir(config.folder)
        run = open_run(config.loaded)
        if run.digest != config.digest:
            raise EngineError(
                found=f"on {socket.gethostname()} the recipe's digest is {run.digest[:12]}",
                wanted=f"{config.digest[:12]}, as on the driver",
                hint="use one image: the same xreal-synth and the same bundle on every node",
            )
        store = retrying(open_store(config.store))
        if config.probe is not None and not sees(store, config.probe):
            raise refuse_unshared(store, socket.gethostname())
        self._run, self._store = run, store
        self._backend = config.backend.open(run, replace(config.shape, waits=config.shape.micro_batch is None))
        if config.shape.micro_batch is None:
            return Ready(socket.gethostname(), os.getpid(), {}, settled=False)
        return self._begun()

    def _begun(self) -> Ready:
        backend = self._backend
        self._meters = ActorMeters(Exported(self._run.recipe.name, self._config.actor))
        self._worker = Worker(self._run, backend, self._deliver, self._count)
        trials = getattr(backend, "trials", ())
        return Ready(socket.gethostname(), os.getpid(), environment(backend), trials, backend.canary)

    def _make(self, shard: int, attempt: int, replacing: bool, alone: bool) -> Rendered | ShardRecord:
        self._images = 0.0
        plan = self._run.plan.shard(shard)
        if not replacing and (there := _generated_elsewhere(self._run, self._store, plan)) is not None:
            return there
        print(f"shard {shard}, try {attempt + 1}", flush=True)  # to its log, which the dashboard shows
        self._orders[shard] = _Order(attempt, replacing)
        self._meters.worked(self._worker.make(plan, 0 if alone else WAITING))
        return Rendered(self._images, bool(self._worker.open))

    def _count(self, images: float) -> None:
        self._images += images
        self._meters.images(images)

    def _deliver(self, rendered: OpenShard) -> None:
        """Publishes a shard that is through, once the one before is published."""
        order = self._orders[rendered.shard.shard]
        actor = actor_id(self._config.actor, socket.gethostname(), os.getpid())

        def write() -> ShardRecord:
            with self._meters.publishing():
                return publish_shard(
                    self._run, rendered, self._store, actor=actor, attempt=order.attempt, replacing=order.replacing
                )

        if self._last is not None:
            self._last.result()
        self._last = self._publisher.submit(lambda: order.record.set_result(_caught(write)))

    def _failed(self, error: Exception) -> Failed:
        """Gives up the shards that were in the micro-batch with what failed: where they are several, nobody knows whose
        failure it is, and each is made again, alone."""
        failed = failure_of(error)
        if failed.cause in ("error", "overflow") and not failed.spoiled and not self._backend.is_sound():
            reason = f"{failed.reason} (and the device no longer computes what is known)"
            failed = replace(failed, cause="error", reason=reason, spoiled=True)
        given_up = self._worker.abandon()
        if len(given_up) > 1:
            failed = replace(failed, cause="lost", reason=f"{failed.reason} (shards {given_up} together)")
        for shard in given_up:
            self._orders[shard].record.set_result(failed)
        return failed


def _generated_elsewhere(run: Run, store: Store, plan: ShardPlan) -> ShardRecord | None:
    """The record of a shard that another run, or a late actor, has finished since this run began."""
    try:
        record = with_retries(f"reading the record of {plan.stem}", lambda: read_record(store, plan.stem))
    except DatasetError:
        return None
    whole = record is not None and (record.digest, record.stop) == (run.digest, plan.stop)
    return record if whole else None


def actor_class(shape: ActorShape) -> Any:
    """The actor with its share of a node. Ray restarts and retries nothing: the driver does."""
    options: dict[str, Any] = {
        "num_cpus": shape.cpus,
        "num_gpus": shape.gpus,
        "max_restarts": 0,
        "max_task_retries": 0,
        "concurrency_groups": {"beat": 1, "publish": 1},
    }
    make: Any = ray.remote
    return make(**options)(Generator)


def _caught(action: Callable[[], T], failed: Callable[[Exception], Failed] | None = None) -> T | Failed:
    try:
        return action()
    except Exception as error:
        return (failed or failure_of)(error)


def failure_of(error: Exception) -> Failed:
    """An exception as one of the schedule's causes, without this node's credentials: it goes into logs and datasets."""
    trace = scrubbed(traceback.format_exc())
    kinds: dict[type[XrealError], Cause] = {StorageError: "storage", NotFiniteError: "overflow", XrealError: "mistake"}
    for kind, cause in kinds.items():
        if isinstance(error, kind):
            return Failed(cause, scrubbed(error.message()), trace)
    name = type(error).__name__
    reason = scrubbed(f"{name}: {error}")
    if isinstance(error, OSError) and error.errno in FULL:
        hint = "make room where temporary files go (TMPDIR), then run the same command again to go on"
        return Failed("storage", f"{reason}\n  hint:   {hint}", trace)
    full = name in OUT_OF_MEMORY
    if not full and "torch" in sys.modules:  # a library of the device's may say so in words of its own
        from xreal_synth.models.devices import does_not_fit

        full = does_not_fit(error)
    if full:
        reason += f"\n  hint:   {OUT_OF_MEMORY_HINT}"
    return Failed("error", reason, trace, spoiled=full or name in SPOILS_DEVICE)
