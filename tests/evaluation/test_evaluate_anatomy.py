"""The paired evaluation on a small folder of drawn images, with the shipped networks and few steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles.schematic import schematic_mask
from xreal_synth.evaluation.request import StageWatch
from xreal_synth.models.describe import describe
from xreal_synth.models.load import load_bundle
from xreal_synth.recipe.sampling import Sampling, resolve_sampling
from xreal_synth.sampling.groups import sample_groups
from xreal_synth.sampling.jobs import Edit, GroupJob, MemberJob

Evaluate = Callable[..., int]


def test_figures_and_sheet(
    images: Path, tmp_path: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    options = [
        "--data",
        str(images),
        "-n",
        "6",
        "--set",
        "steps=4",
        "--set",
        "mode=branch",
        "--sheet",
        str(sheet),
        "--json",
    ]
    assert evaluate("anatomy", *options) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["images"], figures["variants"]) == (6, 3)
    assert figures["change_outside"]["value"] == 0
    assert figures["change_inside"]["value"] > 0
    assert figures["dice"]["left_lung"]["value"] > 0.5
    assert all(0 <= figures[name]["value"] <= 1 for name in ("ms_ssim", "ms_ssim_variant"))
    assert figures["seconds"]["stage B"] > 0
    assert sheet.is_file()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--set", "mode=reference", "--set", "steps=7"], "divides 1000"),
        (["--set", "mode=banana"], "banana"),
        (["-n", "9"], "lower -n"),
        (["--set", "control=none", "--set", "hold=0.5"], "remove `hold`"),
        (["-n", "2", "--set", "control=controlnet"], "no controlnet/"),
        (["--bundle", "xreal-tiny", "-n", "2"], "segmenter"),
        (["--split", "tset"], "tset"),
    ],
)
def test_mistakes(
    images: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str], options: list[str], named: str
) -> None:
    assert evaluate("anatomy", "--data", str(images), *options) == 2
    assert named in capsys.readouterr().err


def test_stages_are_reported_apart_without_a_controller() -> None:
    """Under `control: none` neither stage calls the controller, and a batch of twins follows one of edits."""
    stages: list[str] = []

    class Reported(StageWatch):
        def _timed(self, stage: str, call: Callable[[], Any]) -> Any:
            stages.append(stage)
            return call()

    defaults = describe("xreal-tiny").defaults
    chosen = resolve_sampling(Sampling(control="none", steps=4, branch=0.5, guidance=1.0), defaults)
    mask = schematic_mask(64, np.random.default_rng(0))
    region = np.zeros((64, 64), dtype=bool)
    region[8:24, 8:24] = True
    edit = Edit(region, "Edema", region.astype(np.float32))
    groups = [GroupJob(0, index, 0, mask, "No Finding", (MemberJob("v0", (edit,)),)) for index in range(2)]
    watch = Reported(load_bundle(describe("xreal-tiny")))
    assert len(list(sample_groups(watch, chosen, groups, micro_batch=1, noise=watch.noise))) == 2
    assert stages == (["stage A"] * 4 + ["decode"] + ["stage B"] * 2 + ["decode"]) * 2
