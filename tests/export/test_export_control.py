"""Films made under `sampling.control: none` do not follow their organ masks, and no export says that they do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.doubles.phantoms import phantom_groups, phantom_head, publish_phantoms
from xreal_synth.errors import DatasetError
from xreal_synth.export.provenance import provenance
from xreal_synth.export.source import open_source
from xreal_synth.export.txrv import SyntheticDataset
from xreal_synth.shards.finish import finish
from xreal_synth.shards.head import open_dataset
from xreal_synth.storage import LocalStore
from xreal_synth.types import ShardPlan


@pytest.fixture(params=["xreal", "controlnet", "none"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, LocalStore]:
    head = phantom_head()
    head = replace(head, settings={**head.settings, "sampling": {"control": request.param}})
    store = LocalStore(tmp_path)
    open_dataset(store, head, "version: 1\n", lambda there, here: [])
    publish_phantoms(store, ShardPlan("phantoms", 0, 0, 2), phantom_groups(0, 2, 32))
    finish(store, head)
    return request.param, store


def test_the_origin_is_told(made: tuple[str, LocalStore]) -> None:
    control, store = made
    told = provenance(open_source(store))
    assert told.fields()["drawn_from"] == told.drawn_from
    assert ("do not follow the organ masks" in told.drawn_from) == (control == "none")


def test_masks_that_films_do_not_follow_are_no_semantic_masks(made: tuple[str, LocalStore]) -> None:
    control, store = made
    assert "semantic_masks" not in SyntheticDataset(store.uri)[0]
    if control == "none":
        with pytest.raises(DatasetError, match="do not follow their organ masks"):
            SyntheticDataset(store.uri, semantic_masks=True)
    else:
        assert "Heart" in SyntheticDataset(store.uri, semantic_masks=True)[0]["semantic_masks"]
