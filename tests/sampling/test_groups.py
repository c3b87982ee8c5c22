"""Groups in micro-batches: bytes must not depend on what is made beside an image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from xreal_synth.errors import BundleError
from xreal_synth.models.describe import describe
from xreal_synth.models.load import load_bundle
from xreal_synth.models.loaded import LoadedBundle
from xreal_synth.sampling.groups import sample_groups
from xreal_synth.sampling.jobs import GroupImages, GroupJob
from xreal_synth.types import SamplingSettings

pytestmark = pytest.mark.numeric


def images(model: Any, settings: SamplingSettings, jobs: list[GroupJob], micro_batch: int) -> list[GroupImages]:
    return list(sample_groups(model, settings, jobs, micro_batch=micro_batch))


def same(ours: GroupImages, theirs: GroupImages) -> bool:
    return ours.images.keys() == theirs.images.keys() and all(
        np.array_equal(image, theirs.images[name]) for name, image in ours.images.items()
    )


@pytest.fixture
def jobs(make: Any) -> list[GroupJob]:
    """Groups without members, with one, with two, and with several edits in one member."""
    first, second = make.edit(64, (8, 16, 24, 40)), make.edit(64, (40, 8, 56, 24), "Pneumonia", 0.5)
    members = [(), ((first,),), ((first,), (second,)), ((first, second), (second,)), ((),), ((first,),), ()]
    return [make.group(index, 64, *each) for index, each in enumerate(members)]


@pytest.mark.parametrize("mode", ["branch", "reference"])
def test_every_group_comes_in_order_with_its_members(
    tiny: LoadedBundle, make: Any, jobs: list[GroupJob], mode: str
) -> None:
    finished: list[int] = []
    out = list(sample_groups(tiny, make.settings(mode=mode), jobs, micro_batch=3, on_batch=finished.append))
    assert [each.index for each in out] == list(range(7))
    assert [sorted(each.images) for each in out] == [
        sorted({"h", *(member.name for member in job.members)}) for job in jobs
    ]
    edits = sum(bool(member.edits) for job in jobs for member in job.members)
    assert sum(finished) == len(jobs) + edits
    assert np.array_equal(out[4].images["v0"], out[4].images["h"])
    assert all(image.dtype == np.uint8 and image.shape == (64, 64) for each in out for image in each.images.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", ["branch", "reference"])
def test_bytes_do_not_depend_on_neighbours_order_or_padding(
    make: Any, jobs: list[GroupJob], mode: str, precision: Any
) -> None:
    model = load_bundle(describe("xreal-tiny"), precision=precision)
    chosen, some = make.settings(mode=mode, steps=4), jobs[1:4]
    whole = images(model, chosen, some, 4)
    backwards = images(model, chosen, some[::-1], 4)[::-1]
    alone = [images(model, chosen, [job], 4)[0] for job in some]
    assert all(same(a, b) and same(a, c) for a, b, c in zip(whole, backwards, alone, strict=True))


def test_micro_batch_changes_images_by_a_grey_level_at_most(
    tiny: LoadedBundle, make: Any, jobs: list[GroupJob]
) -> None:
    """Measured: the denoiser's outputs differ by 1e-6 between 1 and 4 rows, so only roundings can flip."""
    for one, four in zip(images(tiny, make.settings(), jobs, 1), images(tiny, make.settings(), jobs, 4), strict=True):
        for name, image in one.images.items():
            assert np.abs(image.astype(int) - four.images[name]).max() <= 1


@pytest.mark.parametrize("mode", ["branch", "reference"])
@pytest.mark.parametrize("hold", [0.0, 1.0])
def test_twin_is_untouched_outside_the_region(
    tiny: LoadedBundle, make: Any, jobs: list[GroupJob], mode: str, hold: float
) -> None:
    for job, made in zip(jobs, images(tiny, make.settings(mode=mode, hold=hold), jobs, 3), strict=True):
        for member in job.members:
            touched = np.zeros((64, 64), dtype=bool)
            for edit in member.edits:
                touched |= edit.region
            twin, image = made.images["h"], made.images[member.name]
            assert np.array_equal(twin[~touched], image[~touched])
            assert bool(member.edits) == bool((twin[touched] != image[touched]).any())


@pytest.mark.parametrize("mode", ["branch", "reference"])
@pytest.mark.parametrize("second", [(40, 32, 56, 56), (16, 8, 40, 24)])
def test_a_later_finding_leaves_the_earlier_one_as_it_is(
    tiny: LoadedBundle, make: Any, mode: str, second: tuple[int, int, int, int]
) -> None:
    """In their order, apart and overlapping: outside the later one's region the earlier one's pixels stay."""
    first, later = make.edit(64, (8, 16, 24, 40)), make.edit(64, second, "Pneumonia", 0.5)
    chosen = make.settings(mode=mode, steps=4)
    alone, both, twisted = (
        images(tiny, chosen, [make.group(0, 64, edits)], 1)[0].images
        for edits in ((first,), (first, later), (later, first))
    )
    kept = first.region & ~later.region
    assert (alone["v0"] != alone["h"])[kept].any()
    assert np.array_equal(both["v0"][~later.region], alone["v0"][~later.region])
    assert (both["v0"] != alone["v0"])[later.region].any()
    if (first.region & later.region).any():
        assert not np.array_equal(both["v0"], twisted["v0"])


