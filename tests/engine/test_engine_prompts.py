"""A recipe's own text for a finding: painted by it, told in KEY.json, refused where it is not encoded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from xreal_synth.engine.backend import Networks
from xreal_synth.engine.worker import make_group
from xreal_synth.errors import BundleError, RecipeError
from xreal_synth.run.attempts import plan_group
from xreal_synth.run.group_job import group_job
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import Run

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
