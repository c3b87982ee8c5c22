"""Whole shards by the tiny networks under each control: written, read, verified, made again."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.doubles.shards import run_shard
from xreal_synth.cli.main import main
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.tar import read_tar
from xreal_synth.dataset.verify import verify
from xreal_synth.engine.backend import Networks
from xreal_synth.engine.estimate import estimate
from xreal_synth.engine.worker import environment, replay
from xreal_synth.models.describe import SHIPPED
from xreal_synth.models.save import read_fields, write_bundle
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.reopen import reopen
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import Run, claim, open_run
from xreal_synth.storage import LocalStore

RECIPE = """
version: 1
name: controls
anatomies: 2
bundle: {bundle}
findings:
  - {{weight: 1, labels: [{{name: Pneumonia}}]}}
pairs: {{twin: true}}
sampling: {{steps: 4, control: {control}}}
output: {{uri: unset}}
compute: {{micro_batch: 2}}
"""


def run_of(control: str, bundle: str = "xreal-tiny") -> Run:
    text = RECIPE.format(control=control, bundle=bundle)
    return open_run(LoadedRecipe(recipe_from_text(text), text))


def make(run: Run, folder: Path) -> LocalStore:
    store = LocalStore(folder)
    backend = Networks().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    claim(run, store, environment(backend))
    run_shard(run, backend, run.plan.shard(0), store)
    finish(store, run.head({}))
    return store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LocalStore]:
    stores: dict[str, LocalStore] = {}

    def once(control: str) -> LocalStore:
        if control not in stores:
            stores[control] = make(run_of(control), tmp_path_factory.mktemp(control))
        return stores[control]

    return once


def tar_of(store: LocalStore) -> Path:
    assert store.local_path is not None
    (tar,) = (store.local_path / "shards").iterdir()
    return tar


@pytest.mark.parametrize("control", ["controlnet", "none"])
def test_a_dataset_under_another_control(made: Callable[[str], LocalStore], control: str) -> None:
    store = made(control)
    assert verify(store).problems == ()
    with tarfile.open(tar_of(store)) as tar:
        reported = json.load(tar.extractfile("0000000000-v0.json"))["sampling"]  # type: ignore[arg-type]
    assert reported["control"] == control
    assert {"hold", "soft"}.isdisjoint(reported)
    run = run_of(control)
    again = reopen(store, run.head({}), anatomies=2)
    backend = Networks().open(again, actor_shape(again.recipe.compute, Resources(1, 0)))
    image = replay(again, backend, "0000000001-v0")
    (stored,) = [sample for sample in read_tar(tar_of(store)) if sample.meta.key == image.meta.key]
    assert image.meta == stored.meta
    assert np.array_equal(image.image, stored.image)


@pytest.mark.parametrize("mode", ["branch", "reference", "paper"])
@pytest.mark.parametrize("control", ["xreal", "controlnet", "none"])
def test_a_run_of_any_mode_and_control_opens_again(mode: str, control: str, tmp_path: Path) -> None:
    text = RECIPE.format(control=control, bundle="xreal-tiny")
    run = open_run(LoadedRecipe(recipe_from_text(text, overrides=[f"sampling.mode={mode}"]), text))
    assert reopen(LocalStore(tmp_path), run.head({}), anatomies=2).digest == run.digest


def test_the_plan_is_the_same_under_every_control(made: Callable[[str], LocalStore]) -> None:
    plans, images = [], []
    for control in ("xreal", "controlnet", "none"):
        samples = list(read_tar(tar_of(made(control))))
        plans.append([(s.meta.key, s.meta.findings, s.meta.labels, s.anatomy.tobytes()) for s in samples])
        images.append(samples[0].image.tobytes())
    assert plans[0] == plans[1] == plans[2]
    assert len(set(images)) == 3


def test_a_bundle_without_a_controlnet_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(SHIPPED / "xreal-tiny", tmp_path / "bundle"))
    shutil.rmtree(bundle / "controlnet")
    write_bundle(bundle, read_fields(bundle / "bundle.json"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(control="controlnet", bundle=bundle))
    for verb in ("plan", "preview", "generate"):
        monkeypatch.setattr("sys.argv", ["xreal-synth", verb, str(recipe), "--output", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert "sampling.control: controlnet, but no controlnet/" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_estimate_counts_the_controlnet() -> None:
    costs = []
    for control in ("none", "controlnet"):
        run = run_of(control)
        run = replace(run, bundle=replace(run.bundle, seconds_per_evaluation={"cpu": 1.0}))
        costs.append(estimate(run, images=4.0).device_seconds["cpu"])
    assert costs[0] < costs[1] < 2 * costs[0]
