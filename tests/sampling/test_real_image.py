"""Real images edited by stage B alone: the image's own bytes outside, and states that lead to the image."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from xreal_synth.anatomy.regions import feather
from xreal_synth.models.loaded import LoadedBundle
from xreal_synth.sampling.blend import from_grey, to_grey
from xreal_synth.sampling.controlled import Rule
from xreal_synth.sampling.groups import sample_groups
from xreal_synth.sampling.jobs import Edit, GroupJob
from xreal_synth.sampling.noise import BatchNoise, NoiseKey, philox
from xreal_synth.sampling.real_image import image_states
from xreal_synth.sampling.schedule import make_schedule
from xreal_synth.types import GreyImage


def image(seed: int, size: int = 64) -> GreyImage:
    return np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)


def feathered(make: Any, box: tuple[int, int, int, int], prompt: str = "Edema") -> Edit:
    flat: Edit = make.edit(64, box, prompt)
    return replace(flat, alpha=feather(flat.region, 4.0))


@pytest.fixture
def jobs(make: Any) -> list[GroupJob]:
    """An image as it is, with one edit, and with two whose regions overlap."""
    one, two = feathered(make, (8, 16, 24, 40)), feathered(make, (16, 24, 40, 56), "No Finding")
    members: list[tuple[tuple[Edit, ...], ...]] = [(), ((one,),), ((one, two), (two,))]
    return [replace(make.group(i, 64, *each), image=image(i)) for i, each in enumerate(members)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0), (-1024.0, 1024.0), (0.1, 0.7)])
def test_every_grey_comes_back(value_range: tuple[float, float], channels: int) -> None:
    greys = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    inside = from_grey(greys, value_range, channels)
    assert inside.shape == (1, channels, 16, 16)
    assert (float(inside.min()), float(inside.max())) == pytest.approx(value_range)
    assert torch.equal(to_grey(inside[0], value_range), greys[0])


@pytest.mark.parametrize("mode", ["branch", "reference"])
def test_nothing_changes_outside_the_feather(tiny: LoadedBundle, make: Any, jobs: list[GroupJob], mode: str) -> None:
    for job, made in zip(jobs, sample_groups(tiny, make.settings(mode=mode), jobs, micro_batch=2), strict=True):
        assert job.image is not None
        assert np.array_equal(made.images["h"], job.image)
        for member in job.members:
            outside = np.all([edit.alpha == 0 for edit in member.edits], axis=0)
            assert np.array_equal(made.images[member.name][outside], job.image[outside])
            assert not np.array_equal(made.images[member.name], job.image)


@pytest.mark.parametrize("mode", ["branch", "reference"])
def test_bytes_do_not_depend_on_neighbours(tiny: LoadedBundle, make: Any, jobs: list[GroupJob], mode: str) -> None:
    settings = make.settings(mode=mode, steps=4)
    whole = list(sample_groups(tiny, settings, jobs, micro_batch=4))
    alone = [next(sample_groups(tiny, settings, [job], micro_batch=4)) for job in jobs]
    for a, b in zip(whole, alone, strict=True):
        assert a.images.keys() == b.images.keys()
        assert all(np.array_equal(made, b.images[name]) for name, made in a.images.items())


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_states_are_those_of_a_sampling_that_ends_in_the_image(make: Any, eta: float) -> None:
    """Each state is z0 noised to its step, and neighbours keep DDIM's share of their noise: eta 0 all of it."""
    model = make.model(latent_shape=(2, 64, 64))
    rule = Rule(make_schedule(model.alphas_cumprod, 8, "branch"), "epsilon", eta=eta)
    noise = BatchNoise(philox, (NoiseKey(1, 2, 0),), model.latent_shape, model.device)
    x = from_grey(torch.from_numpy(image(0, 256))[None], model.value_range, 1)
    *states, last = image_states(model, x, rule, noise)
    z0 = model.scale_factor * model.encode(x)[0]
    assert torch.equal(last, z0)
    schedule = rule.schedule
    own = [
        (state - math.sqrt(abar) * z0) / math.sqrt(1 - abar) for state, abar in zip(states, schedule.abar, strict=True)
    ]
    for eps in own:
        assert float(eps.mean()) == pytest.approx(0, abs=0.05)
        assert float(eps.std()) == pytest.approx(1, abs=0.05)
    for i in range(7):
        abar, after = schedule.abar[i], schedule.abar_next[i]
        fresh = eta**2 * (1 - abar / after) / (1 - abar)
        assert float((own[i] * own[i + 1]).mean()) == pytest.approx(math.sqrt(1 - fresh), abs=0.05)
