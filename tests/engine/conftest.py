"""A small recipe for the engine's tests, and what a run of it must give."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.doubles.fake_backend import FakeImages
from tests.doubles.shards import run_shard
from xreal_synth.engine.backend import Backend
from xreal_synth.engine.worker import environment
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import Run, claim, open_run
from xreal_synth.storage import LocalStore
from xreal_synth.types import ShardRecord

RECIPE = """
version: 1
name: fault
seed: 3
anatomies: 12
bundle: xreal-tiny
findings:
  - {weight: 1, labels: []}
  - {weight: 2, labels: [{name: Pneumonia}]}
pairs: {twin: true}
sampling: {steps: 5}
quality: {profile: none}
split: {val: 0.3}
output: {uri: unset, shard_samples: 2}
compute: {micro_batch: 2}
"""

OpenRun = Callable[..., Run]
MakeShards = Callable[..., list[ShardRecord]]
Hashes = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="session")
def open_fault_run() -> OpenRun:
    """A run of six shards of two groups; keywords replace settings, `__` for a dot (compute__actors=2)."""

    def open_it(**settings: object) -> Run:
        overrides = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
        return open_run(LoadedRecipe(recipe_from_text(RECIPE, overrides=overrides), RECIPE))

    return open_it


@pytest.fixture(scope="session")
def fake() -> Callable[[Run], Backend]:
    """The fake backend as an actor would open it."""
    return lambda run: FakeImages().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))


@pytest.fixture(scope="session")
def make_shards(fake: Callable[[Run], Backend]) -> MakeShards:
    """Makes a run's shards here, one after another, without Ray: what any engine run must equal."""

    def make(run: Run, folder: Path) -> list[ShardRecord]:
        store, backend = LocalStore(folder), fake(run)
        claim(run, store, environment(backend))
        return [run_shard(run, backend, run.plan.shard(k), store) for k in range(run.plan.shard_count)]

    return make


@pytest.fixture(scope="session")
def tar_hashes() -> Hashes:
    """sha256 of every published tar by name."""

    def hashes(folder: Path) -> dict[str, str]:
        tars = sorted((folder / "shards").glob("*.tar"))
        return {tar.name: hashlib.sha256(tar.read_bytes()).hexdigest() for tar in tars}

    return hashes


@pytest.fixture(scope="session")
def whole_dataset(tmp_path_factory: pytest.TempPathFactory, open_fault_run: OpenRun, make_shards: MakeShards) -> Path:
    """The folder of the whole run's shards; not to be written to."""
    folder = tmp_path_factory.mktemp("whole")
    make_shards(open_fault_run(), folder)
    return folder


@pytest.fixture(scope="session")
def expected(whole_dataset: Path, tar_hashes: Hashes) -> dict[str, str]:
    """The tars of the whole run."""
    return tar_hashes(whole_dataset)