def test_attempt_and_member_draw_new_noise(tiny: LoadedBundle, make: Any) -> None:
    edit = make.edit(64, (8, 16, 24, 40))
    first, again = (
        images(tiny, make.settings(), [make.group(0, 64, (edit,), (edit,), attempt=attempt)], 2)[0]
        for attempt in (0, 1)
    )
    assert not np.array_equal(first.images["h"], again.images["h"])
    assert not np.array_equal(first.images["v0"], first.images["v1"])


@pytest.mark.parametrize(("branch", "k"), [(0.0, 0), (0.25, 2), (0.875, 7), (1.0, 8)])
def test_branch_step_edges(flat: Any, make: Any, branch: float, k: int) -> None:
    """Stage B costs two rows a step from k on; at k = steps the member is the twin."""
    chosen = make.settings(branch=branch)
    assert chosen.branch_step == k
    made = images(flat, chosen, [make.group(0, 32, (make.edit(32, (8, 8, 16, 16)),))], 1)[0]
    assert flat.batches == [1] * 8 + [2] * (8 - k)
    assert np.array_equal(made.images["v0"], made.images["h"]) == (k == 8)


def test_a_groups_images_share_their_grain_and_groups_do_not(flat: Any, make: Any) -> None:
    edit = make.edit(32, (8, 8, 16, 16))
    jobs = [make.group(index, 32, (edit,)) for index in range(2)]
    smooth = images(flat, make.settings(branch=1.0), jobs, 2)
    flat.decoder_noise_shape = (1, 32, 32)
    first, second = images(flat, make.settings(branch=1.0), jobs, 2)
    assert np.array_equal(first.images["v0"], first.images["h"])
    decoder_noises = [
        made.images["h"].astype(int) - plain.images["h"] for made, plain in zip((first, second), smooth, strict=True)
    ]
    assert all(decoder_noise.std() == pytest.approx(0.05 * 255, rel=0.1) for decoder_noise in decoder_noises)
    assert abs(np.corrcoef(decoder_noises[0].ravel(), decoder_noises[1].ravel())[0, 1]) < 0.1


def test_guidance_of_one_needs_no_second_half(flat: Any, make: Any) -> None:
    images(flat, make.settings(guidance=1.0), [make.group(0, 32, (make.edit(32, (8, 8, 16, 16)),))], 1)
    assert set(flat.batches) == {1}


@pytest.mark.parametrize("mode", ["branch", "reference", "paper"])
def test_each_edit_gets_its_own_prompt(flat: Any, make: Any, mode: str) -> None:
    """The by-hand model paints a prompt's grey: No Finding .3, Edema .6, Mass .8."""
    edits = make.edit(32, (0, 0, 16, 16), "Edema"), make.edit(32, (16, 16, 32, 32), "Mass")
    chosen = make.settings(mode=mode, guidance=1.0, steps=10, branch=0.2)
    image = images(flat, chosen, [make.group(0, 32, edits)], 1)[0].images["v0"].astype(float) / 255
    for box, grey in (((0, 0), 0.6), ((16, 16), 0.8), ((0, 16), 0.3), ((16, 0), 0.3)):
        y, x = box
        assert image[y : y + 16, x : x + 16].mean() == pytest.approx(grey, abs=0.03)


def test_steps_need_not_divide_1000_in_branch_mode(tiny: LoadedBundle, make: Any) -> None:
    chosen = make.settings(steps=7, hold=0.5, branch=0.3)
    assert (chosen.hold_steps, chosen.branch_step) == (4, 2)
    made = images(tiny, chosen, [make.group(0, 64, (make.edit(64, (8, 16, 24, 40)),))], 1)[0]
    assert not np.array_equal(made.images["v0"], made.images["h"])


def test_resample_changes_the_image_and_costs_forwards(flat: Any, make: Any) -> None:
    images(flat, make.settings(resample=3, hold=1.0), [make.group(0, 32)], 1)
    assert len(flat.batches) == 8 + 2 * 7


def test_overflow_is_an_error_that_names_the_group(flat: Any, make: Any) -> None:
    flat.greys["Edema"] = float("nan")
    jobs = [make.group(index, 32, (make.edit(32, (8, 8, 16, 16)),)) for index in (3, 4)]
    jobs[0] = replace(jobs[0], members=())
    with pytest.raises(BundleError, match="overflow in group 4"):
        images(flat, make.settings(), jobs, 2)


def test_global_random_state_is_neither_used_nor_moved(tiny: LoadedBundle, make: Any) -> None:
    job = make.group(0, 64, (make.edit(64, (8, 16, 24, 40)),))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = images(tiny, make.settings(), [job], 2)[0]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert same(first, images(tiny, make.settings(), [job], 2)[0])
