"""`verify --replay N` against images that a forger wrote, with every hash made to agree."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.doubles.shards import run_shard
from xreal_synth.cli.main import main
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import read_head
from xreal_synth.dataset.names import record_key
from xreal_synth.dataset.record import read_record
from xreal_synth.dataset.tar import TarWriter, encode_sample, read_tar
from xreal_synth.engine.backend import Networks
from xreal_synth.engine.publish import publish_rows
from xreal_synth.engine.samples import changed
from xreal_synth.engine.worker import environment
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.report.build import build
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import Run, claim, open_run
from xreal_synth.storage import LocalStore
from xreal_synth.types import Role, Sample

RECIPE = """
version: 1
name: forged
seed: 5
anatomies: 3
bundle: xreal-tiny
findings: [{weight: 1, labels: [{name: Pneumonia}]}]
pairs: {twin: true}
sampling: {steps: 4, hold: 0.5, branch: 0.25}
quality: {profile: none}
output: {uri: unset, shard_samples: 3}
"""
STEM = "forged-000000"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    run = open_run(LoadedRecipe(recipe_from_text(RECIPE), RECIPE))
    folder = tmp_path_factory.mktemp("made")
    store, backend = (LocalStore(folder), Networks().open(run, actor_shape(run.recipe.compute, Resources(1, 0))))
    claim(run, store, environment(backend))
    run_shard(run, backend, run.plan.shard(0), store)
    finish(store, read_head(store))
    build(store)
    return run, folder


def brighter(sample: Sample, twin: Sample) -> Sample:
    """The finding made plainer, as the change map then says."""
    image = np.where(sample.pathology > 0, np.maximum(sample.image, 200), sample.image).astype(np.uint8)
    return dataclasses.replace(sample, image=image, change=changed(image, twin.image))


def relabelled(sample: Sample, twin: Sample) -> Sample:
    labels = {name: values | {"Edema": 1} for name, values in sample.meta.labels.items()}
    return dataclasses.replace(sample, meta=dataclasses.replace(sample.meta, labels=labels))


def forge(run: Run, folder: Path, change: Callable[[Sample, Sample], Sample]) -> None:
    """Changes every image with a finding; tar, table, record, index and card are written as a run writes them."""
    store, tar = LocalStore(folder), folder.parent / "forged.tar"
    record = read_record(store, STEM)
    assert record is not None
    there = list(read_tar(folder / f"shards/{STEM}.tar"))
    twins = {sample.meta.group: sample for sample in there if sample.meta.member == Role.healthy}
    with TarWriter(tar) as writer:
        for sample in there:
            writer.add(encode_sample(change(sample, twins[sample.meta.group]) if sample.meta.findings else sample))
    publish_rows(
        run, run.plan.shard(0), writer.rows, (), tar, store, environment=record.fingerprint, timings=record.timings,
        actor=record.actor, attempt=record.attempt, replacing=True,
    )  # fmt: skip
    finish(store, read_head(store))
    build(store)
    after = json.loads((folder / record_key(STEM)).read_text())
    assert after["tar"]["sha256"] != record.tar.sha256, "nothing was forged"


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`xreal-synth verify` -> exit code and what it says."""
    monkeypatch.setenv("COLUMNS", "200")

    def run_it(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["xreal-synth", "verify", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.err + captured.out

    return run_it


@pytest.mark.parametrize(
    ("change", "reported"), [(brighter, "its pixels are not what the recipe"), (relabelled, "its labels, boxes")]
)
def test_a_forged_image_is_told_by_making_it_again(
    made: tuple[Run, Path], tmp_path: Path, verify: Callable[..., tuple[int, str]],
    change: Callable[[Sample, Sample], Sample], reported: str,
) -> None:  # fmt: skip
    run, folder = made
    copy = shutil.copytree(folder, tmp_path / "copy")
    code, said = verify(str(copy), "--replay", "6")
    assert code == 0, said
    forge(run, copy, change)
    code, said = verify(str(copy))
    assert code == 0, f"every hash agrees: {said}"
    code, said = verify(str(copy), "--replay", "6")
    assert code == 3
    assert said.count(reported) == 3, "the variant of each of three groups, and no twin"
    assert "-v0: " in said
    assert "-h: " not in said
