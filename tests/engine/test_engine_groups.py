"""Shams, change maps and several kinds of variants through the engine, made by the tiny bundle's networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.doubles.shards import run_shard
from xreal_synth.anatomy.regions import region_mask
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import read_head
from xreal_synth.dataset.names import record_key
from xreal_synth.dataset.tar import read_tar
from xreal_synth.dataset.verify import verify
from xreal_synth.engine.account import images_per_group
from xreal_synth.engine.backend import Backend, Networks
from xreal_synth.engine.estimate import estimate
from xreal_synth.engine.ledger import read_ledger
from xreal_synth.engine.worker import environment, make_group, plan_group, replay
from xreal_synth.errors import RecipeError
from xreal_synth.planning.probe import probe
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.report.build import build
from xreal_synth.run.group_job import group_job
from xreal_synth.run.reopen import reopen
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import Run, claim, open_run
from xreal_synth.storage import LocalStore

RECIPE = """
version: 1
name: groups
seed: 3
anatomies: 6
bundle: xreal-tiny
findings:
  - {weight: 1, labels: []}
  - weight: 2
    variants:
      - {labels: [{name: Pneumonia, side: left}, {name: Cardiomegaly}]}
      - {labels: [{name: Edema}]}
placement: {min_overlap: 0.5}
pairs: {twin: true, sham: 0.5}
sampling: {steps: 4, hold: 0.5, branch: 0.25}
quality: {profile: none}
output: {uri: unset, shard_samples: 6}
"""
IMAGES = """
version: 1
name: images
seed: 3
anatomies: 6
bundle: xreal-tiny
anatomy: {source: {images: {path: FOLDER, boxes: boxes.csv}}}
findings:
  - {weight: 1, labels: [{name: Pneumonia}], images: healthy}
  - {weight: 1, labels: [{name: Edema}]}
  - {weight: 1, labels: [{name: Atelectasis}], edit: {remove: all}}
