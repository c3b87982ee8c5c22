"""Images made under `sampling.control: none` do not follow their organ masks, and no export says that they do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.doubles.fakes import fake_groups, fake_head, publish_fakes
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import open_dataset
from xreal_synth.dataset.source import open_source
from xreal_synth.errors import DatasetError
from xreal_synth.export.provenance import provenance
from xreal_synth.export.txrv import SyntheticDataset
from xreal_synth.storage import LocalStore
from xreal_synth.types import ShardPlan


@pytest.fixture(params=["xreal", "controlnet", "none"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, LocalStore]:
    head = fake_head()
    head = replace(head, settings={**head.settings, "sampling": {"control": request.param}})
    store = LocalStore(tmp_path)
    open_dataset(store, head, "version: 1\n", lambda there, here: [])
    publish_fakes(store, ShardPlan("fakes", 0, 0, 2), fake_groups(0, 2, 32))
    finish(store, head)
    return request.param, store


def test_the_origin_is_reported(made: tuple[str, LocalStore]) -> None:
    control, store = made
    reported = provenance(open_source(store))
    assert reported.fields()["drawn_from"] == reported.drawn_from
    assert ("do not follow the organ masks" in reported.drawn_from) == (control == "none")


def test_masks_that_images_do_not_follow_are_no_semantic_masks(made: tuple[str, LocalStore]) -> None:
    control, store = made
    assert "semantic_masks" not in SyntheticDataset(store.uri)[0]
    if control == "none":
        with pytest.raises(DatasetError, match="do not follow their organ masks"):
            SyntheticDataset(store.uri, semantic_masks=True)
    else:
        assert "Heart" in SyntheticDataset(store.uri, semantic_masks=True)[0]["semantic_masks"]
