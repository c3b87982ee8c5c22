"""The upscaler's sampling: Cheff's steps, one noise a group, and edits that stay within their region."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from xreal_synth.anatomy.label_map import enlarged
from xreal_synth.errors import BundleError
from xreal_synth.models.networks.sr3_unet import cosine_betas
from xreal_synth.sampling.blend import cubic_resize, from_grey
from xreal_synth.sampling.jobs import GroupImages
from xreal_synth.sampling.upscale import upscale_groups, upscale_image, upscale_schedule
from xreal_synth.types import GreyImage

SIDE = 128
COSINE = torch.cumprod(1 - cosine_betas(), 0)


@dataclass
class Cubic:
    """Predicts the large image to be the small one, resized, and a tenth of the noise that it began with."""

    side: int = SIDE
    alphas_cumprod: Tensor = field(default_factory=lambda: COSINE)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seen: list[int] = field(default_factory=list)
    broken: bool = False

    def denoise(self, noisy: Tensor, small: Tensor, t: Tensor) -> Tensor:
        self.seen.append(int(t[0]))
        abar = float(self.alphas_cumprod[int(t[0])])
        eps = (noisy - abar**0.5 * small) / (1 - abar) ** 0.5
        return eps * (float("nan") if self.broken else 0.9)


def image(seed: int, size: int = 32) -> GreyImage:
    return np.random.default_rng(seed).integers(40, 200, (size, size), dtype=np.uint8)


def noise(seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((1, SIDE, SIDE), dtype=np.float32)


def test_steps_are_those_of_the_released_code() -> None:
    """arange(0, 2000, 20), descending; the step after the last leads to abar[0]."""
    schedule = upscale_schedule(COSINE, 100)
    assert schedule.timesteps == tuple(range(0, 2000, 20))[::-1]
    assert schedule.abar_next[:-1] == schedule.abar[1:]
    assert schedule.abar_next[-1] == schedule.abar[-1] == float(COSINE[0])
    assert upscale_schedule(COSINE, 7).timesteps[-1] == 0


def test_a_perfect_denoiser_gives_its_image_whatever_the_noise() -> None:
    class Perfect(Cubic):
        def denoise(self, noisy: Tensor, small: Tensor, t: Tensor) -> Tensor:
            return super().denoise(noisy, small, t) / 0.9

    model, small = Perfect(), image(1)
    made = upscale_image(model, small, noise(), upscale_schedule(COSINE, 10))
    wanted = cubic_resize(from_grey(torch.from_numpy(small)[None], (-1.0, 1.0), 1), (SIDE, SIDE))[0]
    assert float((made - wanted.clamp(-1, 1)).abs().max()) < 0.05  # abar[0] keeps 1% of the noise
    assert model.seen == list(upscale_schedule(COSINE, 10).timesteps)


def test_overflow_is_an_error() -> None:
    with pytest.raises(BundleError, match="overflow"):
        upscale_image(Cubic(broken=True), image(1), noise(), upscale_schedule(COSINE, 3))


def fade(region: Any) -> Any:
    return enlarged(region, 4).astype(np.float32)


def groups(make: Any, *, real: bool = False) -> tuple[list[Any], list[GroupImages]]:
    """A group with a twin, a variant that differs in a box, and a member without edits."""
    edit = make.edit(32, (8, 8, 20, 24))
    twin, edited = image(1), image(1)
    edited[8:24, 8:20] = 255 - edited[8:24, 8:20]
    job = make.group(3, 32, (edit,), ())
    if real:
        job = replace(job, image=twin, large=image(2, SIDE))
    return [job], [GroupImages(3, {"h": twin, "v0": edited, "v1": twin})]


@pytest.mark.parametrize("real", [False, True])
def test_an_edit_stays_equal_to_its_twin_outside_its_region(make: Any, real: bool) -> None:
    jobs, small = groups(make, real=real)
    counted: list[float] = []
    (made,) = upscale_groups(Cubic(), small, jobs, steps=5, fade=fade, on_images=counted.append)
    large, variant = made.images["h"], made.images["v0"]
    inside = enlarged(jobs[0].members[0].edits[0].region, 4)
    assert large.shape == (SIDE, SIDE)
    assert np.array_equal(variant[~inside], large[~inside])
    assert (variant[inside] != large[inside]).mean() > 0.9
    assert np.array_equal(made.images["v1"], large)
    assert np.array_equal(large, jobs[0].large) is real
    assert sum(counted) == pytest.approx(1 if real else 2)


def test_images_of_a_group_share_their_noise_and_groups_do_not(make: Any) -> None:
    jobs, small = groups(make)
    again = [replace(jobs[0], index=4)]
    (one,) = upscale_groups(Cubic(), small, jobs, steps=5, fade=fade)
    (same,) = upscale_groups(Cubic(), small, jobs, steps=5, fade=fade)
    (other,) = upscale_groups(Cubic(), [replace_index(small[0], 4)], again, steps=5, fade=fade)
    assert np.array_equal(one.images["h"], same.images["h"])
    assert not np.array_equal(one.images["h"], other.images["h"])
    whole = fade(np.ones((32, 32), dtype=bool))
    jobs_twins = [replace(jobs[0], members=(replace(jobs[0].members[0]),))]
    twin_as_edit = GroupImages(3, {"h": small[0].images["h"], "v0": small[0].images["h"]})
    (equal,) = upscale_groups(Cubic(), [twin_as_edit], jobs_twins, steps=5, fade=lambda region: whole)
    assert np.array_equal(equal.images["v0"], equal.images["h"])


def replace_index(group: GroupImages, index: int) -> GroupImages:
    return GroupImages(index, group.images)
