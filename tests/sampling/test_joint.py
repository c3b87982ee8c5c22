"""Mode joint: one trajectory an image, with its findings from the first step; and region maps in both modes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from xreal_synth.models.load import load_bundle
from xreal_synth.models.loaded import LoadedBundle
from xreal_synth.models.tiny import FINDINGS, build_tiny
from xreal_synth.sampling.groups import sample_groups
from xreal_synth.sampling.jobs import GroupImages, GroupJob
from xreal_synth.sampling.noise import NoiseKey, philox

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    """The tiny bundle with a denoiser that takes region maps."""
    return load_bundle(build_tiny(tmp_path_factory.mktemp("mapped"), maps=True))


@pytest.fixture(params=["plain", "mapped"])
def model(request: pytest.FixtureRequest, tiny: LoadedBundle, mapped: LoadedBundle) -> LoadedBundle:
    return mapped if request.param == "mapped" else tiny


@pytest.fixture
def jobs(make: Any) -> list[GroupJob]:
    """Groups without members, with one, with two, and with several findings in one image."""
    first = replace(make.edit(64, (8, 16, 24, 40)), finding="Edema")
    second = replace(make.edit(64, (40, 8, 56, 24), "Pneumonia"), finding="Pneumonia")
    members = [(), ((first,),), ((first,), (second,)), ((first, second),), (), ((second,),), ()]
    return [prompted(make.group(index, 64, *each)) for index, each in enumerate(members)]


def prompted(job: GroupJob) -> GroupJob:
    """The group's members with the prompt that names all their findings."""
    names = [[name for name in FINDINGS if name in {e.finding for e in m.edits}] for m in job.members]
    members = [replace(m, prompt=" ".join(each)) for m, each in zip(job.members, names, strict=True)]
    return replace(job, members=tuple(members))


def made(model: Any, settings: Any, jobs: list[GroupJob], micro_batch: int = 3) -> list[GroupImages]:
    return list(sample_groups(model, settings, jobs, micro_batch=micro_batch))


def same(ours: GroupImages, theirs: GroupImages) -> bool:
    return ours.images.keys() == theirs.images.keys() and all(
        np.array_equal(image, theirs.images[name]) for name, image in ours.images.items()
    )


def test_every_group_comes_in_order_with_its_members_and_no_twin(
    model: LoadedBundle, make: Any, jobs: list[GroupJob]
) -> None:
    counts: list[int] = []
    out = list(sample_groups(model, make.settings(mode="joint"), jobs, micro_batch=3, on_batch=counts.append))
    assert [each.index for each in out] == list(range(7))
    assert [sorted(each.images) for each in out] == [[member.name for member in job.members] or ["h"] for job in jobs]
    assert sum(counts) == sum(len(each.images) for each in out)


def test_bytes_do_not_depend_on_neighbours_order_or_padding(
    model: LoadedBundle, make: Any, jobs: list[GroupJob]
) -> None:
    chosen = make.settings(mode="joint", steps=4)
    whole = made(model, chosen, jobs, 4)
    backwards = made(model, chosen, jobs[::-1], 4)[::-1]
    alone = [made(model, chosen, [job], 4)[0] for job in jobs]
    assert all(same(a, b) and same(a, c) for a, b, c in zip(whole, backwards, alone, strict=True))


def test_a_healthy_image_is_the_twin_of_mode_branch(model: LoadedBundle, make: Any, jobs: list[GroupJob]) -> None:
    joint, branch = (made(model, make.settings(mode=mode), jobs[:1])[0] for mode in ("joint", "branch"))
    assert np.array_equal(joint.images["h"], branch.images["h"])


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_denoiser_without_maps_is_guided_by_region(make: Any, guidance: float) -> None:
    """The flat model predicts one grey a prompt: inside, healthy + g (finding - null), outside the healthy one."""
    flat = make.model()
    edit = make.edit(32, (8, 8, 16, 24))
    settings = make.settings(mode="joint", hold=0.0, guidance=guidance, steps=20, eta=0.0)
    image = made(flat, settings, [make.group(0, 32, (edit,))], 1)[0].images["v0"] / 255
    inside = min(1.0, 0.3 + guidance * (0.6 - 0.5))
    assert image[edit.region] == pytest.approx(inside, abs=0.02)
    assert image[~edit.region] == pytest.approx(0.3, abs=0.02)


def test_below_the_floor_regions_are_asked_without_guidance_and_without_the_null_prompt(make: Any) -> None:
    flat, edit = make.model(), make.edit(32, (8, 8, 16, 24))
    settings = make.settings(mode="joint", hold=0.0, guidance=5.0, steps=20, eta=0.0, guidance_floor=1000)
    image = made(flat, settings, [make.group(0, 32, (edit,))], 1)[0].images["v0"] / 255
    assert image[edit.region] == pytest.approx(0.6, abs=0.02)
    assert image[~edit.region] == pytest.approx(0.3, abs=0.02)
    assert sum(flat.batches) == 2 * 20


