"""Datasets to report on: made by the engine with its fake backend, or of fake images with scores."""

from __future__ import annotations

import dataclasses

import pytest
from report_pages import QUALITY, REFUSED, make, scored

from tests.doubles.fakes import fake_groups, fake_head, publish_fakes
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import open_dataset
from xreal_synth.storage import LocalStore
from xreal_synth.types import ShardPlan


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """Twelve groups with twins and shams; not to be written to."""
    return make(tmp_path_factory.mktemp("told"))


@pytest.fixture(scope="session")
def gated(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """Eight groups of fake images that a gate looked at, with refused attempts; not to be written to."""
    store = LocalStore(tmp_path_factory.mktemp("gated"))
    rows = [{"weight": 1, "labels": []}, {"weight": 2, "labels": [{"name": "Pneumonia"}]}]
    settings: dict[str, object] = {"seed": 7, "findings": rows, "quality": QUALITY}
    head = dataclasses.replace(fake_head(), settings=settings)
    open_dataset(store, head, "version: 1\n", lambda there, here: [])
    for k in range(2):
        shard = ShardPlan("fakes", k, 4 * k, 4 * k + 4)
        images = [scored(one) for one in fake_groups(shard.start, shard.stop, 64) if one.meta.group != 2]
        publish_fakes(store, shard, images, REFUSED if k == 0 else [], gated=True)
    finish(store, head, asked=8)
    return store