pairs: {twin: true, sham: 1}
sampling: {steps: 4}
quality: {profile: none}
output: {uri: unset, shard_samples: 6}
"""


def open_it(text: str = RECIPE, *overrides: str) -> Run:
    return open_run(LoadedRecipe(recipe_from_text(text, overrides=overrides), text))


def networks(run: Run) -> Backend:
    return Networks().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))


def test_a_sham_is_an_edit_by_the_healthy_prompt_where_the_variant_has_its_findings() -> None:
    run = open_it(RECIPE, "pairs.sham=1")
    index = next(index for index in range(6) if run.plan.row(index) == 1)
    spec, _ = plan_group(run, index)
    assert spec is not None
    jobs = {member.name: member for member in group_job(run, spec).members}
    assert list(jobs) == ["v0", "v1", "s0"]
    assert {edit.prompt for edit in jobs["s0"].edits} == {run.bundle.healthy_prompt}
    for sham, variant in zip(jobs["s0"].edits, jobs["v0"].edits, strict=True):
        assert variant.prompt != sham.prompt
        np.testing.assert_array_equal(sham.region, variant.region)
        np.testing.assert_array_equal(sham.alpha, variant.alpha)

    twin, first, second, sham_image = make_group(run, networks(run), index)
    assert sham_image.meta.labels == twin.meta.labels
    assert sham_image.meta.prompt == twin.meta.prompt
    assert not sham_image.pathology.any()
    assert sham_image.meta.sham == first.meta.findings
    painted = np.any([region_mask(place, spec.anatomy) for place in spec.members[-1].sham], axis=0)
    assert not sham_image.change[~painted].any()
    assert sham_image.change[painted].any()
    assert not np.array_equal(sham_image.image, first.image)
    for sample in (twin, first, second, sham_image):
        difference = np.abs(sample.image.astype(int) - twin.image)
        np.testing.assert_array_equal(sample.change, difference)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, LocalStore, Backend]:
    run = open_it()
    store, backend = LocalStore(tmp_path_factory.mktemp("groups")), networks(run)
    claim(run, store, environment(backend))
    run_shard(run, backend, run.plan.shard(0), store)
    return run, store, backend


def test_a_dataset_with_shams_is_sound_and_shown(made: tuple[Run, LocalStore, Backend]) -> None:
    run, store, _ = made
    built = build(store)
    assert verify(store).problems == ()
    assert store.local_path is not None
    samples = list(read_tar(store.local_path / "shards" / "groups-000000.tar"))
    by_kind = {kind: [s for s in samples if s.meta.member[0] == kind] for kind in "hvs"}
    assert {kind: len(found) for kind, found in by_kind.items()} == {"h": 6, "v": 8, "s": 2}
    assert probe(run.plan).images == len(samples) == images_per_group(run.recipe).images(6)
    card = (store.local_path / "README.md").read_text()
    assert "2 sham edits" in card
    assert "Pneumonia (left) + Cardiomegaly / Edema" in card
    assert "painted with the healthy prompt" in card
    assert built.contact_sheet is not None


def test_images_are_made_again_and_adopted(made: tuple[Run, LocalStore, Backend], tmp_path: Path) -> None:
    run, store, backend = made
    assert store.local_path is not None
    tar = store.local_path / "shards" / "groups-000000.tar"
    there = {sample.meta.key: sample for sample in read_tar(tar)}
    sham = next(key for key in there if key.endswith("-s0"))
    again = replay(reopen(store, read_head(store), anatomies=6), backend, sham)
    assert again.meta == there[sham].meta
    assert np.array_equal(again.image, there[sham].image)
    other = LocalStore(tmp_path / "adopted")
    claim(run, other, environment(backend))
    other.put_if_absent("shards/groups-000000.tar", tar.read_bytes())
    ledger = read_ledger(run, other, environment(backend), lambda event: None)
    assert ledger.todo == ()
    assert other.exists(record_key("groups-000000"))
    finish(other, read_head(other))
    assert verify(other).problems == ()


def test_the_estimate_counts_passes_of_shams_and_kinds() -> None:
    run = open_it(RECIPE, "pairs.sham=0.25", "pairs.variants=2")
    passes = 6 * (2 / 3) * (2 * (2 + 1) + 0.25 * 2)
    cost = estimate(run, 0.0)
    assert cost.evaluations == pytest.approx(6 * cost.evaluations_per_twin + passes * cost.evaluations_per_edit)
    reported = images_per_group(run.recipe)
    assert reported.delivered == pytest.approx(1 / 3 + (2 / 3) * (1 + 4 + 0.25))
    assert reported.made == pytest.approx(1 + (2 / 3) * (4 + 0.25))


def test_only_healthy_real_images_have_shams(
    image_folder: Callable[..., Path], fake: Callable[[Run], Backend], tmp_path: Path
) -> None:
    """A sham could paint over what an image's own labels say, or leave what an edit takes away."""
    text = IMAGES.replace("FOLDER", str(image_folder()))
    run, store = open_it(text), LocalStore(tmp_path / "made")
    backend = fake(run)
    claim(run, store, environment(backend))
    run_shard(run, backend, run.plan.shard(0), store)
    finish(store, read_head(store))
    assert verify(store).problems == ()
    assert store.local_path is not None
    samples = list(read_tar(store.local_path / "shards" / "images-000000.tar"))
    shams = [sample for sample in samples if sample.meta.member == "s0"]
    assert {sample.meta.row for sample in shams} == {0}
    assert len(shams) == 2
    twins = {sample.meta.group: sample for sample in samples if sample.meta.member == "h"}
    for sham in shams:
        assert sham.meta.labels == twins[sham.meta.group].meta.labels
        assert sham.meta.source is not None
        assert not sham.meta.source.removed
        assert sham.change.any()
    assert probe(run.plan).images == len(samples)
    with pytest.raises(RecipeError, match="images: healthy"):
        open_it(text, "findings[0].images=any")


def test_key_json_tells_a_shams_regions(made: tuple[Run, LocalStore, Backend]) -> None:
    import tarfile

    _, store, _ = made
    assert store.local_path is not None
    with tarfile.open(store.local_path / "shards" / "groups-000000.tar") as tar:
        (first, *_) = [name for name in tar.getnames() if name.endswith("-s0.json")]
        reported = json.load(tar.extractfile(first))  # type: ignore[arg-type]
    assert reported["findings"] == []
    assert [place["of"] for place in reported["sham"]] == ["Pneumonia", "Cardiomegaly"]
    assert reported["sham"][1]["region"] == "heart"
    assert set(reported["sham"][0]) == {"of", "side", "zone", "region", "size", "box_xyxy", "box_xyxyn", "boxes_xyxy"}
