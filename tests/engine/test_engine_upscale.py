"""Images delivered larger than they are sampled: masks, boxes and pathology maps go with them exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.doubles.shards import run_shard
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import read_head
from xreal_synth.dataset.names import record_key
from xreal_synth.dataset.tar import read_tar
from xreal_synth.dataset.verify import verify
from xreal_synth.engine.backend import Backend, Networks
from xreal_synth.engine.ledger import read_ledger
from xreal_synth.engine.worker import environment, make_group, replay
from xreal_synth.errors import AnatomyError, BundleError
from xreal_synth.images.folder import ImageFolder
from xreal_synth.models.describe import describe
from xreal_synth.models.tiny import build_tiny
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.reopen import reopen
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import Run, claim, open_run
from xreal_synth.storage import LocalStore

RECIPE = """
version: 1
name: large
seed: 3
anatomies: 4
bundle: BUNDLE
findings:
  - {weight: 1, labels: []}
  - {weight: 1, labels: [{name: Pneumonia}, {name: Cardiomegaly}]}
pairs: {twin: true, variants: 2, sham: 1.0}
sampling: {steps: 4, upscale_steps: 3}
quality: {profile: none}
output: {uri: unset, shard_samples: 4, upscale: 128}
"""
Open = Callable[..., Run]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with an upscaler from 64 to 128 pixels, and a mask bank."""
    import shutil

    folder = tmp_path_factory.mktemp("tiny-large")
    shutil.copytree(describe("xreal-tiny").root / "anatomy_bank", folder / "anatomy_bank")
    build_tiny(folder, upscale=128)
    return folder


@pytest.fixture
def open_large(bundle: Path) -> Open:
    def open_it(**settings: object) -> Run:
        text = RECIPE.replace("BUNDLE", str(bundle))
        overrides = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
        return open_run(LoadedRecipe(recipe_from_text(text, overrides=overrides), text))

    return open_it


def networks(run: Run) -> Backend:
    return Networks().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_everything_about_a_image_grows_by_the_same_factor(open_large: Open, precision: str) -> None:
    run, small = (
        open_large(compute__precision=precision),
        open_large(output__upscale="null", sampling__upscale_steps="null"),
    )
    large, plain = networks(run), networks(small)
    for index in range(4):
        for big, little in zip(make_group(run, large, index), make_group(small, plain, index), strict=True):
            assert big.meta.image_size == (128, 128)
            assert big.image.shape == (128, 128)
            assert np.array_equal(big.anatomy[::2, ::2], little.anatomy)
            assert np.array_equal(big.anatomy[1::2, 1::2], little.anatomy)
            assert np.array_equal(big.pathology[::2, ::2], little.pathology)
            assert np.array_equal(big.pathology[1::2, 1::2], little.pathology)
            for one, other in zip(big.meta.findings, little.meta.findings, strict=True):
                assert [tuple(v // 2 for v in box) for box in one.boxes] == list(other.boxes)
                assert not any(v % 2 for box in one.boxes for v in box)
                assert one.size == other.size
            assert (big.meta.labels, big.meta.ctr) == (little.meta.labels, little.meta.ctr)


def test_variants_are_their_twin_outside_what_was_painted(open_large: Open) -> None:
    run = open_large()
    backend = networks(run)
    painted = 0
    for index in range(4):
        twin, *variants = make_group(run, backend, index)
        for variant in variants:
            sham = variant.meta.member == "s0"
            outside = (variants[0] if sham else variant).pathology == 0
            assert not variant.change[outside].any()
            assert np.array_equal(variant.image[outside], twin.image[outside])
            painted += not np.array_equal(variant.image, twin.image)
    assert painted == 6


def test_a_large_dataset_is_sound_adopted_and_made_again(open_large: Open, tmp_path: Path) -> None:
    run, store = open_large(), LocalStore(tmp_path / "large")
    backend = networks(run)
    head = claim(run, store, environment(backend))
    beats: list[float] = []
    run_shard(run, backend, run.plan.shard(0), store, heartbeat=beats.append)
    finish(store, head)
    assert verify(store).problems == ()
    assert sum(beats) == pytest.approx((4 + 4 + 2) * 2)
    stored = list(read_tar(tmp_path / "large" / "shards" / "large-000000.tar"))
    again = reopen(store, read_head(store), anatomies=4)
    one = stored[-1]
    assert np.array_equal(replay(again, networks(again), one.meta.key, one.meta.attempt).image, one.image)
    store.delete(record_key("large-000000"))
    assert read_ledger(run, store, {}, lambda event: None).todo == ()


def test_real_images_are_their_own_large_twins(open_large: Open, image_folder: Callable[..., Path]) -> None:
    folder = image_folder()
    settings = {"anatomy__source": f"{{images: {{path: {folder}, boxes: boxes.csv}}}}", "pairs__sham": 0}
    with pytest.raises(AnatomyError, match="at least 128"):
        open_large(**settings)
    for file in (*folder.glob("*.png"), *folder.glob("masks/*.png")):
        with Image.open(file) as image:
            image.resize((192, 192), Image.Resampling.NEAREST).save(file)
    boxes = "image,finding,x0,y0,x1,y1\nb.png,Pneumonia,120,80,160,120\n"
    (folder / "boxes.csv").write_text(boxes)
    run = open_large(**settings, findings="[{weight: 1, labels: [], edit: {remove: all}}]")
    assert isinstance(run.plan.source, ImageFolder)
    twin, *variants = make_group(run, networks(run), 0)
    assert np.array_equal(twin.image, run.plan.source.image(1, 128))
    for variant in variants:
        assert variant.meta.source is not None
        ((x0, y0, x1, y1),) = variant.meta.source.removed
        assert x0 % 8 == y0 % 8 == x1 % 8 == y1 % 8 == 0
        outside = np.ones((128, 128), dtype=bool)
        outside[y0:y1, x0:x1] = False
        assert np.array_equal(variant.image[outside], twin.image[outside])
        assert not np.array_equal(variant.image, twin.image)


def test_upscaling_that_the_bundle_cannot_do_is_refused(open_large: Open) -> None:
    with pytest.raises(BundleError, match=r"makes 128 pixels[\s\S]*output\.upscale: 128"):
        open_large(output__upscale=256)
    with pytest.raises(BundleError, match="has no upscaler"):
        open_large(bundle="xreal-tiny")


def test_an_upscaler_of_no_multiple_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="multiple"):
        build_tiny(tmp_path, upscale=100)


def test_fake_images_grow_too(open_large: Open, fake: Callable[[Run], Backend]) -> None:
    run = open_large()
    twin, *_ = make_group(run, fake(run), 0)
    assert twin.image.shape == (128, 128)
