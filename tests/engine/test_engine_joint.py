"""Mode joint through recipe, gate, shards, verification, replay and resume."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from tests.doubles.shards import run_shard
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import read_head
from xreal_synth.dataset.tar import read_tar
from xreal_synth.dataset.verify import verify
from xreal_synth.engine.backend import Backend, Networks
from xreal_synth.engine.worker import environment, replay
from xreal_synth.errors import BundleError, RecipeError
from xreal_synth.models.bundle_file import BUNDLE_FILE
from xreal_synth.models.describe import SHIPPED
from xreal_synth.models.save import read_fields, write_bundle
from xreal_synth.models.tiny import build_tiny
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.attempts import plan_group
from xreal_synth.run.group_job import group_job
from xreal_synth.run.quality import judged_images
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import Run, claim, open_run
from xreal_synth.sampling.jobs import in_batches
from xreal_synth.storage import LocalStore

RECIPE = """
version: 1
name: joint
seed: 3
anatomies: 6
bundle: BUNDLE
findings:
  - {weight: 1, labels: []}
  - {weight: 1, labels: [{name: Pneumonia, side: left}, {name: Cardiomegaly}]}
  - {weight: 1, labels: [{name: Edema}]}
placement: {min_overlap: 0.5}
pairs: {variants: 2}
sampling: {mode: joint, steps: 4, hold: 0.5, branch: 0.25}
quality: {profile: standard, checks: {organs: {action: "off"}, pixels: {action: warn}}}
output: {uri: unset, shard_samples: 3}
"""


@pytest.fixture(scope="module", params=["xreal-tiny", "mapped"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "xreal-tiny":
        return "xreal-tiny"
    return str(mapped_bundle(tmp_path_factory.mktemp("bundle")))


def mapped_bundle(folder: Path, **changes: object) -> Path:
    """The tiny bundle with region maps and the shipped one's anatomy bank; keywords replace bundle.json's defaults."""
    build_tiny(folder, maps=True)
    shutil.copytree(SHIPPED / "xreal-tiny" / "anatomy_bank", folder / "anatomy_bank")
    fields = read_fields(folder / BUNDLE_FILE)
    defaults = replace(fields.defaults, **changes)
    return write_bundle(folder, fields.model_copy(update={"defaults": defaults})).root


def open_it(bundle: str, *overrides: str) -> Run:
    text = RECIPE.replace("BUNDLE", bundle)
    return open_run(LoadedRecipe(recipe_from_text(text, overrides=overrides), text))


def networks(run: Run) -> Backend:
    return Networks().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))


def test_the_gate_judges_organs_beside_what_an_image_was_asked_to_show(bundle: str) -> None:
    run = open_it(bundle)
    for index in range(3):
        spec = plan_group(run, index)[0]
        assert spec is not None
        job = group_job(run, spec)
        images = next(chain.from_iterable(in_batches(networks(run).renderer(), [job], 1)))
        for member, image in zip(spec.members, judged_images(run, spec, job, images), strict=True):
            assert image is not None
            assert image.twin is None
            if not member.findings:
                assert image.region is None
                continue
            painted = np.any([spec.regions[finding] for finding in member.findings], axis=0)
            assert image.region is not None
            assert np.array_equal(image.region, painted)


def test_a_dataset_of_joint_images_verifies_and_every_image_is_made_again_with_its_bytes(
    bundle: str, tmp_path: Path
) -> None:
    run = open_it(bundle)
    backend, store = networks(run), LocalStore(tmp_path)
    claim(run, store, environment(backend))
    for k in range(run.plan.shard_count):
        run_shard(run, backend, run.plan.shard(k), store)
    head = read_head(store)
    assert head is not None
    finish(store, head)
    assert not verify(store).problems
    samples = [s for tar in sorted(tmp_path.glob("shards/*.tar")) for s in read_tar(tar)]
    members = {(s.meta.row, s.meta.member) for s in samples}
    assert members == {(0, "h"), (1, "v0"), (1, "v1"), (2, "v0"), (2, "v1")}
    assert not any(s.change.any() for s in samples)
    assert all(np.array_equal(replay(run, backend, s.meta.key).image, s.image) for s in samples)
    assert all(s.pathology.any() == bool(s.meta.findings) for s in samples)


def test_a_shard_does_not_depend_on_what_was_made_before_it(bundle: str, tmp_path: Path) -> None:
    run = open_it(bundle)
    first, second = run.plan.shard(0), run.plan.shard(1)
    for name, shards in (("both", (first, second)), ("one", (second,))):
        store, backend = LocalStore(tmp_path / name), networks(run)
        claim(run, store, environment(backend))
        for shard in shards:
            run_shard(run, backend, shard, store)
    tar = f"shards/{second.stem}.tar"
    assert (tmp_path / "both" / tar).read_bytes() == (tmp_path / "one" / tar).read_bytes()


@pytest.mark.parametrize(
    ("override", "words"), [("pairs.twin=true", r"pairs\.twin: true"), ("pairs.sham=0.5", r"pairs\.sham: 0\.5")]
)
def test_nothing_is_edited_in_mode_joint(override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        open_it("xreal-tiny", override)


def test_findings_that_a_bundle_cannot_name_together_are_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    build_tiny(tmp_path, maps=True, text=True)  # its table has single findings alone
    with pytest.raises(BundleError, match="Pneumonia"):
        open_it(str(tmp_path))


@pytest.mark.parametrize(("twin", "mode"), [("false", "joint"), ("true", "branch")])
def test_a_bundle_whose_default_is_joint_branches_where_twins_are_delivered(
    twin: str, mode: str, tmp_path: Path
) -> None:
    bundle = mapped_bundle(tmp_path, mode="joint")
    assert open_it(str(bundle), "sampling.mode=null", f"pairs.twin={twin}").sampling.mode == mode