def test_two_rows_a_step_where_healthy_and_null_prompt_are_one(make: Any) -> None:
    flat = make.model()
    flat.greys = {"": 0.3, "No Finding": 0.3, "Edema": 0.6}
    edit, settings = make.edit(32, (8, 8, 16, 24)), make.settings(mode="joint", steps=5)
    made(flat, settings, [make.group(0, 32, (edit,)), make.group(1, 32)], 1)
    assert sum(flat.batches) == 2 * 5 + 5


def test_the_hold_leaves_a_findings_region_from_its_step_on(make: Any) -> None:
    """Held to the end outside, x_hat is what remains; inside the finding's own grey, unless the hold stays there."""
    edit = make.edit(32, (8, 8, 16, 24))
    for held, grey in ((False, 0.3 + 2 * (0.6 - 0.5)), (True, None)):
        flat = make.model()
        group = make.group(0, 32, (replace(edit, held=held),))
        settings = make.settings(mode="joint", hold=1.0, soft=1.0, branch=0.2, steps=20, eta=0.0)
        image = made(flat, settings, [group], 1)[0].images["v0"] / 255
        rough = np.where(group.anatomy > 0, group.anatomy / 4, 0.0)
        outside = ~edit.region
        assert np.abs(image - rough)[outside].mean() < 0.1  # x_hat's latents are a sample of a posterior
        wanted = rough[edit.region] if grey is None else grey
        assert np.abs(image[edit.region] - wanted).mean() < 0.1
        assert np.abs(rough[edit.region] - 0.5).mean() > 0.2


@pytest.mark.parametrize("mode", ["joint", "branch"])
def test_the_map_says_where_the_finding_is(mapped: LoadedBundle, make: Any, mode: str) -> None:
    """Same region, prompt and noise: another area or finding in the map is another image; none is a third."""
    seen: list[torch.Tensor] = []
    denoise = mapped.denoise

    def watched(z: torch.Tensor, t: torch.Tensor, cond: torch.Tensor, **more: Any) -> torch.Tensor:
        if "maps_BRhw" in more:
            seen.append(more["maps_BRhw"])
        return denoise(z, t, cond, **more)

    edit = replace(make.edit(64, (8, 16, 24, 40)), finding="Edema")
    area = np.zeros((64, 64), bool)
    area[16:34, 8:24] = True
    settings = make.settings(mode=mode, steps=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "denoise", watched)
        images = [
            made(mapped, settings, [prompted(make.group(0, 64, (one,)))], 1)[0].images["v0"]
            for one in (edit, replace(edit, area=area), replace(edit, finding="Pneumonia"))
        ]
    null, maps = seen[-1].chunk(2)
    channel = FINDINGS.index("Pneumonia")
    assert not null.any()
    assert maps[0, channel].sum() == 16 * 24 / 16  # whole cells of 4 x 4 pixels
    assert not maps[0, [n for n in range(len(FINDINGS) + 1) if n != channel]].any()
    partial = seen[len(seen) // 2].chunk(2)[1][0, FINDINGS.index("Edema")]
    assert set(partial.unique().tolist()) == {0.0, 0.5, 1.0}
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_a_finding_without_a_map_is_shown_at_an_unknown_place(mapped: LoadedBundle, make: Any) -> None:
    from xreal_synth.sampling.groups import _GroupMaker
    from xreal_synth.sampling.noise import philox

    maker = _GroupMaker(mapped, make.settings(mode="joint"), 1, philox)
    edit = replace(make.edit(64, (8, 16, 24, 40)), finding="Mass")
    maps = maker._maps([(edit,)])
    assert maps is not None
    assert not maps[0, :-1].any()
    assert (maps[0, -1] == 1).all()


def test_no_noise_is_drawn_that_nothing_shows(mapped: LoadedBundle, make: Any, jobs: list[GroupJob]) -> None:
    drawn = set[tuple[int, str, int]]()

    def source(shape: Any, key: NoiseKey, purpose: Any, step: int, repeat: int) -> Any:
        drawn.add((key.index, purpose, step))
        return philox(shape, key, purpose, step, repeat)

    def purposes(index: int) -> list[tuple[str, int]]:
        return sorted((purpose, step) for group, purpose, step in drawn if group == index)

    settings = make.settings(mode="joint", soft=1.0, branch=0.0, eta_free=0.0)
    plain = made(mapped, settings, jobs)
    seen = list(sample_groups(mapped, settings, jobs, micro_batch=3, noise=source))
    assert all(map(same, plain, seen))
    held = [("a.hold", step) for step in range(4)]
    last = [("a.hold", 3), ("a.posterior", 0), ("a.step", 3)]
    assert purposes(0) == last, "the last hold replaces all that was before; eta is 0 after it"
    assert purposes(1) == [*held, ("a.posterior", 0), *(("a.step", step) for step in range(4)), ("a.x_T", 0)]
