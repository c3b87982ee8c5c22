"""One shard made and published here, as an actor does it."""

from __future__ import annotations

from xreal_synth.engine.backend import Backend, OnBatch
from xreal_synth.engine.publish import OpenShard, publish_shard
from xreal_synth.engine.worker import Worker
from xreal_synth.run.setup import Run
from xreal_synth.storage import Store
from xreal_synth.types import ShardPlan, ShardRecord


def run_shard(
    run: Run,
    backend: Backend,
    shard: ShardPlan,
    store: Store,
    *,
    attempt: int = 0,
    actor: str = "local",
    heartbeat: OnBatch = lambda images: None,
    replacing: bool = False,
) -> ShardRecord:
    """Makes a shard and publishes tar, table and record; returns the record.

    `attempt` counts tries at the shard. With `replacing` the shard's earlier files give way. Raises
    StorageError, DatasetError and whatever the models raise; then nothing but whole files is left behind.
    """
    records: list[ShardRecord] = []

    def published(rendered: OpenShard) -> None:
        records.append(publish_shard(run, rendered, store, actor=actor, attempt=attempt, replacing=replacing))

    with Worker(run, backend, published, heartbeat) as worker:
        worker.make(shard)
    return records[0]
