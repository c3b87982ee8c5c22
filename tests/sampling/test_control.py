"""What makes an image follow its mask: XReal's hold, a ControlNet, or nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from xreal_synth.models.describe import describe
from xreal_synth.models.load import load_bundle
from xreal_synth.models.loaded import LoadedBundle
from xreal_synth.sampling.groups import sample_groups
from xreal_synth.sampling.jobs import GroupImages, GroupJob

MODES = ["branch", "reference"]
FREE = {"hold": None, "soft": None}


def images(model: Any, settings: Any, jobs: list[GroupJob], micro_batch: int = 2) -> list[GroupImages]:
    return list(sample_groups(model, settings, jobs, micro_batch=micro_batch))


def same(ours: GroupImages, theirs: GroupImages) -> bool:
    return ours.images.keys() == theirs.images.keys() and all(
        np.array_equal(image, theirs.images[name]) for name, image in ours.images.items()
    )


@pytest.fixture(scope="module")
def steered() -> LoadedBundle:
    return load_bundle(describe("xreal-tiny"), control="controlnet")


@pytest.fixture
def jobs(make: Any) -> list[GroupJob]:
    first, second = make.edit(64, (8, 16, 24, 40)), make.edit(64, (40, 8, 56, 24), "Pneumonia", 0.5)
    return [make.group(0, 64, (first,)), make.group(1, 64), make.group(2, 64, (first, second), (second,))]


def other_mask(job: GroupJob) -> GroupJob:
    return replace(job, anatomy=np.roll(job.anatomy, 17, axis=0))


@pytest.mark.parametrize("mode", MODES)
def test_none_is_xreal_that_holds_no_step(tiny: LoadedBundle, make: Any, jobs: list[GroupJob], mode: str) -> None:
    free = images(tiny, make.settings(mode=mode, control="none", steps=4, **FREE), jobs)
    unheld = images(tiny, make.settings(mode=mode, steps=4, hold=0.0), jobs)
    assert all(same(a, b) for a, b in zip(free, unheld, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_a_controlnet_with_zero_residuals_is_none_bit_for_bit(make: Any, jobs: list[GroupJob], mode: str) -> None:
    silent = load_bundle(describe("xreal-tiny"), control="controlnet")
    for name, weights in silent._controlnet.named_parameters():
        if name.startswith(("controlnet_down_blocks", "controlnet_mid_block")):
            weights.zero_()
    chosen = make.settings(mode=mode, control="controlnet", steps=4, **FREE)
    free = images(silent, replace(chosen, control="none"), jobs)
    assert all(same(a, b) for a, b in zip(images(silent, chosen, jobs), free, strict=True))


@pytest.mark.parametrize(("control", "follows"), [("controlnet", True), ("none", False)])
def test_the_mask_shows_with_a_controlnet_alone(steered: LoadedBundle, make: Any, control: str, follows: bool) -> None:
    chosen, job = make.settings(control=control, steps=4, **FREE), make.group(0, 64)
    one, other = images(steered, chosen, [job]), images(steered, chosen, [other_mask(job)])
    assert same(one[0], other[0]) != follows


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", MODES)
def test_bytes_do_not_depend_on_neighbours_or_order(make: Any, jobs: list[GroupJob], mode: str, precision: Any) -> None:
    model = load_bundle(describe("xreal-tiny"), precision=precision, control="controlnet")
    chosen = make.settings(mode=mode, control="controlnet", steps=4, **FREE)
    whole = images(model, chosen, jobs, 4)
    backwards = images(model, chosen, jobs[::-1], 4)[::-1]
    alone = [images(model, chosen, [job], 4)[0] for job in jobs]
    assert all(same(a, b) and same(a, c) for a, b, c in zip(whole, backwards, alone, strict=True))


@pytest.mark.parametrize("control", ["controlnet", "none"])
@pytest.mark.parametrize("mode", MODES)
def test_the_twin_is_untouched_outside_the_region(
    steered: LoadedBundle, make: Any, jobs: list[GroupJob], mode: str, control: str
) -> None:
    made = images(steered, make.settings(mode=mode, control=control, steps=4, **FREE), jobs[:1])[0].images
    region = jobs[0].members[0].edits[0].region
    assert np.array_equal(made["h"][~region], made["v0"][~region])
    assert (made["h"][region] != made["v0"][region]).any()


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 2), (3.0, 4)])
def test_every_step_of_both_stages_sees_the_hint_of_its_rows(make: Any, guidance: float, rows: int) -> None:
    seen: list[Tensor] = []
    asked: list[int] = []

    class Hinted(make.model):  # type: ignore[name-defined, misc]
        def hint(self, label_map: Tensor) -> Tensor:
            asked.append(len(label_map))
            return label_map.float().mean(dim=(1, 2))[:, None, None, None]

        def denoise(self, z: Tensor, t: Tensor, cond: Tensor, hint_BChw: Tensor | None = None) -> Tensor:
            assert hint_BChw is not None
            assert len(hint_BChw) == len(z)
            seen.append(hint_BChw.flatten())
            return super().denoise(z, t, cond)

    edit = make.edit(32, (8, 8, 16, 16))
    groups = [make.group(0, 32, (edit,)), make.group(1, 32, (edit,))]
    chosen = make.settings(control="controlnet", guidance=guidance, branch=0.25, **FREE)
    images(Hinted(), chosen, groups)
    wanted = torch.stack([torch.from_numpy(group.anatomy).float().mean() for group in groups])
    assert asked == [2, 2]
    assert [len(hint) for hint in seen] == [2] * 8 + [rows] * 6
    assert all(torch.equal(hint, wanted.repeat(len(hint) // 2)) for hint in seen)
