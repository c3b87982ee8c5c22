"""A dataset made from the user's organ masks: it goes on where the masks have moved, and tells where they differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from xreal_synth.dataset.head import read_head
from xreal_synth.dataset.names import DATASET
from xreal_synth.dataset.seal import sealed
from xreal_synth.errors import AnatomyError, DatasetError
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.reopen import reopen
from xreal_synth.run.setup import Run, check_before_start, open_run
from xreal_synth.storage import LocalStore

RECIPE = """
version: 1
name: own
seed: 3
anatomies: 2
bundle: xreal-tiny
anatomy: {{source: {{masks: {{path: {masks}}}}}}}
findings: [{{weight: 1, labels: []}}]
sampling: {{steps: 5}}
quality: {{profile: none}}
output: {{uri: unset}}
"""


def opened(masks: Path) -> Run:
    text = RECIPE.format(masks=masks)
    return open_run(LoadedRecipe(recipe_from_text(text), text))


@pytest.fixture
def masks(image_folder: Callable[..., Path]) -> Path:
    return image_folder() / "masks"


@pytest.fixture
def made(masks: Path, tmp_path: Path, make_shards: Callable[[Run, Path], object]) -> LocalStore:
    folder = tmp_path / "out"
    make_shards(opened(masks), folder)
    return LocalStore(folder)


def test_moved_masks_are_the_same_and_a_changed_one_is_reported(made: LocalStore, masks: Path, tmp_path: Path) -> None:
    before = opened(masks)
    moved = Path(shutil.move(masks, tmp_path / "elsewhere"))
    assert opened(moved).digest == before.digest
    assert check_before_start(opened(moved), made) is not None
    assert str(masks) not in json.dumps(before.settings)

    shutil.copy(moved / "a.png", moved / "b.png")
    with pytest.raises(DatasetError, match=r'anatomy\.source\.masks\.content: "[0-9a-f.]+ there') as reported:
        check_before_start(opened(moved), made)
    assert "masks.path" not in str(reported.value)


def test_a_dataset_is_mended_with_the_masks_where_they_are_now(made: LocalStore, masks: Path, tmp_path: Path) -> None:
    head = read_head(made)
    assert reopen(made, head, anatomies=2).digest == head.digest
    moved = Path(shutil.move(masks, tmp_path / "elsewhere"))
    with pytest.raises(AnatomyError, match="no such folder"):
        reopen(made, head, anatomies=2)
    assert reopen(made, head, anatomies=2, images=str(moved)).digest == head.digest
    (moved / "c.png").unlink()
    with pytest.raises(AnatomyError, match="the same masks"):
        reopen(made, head, anatomies=2, images=str(moved))


def test_a_dataset_of_an_earlier_version_names_the_difference(made: LocalStore, masks: Path) -> None:
    """There the masks were known by their path alone."""
    document = json.loads(made.read_bytes(DATASET))
    document.pop("sha256_of_this")
    document["settings"]["anatomy"]["source"]["masks"] = {"path": str(masks)}
    document["digest"] = "0" * 64
    made.replace(DATASET, sealed(document))
    for opening in (
        lambda: check_before_start(opened(masks), made),
        lambda: reopen(made, read_head(made), anatomies=2),
    ):
        with pytest.raises(DatasetError) as reported:
            opening()
        assert "anatomy.source.masks.content: not set there" in str(reported.value)
        assert "anatomy.source.masks.path: " in str(reported.value)
