"""Datasets to report on: made by the engine with its phantom backend, or of phantom films with scores."""

from __future__ import annotations

import dataclasses

import pytest
from report_pages import QUALITY, REFUSED, make, scored

from tests.doubles.phantoms import phantom_groups, phantom_head, publish_phantoms
from xreal_synth.shards.finish import finish
from xreal_synth.shards.head import open_dataset
from xreal_synth.storage import LocalStore
from xreal_synth.types import ShardPlan


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """Twelve groups with twins and shams; not to be written to."""
    return make(tmp_path_factory.mktemp("told"))


@pytest.fixture(scope="session")
def gated(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """Eight groups of phantom films that a gate looked at, with refused attempts; not to be written to."""
    store = LocalStore(tmp_path_factory.mktemp("gated"))
    rows = [{"weight": 1, "labels": []}, {"weight": 2, "labels": [{"name": "Pneumonia"}]}]
    settings: dict[str, object] = {"seed": 7, "findings": rows, "quality": QUALITY}
    head = dataclasses.replace(phantom_head(), settings=settings)
    open_dataset(store, head, "version: 1\n", lambda there, here: [])
    for k in range(2):
        shard = ShardPlan("phantoms", k, 4 * k, 4 * k + 4)
        films = [scored(one) for one in phantom_groups(shard.start, shard.stop, 64) if one.meta.group != 2]
        publish_phantoms(store, shard, films, REFUSED if k == 0 else [], gated=True)
    finish(store, head, asked=8)
    return store
