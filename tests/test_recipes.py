"""Every recipe in recipes/ plans, and makes its first group with its own bundle, in few steps and ungated."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from xreal_synth.dataset.check import group_problems, sample_problems
from xreal_synth.engine.backend import TorchBackend
from xreal_synth.engine.gate_networks import open_networks
from xreal_synth.engine.worker import make_group
from xreal_synth.errors import RecipeError
from xreal_synth.from_recipe import open_recipe
from xreal_synth.models.load import load_bundle
from xreal_synth.models.loaded import LoadedBundle
from xreal_synth.planning.probe import probe
from xreal_synth.quality.gate import Gate
from xreal_synth.recipe.load import load_recipe
from xreal_synth.run.setup import open_run

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*.yaml"))
ON_THE_USERS_FILES = {"evaluation.yaml": ["anatomy.source.masks.path=recipes/own-masks.tar"]}
"""What stands here in the place of files that a user has."""


@cache
def loaded(bundle: str, control: str) -> LoadedBundle:
    from xreal_synth.models.describe import describe

    return load_bundle(describe(bundle), control=control)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RECIPES)
def test_it_plans_and_makes_its_first_group(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    run = open_run(
        load_recipe(
            Path("recipes") / name,
            overrides=["sampling.steps=3", "quality={profile: none}", *ON_THE_USERS_FILES.get(name, ())],
        )
    )
    report = probe(run.plan, 32)
    report.require_placeable(name)
    assert min(row.placeable for row in report.rows) > 0.7
    gate = Gate(run.quality, open_networks(run.quality, run.bundle, "cpu"))
    backend = TorchBackend(run, loaded(run.bundle.name, run.sampling.control), gate, "cpu", "fp32", 1)
    index = next(index for index in range(run.recipe.anatomies) if run.recipe.findings[run.plan.row(index)].paints)
    made = make_group(run, backend, index)
    reported = [sample.meta.member for sample in made]
    assert reported == [member.name for member in run.plan.sample(index, made[0].meta.attempt).members]
    assert not group_problems(made)
    head = run.head({})
    assert not [text for sample in made for text in sample_problems(sample, head)]
    for sample in made:
        assert sample.image.shape == (run.delivered_size, run.delivered_size)
        assert np.ptp(sample.image) > 40
        edited = sample.meta.member != "h" and run.sampling.mode != "joint"
        assert sample.change.any() == edited


def test_the_recipes_are_those_that_are_known() -> None:
    """So that one that is taken away or added is looked at."""
    assert {"smoke.yaml", "quickstart.yaml", "pneumonia-balance.yaml", "multi-finding.yaml"} <= set(RECIPES)
    assert {"counterfactual-pairs.yaml", "own-masks.yaml"} <= set(RECIPES)


def test_what_a_recipe_names_is_looked_for_here_and_then_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dataset is the same wherever its masks lie, and its kept recipe says where they were found."""
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("own-masks.yaml", "own-masks.tar"):
        shutil.copy(ROOT / "recipes" / name, mine)
    monkeypatch.chdir(tmp_path)
    beside = open_recipe("mine/own-masks.yaml")
    assert "path: mine/own-masks.tar" in beside.loaded.text
    shutil.copy(mine / "own-masks.tar", tmp_path)
    here = open_recipe("mine/own-masks.yaml")
    assert here.loaded.text == (mine / "own-masks.yaml").read_text()
    assert beside.digest == here.digest == open_recipe("own-masks").digest
    with pytest.raises(RecipeError, match=f"nothing at {tmp_path}/m.tar, nor at {mine}/m.tar"):
        open_recipe("mine/own-masks.yaml", overrides=["anatomy.source.masks.path=m.tar"])
