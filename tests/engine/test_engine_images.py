"""Real images through the engine: made, verified, adopted, made again, and refused when they have changed."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.doubles.shards import run_shard
from xreal_synth.cli.main import main
from xreal_synth.dataset.head import read_head
from xreal_synth.dataset.names import record_key, stem_of
from xreal_synth.dataset.tar import read_tar
from xreal_synth.dataset.verify import verify
from xreal_synth.engine.backend import Backend
from xreal_synth.engine.ledger import read_ledger
from xreal_synth.engine.worker import environment, make_group, replay
from xreal_synth.errors import AnatomyError, BundleError, DatasetError
from xreal_synth.images.folder import ImageFolder
from xreal_synth.models.describe import SHIPPED
from xreal_synth.models.save import read_fields, write_bundle
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.report.build import build
from xreal_synth.run.reopen import reopen
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import Run, check_before_start, claim, open_run
from xreal_synth.storage import LocalStore
from xreal_synth.types import Sample

RECIPE = """
version: 1
name: edited
seed: 3
anatomies: 6
bundle: xreal-tiny
anatomy: {source: {images: {path: FOLDER, boxes: boxes.csv}}}
findings:
  - {weight: 1, labels: [{name: Pneumonia}, {name: Edema}], images: healthy}
  - {weight: 1, labels: [{name: Edema}], edit: {remove: all}}
  - {weight: 1, labels: [], edit: {remove: [Mass]}}
