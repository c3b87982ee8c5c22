"""The cost that `plan` tells, against rows counted at the denoiser's door."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.engine.test_engine_joint import mapped_bundle
from xreal_synth.engine.backend import Networks
from xreal_synth.engine.estimate import estimate, short_shards
from xreal_synth.engine.worker import render_groups
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import Run, open_run

RECIPE = """
version: 1
name: rows
seed: 3
anatomies: 4
bundle: BUNDLE
findings:
  - {weight: 1, labels: []}
  - {weight: 1, labels: [{name: Pneumonia}, {name: Effusion}]}
sampling: {steps: 10, hold: 0.5, branch: 0.4, guidance: 2.0, spacing: 2.0}
output: {uri: unset}
compute: {micro_batch: 1, precision: fp32}
"""


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(mapped_bundle(tmp_path_factory.mktemp("mapped")))


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "branch"},
        {"mode": "branch", "guidance_floor": 120, "resample": 2},
        {"mode": "branch", "guidance_floor": 120, "soft": 1.0},
        {"mode": "branch", "guidance": 1.0, "guidance_floor": 120},
        {"mode": "reference", "spacing": None},
        {"mode": "reference", "spacing": None, "resample": 3, "guidance_floor": 120},
        {"mode": "joint"},
        {"mode": "joint", "guidance_floor": 120},
        {"mode": "joint", "guidance_floor": 120, "resample": 2, "soft": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("bundle", ["tiny", "mapped"])
def test_the_estimate_is_what_the_denoiser_computes(settings: dict[str, object], bundle: str, mapped: str) -> None:
    run = _open("xreal-tiny" if bundle == "tiny" else mapped, settings)
    assert _counted(run) == estimate(run, images=4.0).evaluations


def test_minis_own_settings_cost_what_the_results_say() -> None:
    """Rows of an image with a finding as xreal-mini 3.1 makes it, and of an edit beside its healthy image."""
    mini = RECIPE.replace("BUNDLE", "xreal-mini").replace("steps: 10, hold: 0.5, branch: 0.4, ", "")
    mini = mini.replace("guidance: 2.0, spacing: 2.0", "")
    costs = [
        estimate(_loaded(mini, [f"pairs.twin={twin}"]), images=4.0).evaluations_per_edit for twin in ("false", "true")
    ]
    assert costs == [19, 17]


def _open(bundle: str, settings: dict[str, object]) -> Run:
    told = [f"sampling.{key}={'null' if value is None else value}" for key, value in settings.items()]
    return _loaded(RECIPE.replace("BUNDLE", bundle), told)


def _loaded(text: str, overrides: list[str]) -> Run:
    return open_run(LoadedRecipe(recipe_from_text(text, overrides=overrides), text))


def _counted(run: Run) -> int:
    """Rows of every forward of the denoiser while the run's groups are made, each in a micro-batch of its own."""
    backend: Any = Networks().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    rows: list[int] = []
    backend.model._unet.register_forward_pre_hook(lambda network, given: rows.append(len(given[0])))
    specs = [run.plan.sample(index, 0) for index in range(run.recipe.anatomies)]
    assert len(list(render_groups(run, backend, specs))) == run.recipe.anatomies
    return sum(rows)


def test_shards_that_last_seconds_are_told_where_the_bundle_states_its_speed() -> None:
    run = _loaded(RECIPE.replace("BUNDLE", "xreal-tiny"), ["anatomies=64", "output.shard_samples=16"])
    assert short_shards(run, estimate(run, images=64.0)) == {}
    stated = replace(run, bundle=replace(run.bundle, seconds_per_evaluation={"slow": 1.0, "fast": 0.01}))
    cost = estimate(stated, images=64.0)
    assert short_shards(stated, cost) == {"fast": pytest.approx(0.01 * cost.evaluations / 4)}
    one = replace(stated, loaded=_loaded(RECIPE.replace("BUNDLE", "xreal-tiny"), ["anatomies=8"]).loaded)
    assert short_shards(one, estimate(one, images=8.0)) == {}, "one shard is as small as it is"
