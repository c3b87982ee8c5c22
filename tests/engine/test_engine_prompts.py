"""A recipe's own text for a finding: painted by it, told in KEY.json, refused where it is not encoded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xreal_synth.engine.backend import Networks
from xreal_synth.engine.worker import make_group
from xreal_synth.errors import BundleError, DatasetError, RecipeError
from xreal_synth.models.add_prompt import add_prompt
from xreal_synth.models.describe import SHIPPED, describe
from xreal_synth.models.save import read_fields, write_bundle
from xreal_synth.models.tiny import build_tiny
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.attempts import plan_group
from xreal_synth.run.group_job import group_job
from xreal_synth.run.reopen import reopen
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import Run, open_run
from xreal_synth.storage import LocalStore
from xreal_synth.types import FileStamp

OpenRun = Callable[..., Run]
OWN = "findings[1].labels[0].prompt"


def images(run: Run) -> dict[str, np.ndarray]:
    backend = Networks().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    index = next(index for index in range(12) if run.plan.row(index) == 1)
    return {sample.meta.key[-2:]: sample.image for sample in make_group(run, backend, index)}


def test_the_text_decides_the_image_and_nothing_else(open_fault_run: OpenRun) -> None:
    plain = open_fault_run(compute__precision="fp32")
    own = open_fault_run(compute__precision="fp32", **{OWN: "Pneumonia Edema"})
    assert own.digest != plain.digest
    index = next(index for index in range(12) if own.plan.row(index) == 1)
    spec, before = plan_group(own, index)[0], plan_group(plain, index)[0]
    assert spec is not None
    assert before is not None
    assert [member.findings for member in spec.members] == [member.findings for member in before.members]
    assert [edit.prompt for edit in group_job(own, spec).members[0].edits] == ["Pneumonia Edema"]
    assert [edit.prompt for edit in group_job(plain, before).members[0].edits] == ["Pneumonia"]
    ours, theirs = images(own), images(plain)
    assert np.array_equal(ours["-h"], theirs["-h"])
    assert not np.array_equal(ours["v0"], theirs["v0"])


def test_the_same_text_as_the_bundles_paints_the_same(open_fault_run: OpenRun) -> None:
    plain, own = open_fault_run(), open_fault_run(**{OWN: "Pneumonia"})
    assert np.array_equal(images(plain)["v0"], images(own)["v0"])


def test_key_json_tells_it(open_fault_run: OpenRun, fake: Callable[[Run], object]) -> None:
    run = open_fault_run(**{OWN: "Pneumonia Edema"})
    index = next(index for index in range(12) if run.plan.row(index) == 1)
    samples = make_group(run, fake(run), index)  # type: ignore[arg-type]
    assert {sample.meta.prompt for sample in samples} == {"No Finding", "Pneumonia Edema"}


def test_a_text_that_is_not_encoded_is_refused_before_anything_starts(open_fault_run: OpenRun) -> None:
    with pytest.raises(BundleError, match="no embedding for 'patchy opacity'") as caught:
        open_fault_run(**{OWN: "patchy opacity"})
    assert "bundle add-prompt" in caught.value.hint
    with pytest.raises(RecipeError, match="prompt"):
        open_fault_run(**{OWN: "''"})


def test_a_text_lets_a_finding_in_that_the_table_lacks(open_fault_run: OpenRun) -> None:
    with pytest.raises(BundleError, match="cannot make Mass"):
        open_fault_run(**{"findings[1].labels[0].name": "Mass"})
    run = open_fault_run(**{"findings[1].labels[0].name": "Mass", OWN: "Effusion"})
    assert run.recipe.findings[1].labels[0].name == "Mass"


RECIPE = """
version: 1
name: own
seed: 3
anatomies: 2
bundle: BUNDLE
findings:
  - {weight: 1, labels: [{name: Pneumonia, prompt: patchy opacity}]}
  - {weight: 1, labels: [{name: Effusion, side: right}, {name: Edema}], joint: true}
sampling: {steps: 4}
compute: {precision: fp32}
output: {uri: unset, shard_samples: 2}
"""
JOINT = "Effusion Edema"


@pytest.fixture(scope="module")
def spelling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle with a text encoder of its own; not to be written to."""
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("bundle") / "b"
    shutil.copytree(SHIPPED / "xreal-tiny" / "anatomy_bank", folder / "anatomy_bank")
    build_tiny(folder, text=True)
    return folder


def open_own(bundle: Path, **settings: object) -> Run:
    text = RECIPE.replace("BUNDLE", str(bundle))
    overrides = [f"{key}={value}" for key, value in settings.items()]
    return open_run(LoadedRecipe(recipe_from_text(text, overrides=overrides), text))


def test_texts_that_the_bundle_lacks_are_refused_until_they_are_added(spelling: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(spelling, tmp_path / "b"))
    for text in ("patchy opacity", JOINT):
        with pytest.raises(BundleError, match=f"no embedding for '{text}'") as caught:
            open_own(bundle)
        assert f"xreal-synth bundle add-prompt {bundle} '{text}'" in caught.value.hint
        assert "--text-encoder" not in caught.value.hint
        add_prompt(bundle, text, None)
    run = open_own(bundle)
    backend = Networks().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    prompts = {sample.meta.prompt for index in (0, 1) for sample in make_group(run, backend, index)}
    assert prompts == {"patchy opacity", f"{JOINT} + {JOINT}"}


def test_a_bundle_without_text_encoder_needs_its_path(spelling: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "b"
    shutil.copytree(spelling, bundle, ignore=shutil.ignore_patterns("text_encoder", "tokenizer"))
    write_bundle(bundle, read_fields(bundle / "bundle.json"))
    with pytest.raises(BundleError) as caught:
        open_own(bundle)
    assert "'patchy opacity' --text-encoder PATH" in caught.value.hint


def test_a_dataset_with_prompts_of_its_own_is_not_gone_on_with(open_fault_run: OpenRun, tmp_path: Path) -> None:
    """As earlier versions encoded them."""
    run = open_fault_run()
    head = replace(run.head({}), prompts=FileStamp("prompts.safetensors", 9, "0" * 64))
    with pytest.raises(DatasetError, match=r"prompts\.safetensors: prompts that an earlier version"):
        reopen(LocalStore(tmp_path), head, anatomies=2)


def test_a_vocabulary_is_part_of_a_bundle(spelling: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(spelling, tmp_path / "other"))
    words = (other / "tokenizer" / "vocab.txt").read_text().split("\n")
    (other / "tokenizer" / "vocab.txt").write_text("\n".join([*words[:4], words[5], words[4], *words[6:]]))
    changed = write_bundle(other, read_fields(other / "bundle.json"))
    assert changed.content_hash != describe(spelling).content_hash


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"findings[0].joint": "true"}, "without several findings"),
        ({"findings[1].labels[0].prompt": "x"}, "beside a label's own"),
        ({"findings[1].joint": "false"}, "joint"),
    ],
)
def test_joint_agrees_with_its_row(settings: dict[str, object], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        open_own(SHIPPED / "xreal-tiny", **settings)