pairs: {twin: true}
sampling: {steps: 4}
quality: {profile: none}
split: {val: 0.5}
output: {uri: unset, shard_samples: 3}
"""
OpenImages = Callable[..., Run]


@pytest.fixture
def folder(image_folder: Callable[..., Path]) -> Path:
    return image_folder()


@pytest.fixture
def open_images(folder: Path) -> OpenImages:
    def open_it(**settings: object) -> Run:
        overrides = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
        text = RECIPE.replace("FOLDER", str(folder))
        return open_run(LoadedRecipe(recipe_from_text(text, overrides=overrides), text))

    return open_it


@pytest.fixture
def made(open_images: OpenImages, fake: Callable[[Run], Backend], tmp_path: Path) -> tuple[Run, LocalStore]:
    """A whole dataset by the fake backend."""
    run, store = open_images(), LocalStore(tmp_path / "made")
    backend = fake(run)
    claim(run, store, environment(backend))
    for k in range(run.plan.shard_count):
        run_shard(run, backend, run.plan.shard(k), store)
    return run, store


def samples(store: LocalStore, shard: int) -> list[Sample]:
    assert store.local_path is not None
    return list(read_tar(store.local_path / "shards" / f"{stem_of('edited', shard)}.tar"))


def test_a_bundle_without_controller_and_bank_edits_images(open_images: OpenImages, tmp_path: Path) -> None:
    from xreal_synth.engine.backend import Networks

    bundle = Path(shutil.copytree(SHIPPED / "xreal-tiny", tmp_path / "bare"))
    for part in ("anatomy_controller", "anatomy_bank", "controlnet"):
        shutil.rmtree(bundle / part)
    write_bundle(bundle, read_fields(bundle / "bundle.json"))
    run = open_images(bundle=bundle)
    backend = Networks().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    assert {sample.meta.member for sample in make_group(run, backend, 0)} == {"h", "v0"}


@pytest.mark.parametrize("mode", ["branch", "reference"])
def test_networks_change_nothing_outside_what_is_painted(open_images: OpenImages, mode: str) -> None:
    """The whole way with the tiny bundle's networks: from the recipe to images, against the folder's own files."""
    from xreal_synth.engine.backend import Networks

    run = open_images(sampling__mode=mode)
    backend = Networks().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    assert isinstance(run.plan.source, ImageFolder)
    ids = [image.id for image in run.plan.source.images]
    edited = 0
    for index in range(3):
        twin, variant = make_group(run, backend, index)
        image = run.plan.source.image(ids.index(twin.meta.anatomy_id), 64)
        assert np.array_equal(twin.image, image)
        outside = variant.pathology == 0
        assert variant.meta.source is not None
        for x0, y0, x1, y1 in variant.meta.source.removed:
            outside[y0:y1, x0:x1] = False
        assert outside.any()
        assert np.abs(variant.image[outside].astype(int) - image[outside]).max() == 0
        edited += not np.array_equal(variant.image, image)
    assert edited == 3


def test_a_dataset_of_real_images_is_sound_and_says_what_it_is(made: tuple[Run, LocalStore]) -> None:
    _, store = made
    built = build(store)
    assert verify(store).problems == ()
    assert store.local_path is not None
    card = (store.local_path / "README.md").read_text()
    assert "Patients' chest X-rays, edited by a model" in card
    assert "No image here shows a patient" not in card
    assert "remove Mass" in card
    assert built.contact_sheet is not None
    with tarfile.open(store.local_path / "shards" / "edited-000000.tar") as tar:
        reported = [json.load(tar.extractfile(name)) for name in tar.getnames() if name.endswith(".json")]  # type: ignore[arg-type]
    assert {meta["synthetic"] for meta in reported} == {False}
    assert {(meta["member"], meta["source"]["origin"]) for meta in reported} == {
        ("h", "a real film"), ("v0", "edited from a real film"),
    }  # fmt: skip
    assert not any(word in json.dumps(meta["source"]) for meta in reported for word in ("patient", "age"))


def test_labels_follow_the_edit(made: tuple[Run, LocalStore]) -> None:
    _, store = made
    found = {sample.meta.row: sample for k in range(2) for sample in samples(store, k) if sample.meta.member == "v0"}
    assert (found[0].meta.labels["txrv18"]["Pneumonia"], found[0].meta.labels["txrv18"]["Mass"]) == (1, 0)
    assert found[1].meta.labels["txrv18"]["Edema"] == 1
    assert found[1].meta.prompt.endswith("Edema")
    assert found[2].meta.labels["txrv18"]["Mass"] == 0
    assert found[2].meta.labels["txrv18"]["Pneumonia"] == 1
    assert (found[2].meta.findings, found[2].pathology.any()) == ((), False)


def test_verify_finds_a_image_changed_outside_what_is_painted(made: tuple[Run, LocalStore]) -> None:
    from xreal_synth.dataset.check import group_problems

    _, store = made
    twin, variant = next((a, b) for a, b in zip(*[iter(samples(store, 0))] * 2, strict=True) if not b.meta.findings)
    assert group_problems([twin, variant]) == []
    image = variant.image.copy()
    image[0, 0] ^= 1
    assert "outside its findings" in group_problems([twin, replace(variant, image=image)])[0]
    assert variant.meta.source is not None
    other = replace(variant.meta, source=replace(variant.meta.source, id="z.png"))
    assert "another source image" in group_problems([twin, replace(variant, meta=other)])[0]


def test_a_whole_tar_is_adopted_and_one_with_another_real_image_is_not(
    made: tuple[Run, LocalStore], tmp_path: Path
) -> None:
    run, store = made
    store.delete(record_key("edited-000000"))
    assert read_ledger(run, store, {}, lambda event: None).todo == ()
    store.delete(record_key("edited-000001"))
    from tests.doubles.tars import write_tar

    first, *rest = samples(store, 1)
    image = first.image.copy()
    image[0, 0] ^= 1
    write_tar([replace(first, image=image), *rest], tmp_path / "other.tar")
    store.replace("shards/edited-000001.tar", tmp_path / "other.tar")
    assert read_ledger(run, store, {}, lambda event: None).todo == (1,)


def test_a_dataset_is_made_again_from_its_own_settings_wherever_the_images_lie(
    made: tuple[Run, LocalStore], fake: Callable[[Run], Backend], folder: Path, tmp_path: Path
) -> None:
    run, store = made
    head = read_head(store)
    stored = samples(store, 1)[1]
    again = reopen(store, head, anatomies=6)
    assert np.array_equal(replay(again, fake(again), stored.meta.key, stored.meta.attempt).image, stored.image)
    folder.rename(tmp_path / "moved")
    with pytest.raises(AnatomyError, match="no such folder"):
        reopen(store, head, anatomies=6)
    moved = reopen(store, head, anatomies=6, images=str(tmp_path / "moved"))
    assert moved.digest == run.digest
    store.replace("recipe.yaml", b"name: lost")
    with pytest.raises(DatasetError, match="--images"):
        reopen(store, head, anatomies=6)


def test_changed_images_are_another_dataset(
    made: tuple[Run, LocalStore], open_images: OpenImages, folder: Path
) -> None:
    run, store = made
    Image.fromarray(np.full((96, 96), 90, dtype=np.uint8)).save(folder / "a.png")
    other = open_images()
    assert other.digest != run.digest
    with pytest.raises(DatasetError, match=r"images\.content"):
        check_before_start(other, store)
    with pytest.raises(AnatomyError, match="the same images"):
        reopen(store, read_head(store), anatomies=6)


def test_findings_that_the_bundle_does_not_know_are_refused(open_images: OpenImages) -> None:
    edit = "{move: {findings: [Nodule]}}"
    with pytest.raises(BundleError, match="cannot make Nodule"):
        open_images(findings=f"[{{weight: 1, labels: [], edit: {edit}}}]")


def test_the_plan_blames_no_heart_for_what_nobody_read_a_real_image_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "edited.yaml").write_text(RECIPE.replace("FOLDER", str(folder)))
    monkeypatch.setattr("sys.argv", ["xreal-synth", "plan", str(tmp_path / "edited.yaml")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    said = capsys.readouterr()
    assert "Cardiomegaly" in said.out
    assert "a heart over half" not in said.err
