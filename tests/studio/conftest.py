"""A studio of the tiny bundle, a small dataset of it with scores, and real images to hold beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.doubles.image_folder import write_image_folder
from tests.doubles.shards import run_shard
from xreal_synth.dataset.finish import finish
from xreal_synth.engine.backend import Networks
from xreal_synth.engine.worker import environment
from xreal_synth.from_recipe import open_recipe
from xreal_synth.models.tiny import build_tiny
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import claim
from xreal_synth.storage import LocalStore
from xreal_synth.studio.making import Studio

ROWS = [
    {"weight": 1, "labels": []},
    {"weight": 2, "labels": [{"name": "Pneumonia"}]},
    {"weight": 1, "labels": [{"name": "Effusion"}, {"name": "Atelectasis"}]},
]


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studio") / "tiny"
    shipped = Path(__file__).parents[2] / "xreal_synth/bundles/xreal-tiny/anatomy_bank"
    (folder / "anatomy_bank").mkdir(parents=True)
    for file in shipped.iterdir():
        (folder / "anatomy_bank" / file.name).write_bytes(file.read_bytes())
    build_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def studio(tiny_bundle: Path) -> Studio:
    return Studio(str(tiny_bundle))


@pytest.fixture(scope="session")
def dataset(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 anatomies in two shards: twins, variants, shams, and the scores of a gate that warns of every variant."""
    folder = tmp_path_factory.mktemp("studio") / "browsed"
    warns = {"change": {"action": "warn", "inside": 200}, "pixels": {"action": "warn"}, "seam": {"action": "warn"}}
    run = open_recipe({
        "version": 1, "name": "browsed", "anatomies": 12, "bundle": str(tiny_bundle), "findings": ROWS,
        "pairs": {"twin": True, "sham": 0.3}, "sampling": {"steps": 2}, "quality": {"checks": warns},
        "output": {"uri": str(folder), "shard_samples": 6},
    })  # fmt: skip
    torch.set_num_threads(1)
    store, shape = LocalStore(folder), actor_shape(run.recipe.compute, Resources(1, 0), recorded=4)
    backend = Networks().open(run, shape)
    head = claim(run, store, environment(backend))
    for k in range(run.plan.shard_count):
        run_shard(run, backend, run.plan.shard(k), store)
    finish(store, head, split_of=run.plan.split, asked=run.recipe.anatomies)
    return folder


@pytest.fixture(scope="session")
def real_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("studio") / "real")
