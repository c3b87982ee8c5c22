"""A dataset of very many tiny shards, whole and valid, to measure readers against.

Every shard is one group of fake images of a few pixels; tars, tables and records are what the engine writes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from tests.doubles.fakes import FINGERPRINT, fake_groups
from tests.doubles.tars import build_tar
from xreal_synth.dataset.head import read_head
from xreal_synth.dataset.names import RECORDS, SHARDS, TABLES, record_key, shards_in, table_key, tar_key
from xreal_synth.dataset.record import build_record, record_bytes, stamp
from xreal_synth.dataset.table import build_table
from xreal_synth.dataset.tar import encode_sample
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.resources import cpu_count
from xreal_synth.run.setup import Run, claim, open_run
from xreal_synth.storage import LocalStore
from xreal_synth.types import ShardPlan

RECIPE = """\
version: 1
name: simulated
seed: 11
anatomies: 1
bundle: xreal-tiny
findings:
  - {weight: 1, labels: []}
  - {weight: 2, labels: [{name: Pneumonia}]}
pairs: {twin: true}
sampling: {steps: 5}
quality: {profile: none}
split: {val: 0.3}
output: {uri: unset, shard_samples: 1}
compute: {micro_batch: 2}
"""
IMAGE = 8
_CHUNK = 250


def simulated_run(shards: int) -> Run:
    """The run whose dataset has this many shards of one group."""
    return open_run(LoadedRecipe(recipe_from_text(RECIPE, overrides=[f"anatomies={shards}"]), RECIPE))


def write_dataset(
    folder: Path,
    shards: int,
    on_shards: Callable[[int, int], None] = lambda done, total: None,
    processes: int | None = None,
) -> None:
    """Writes the shards that the folder lacks; `on_shards(done, total)` is called as they come.

    Nothing is synchronised with the disk: the dataset is for measuring and is thrown away.
    """
    store = LocalStore(folder)
    run = simulated_run(shards)
    claim(run, store, FINGERPRINT)
    there = set(shards_in(store, RECORDS, run.recipe.name))
    missing = [shard for shard in range(shards) if shard not in there]
    for part in (SHARDS, TABLES, RECORDS):
        (folder / part).mkdir(exist_ok=True)
    done = shards - len(missing)
    on_shards(done, shards)
    if not missing:
        return
    chunks = [missing[start : start + _CHUNK] for start in range(0, len(missing), _CHUNK)]
    workers = min(processes or cpu_count(), len(chunks))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for written in as_completed([pool.submit(_write, folder, chunk) for chunk in chunks]):
            done += written.result()
            on_shards(done, shards)


def _write(folder: Path, shards: list[int]) -> int:
    head = read_head(LocalStore(folder))
    for shard in shards:
        plan = ShardPlan(head.name, shard, shard, shard + 1)
        samples = [
            replace(sample, meta=replace(
                sample.meta, digest=head.digest, bundle_name=head.bundle.name, bundle_hash=head.bundle.hash
            ))
            for sample in fake_groups(shard, shard + 1, IMAGE)
        ]  # fmt: skip
        rows = [encode_sample(sample).row for sample in samples]
        tar, table = build_tar(samples), build_table(plan, rows)
        record = build_record(
            plan, rows, (), tar=stamp(tar_key(plan.stem), tar), table=stamp(table_key(plan.stem), table),
            rejects=None, digest=head.digest, fingerprint=head.fingerprint, timings={"make_s": 120.0},
            actor=f"a{shard % 64}@simulated:1", attempt=0,
        )  # fmt: skip
        (folder / record.tar.path).write_bytes(tar)
        (folder / record.table.path).write_bytes(table)
        (folder / record_key(plan.stem)).write_bytes(record_bytes(record))
    return len(shards)
