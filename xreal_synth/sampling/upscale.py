"""The last step, if it is asked for: finished images made larger by a super-resolution diffusion (SR3).

The upscaler sees an image resized to the large side and denoises from noise by DDIM with eta 0, as Cheff's
released code does. All images of a group start from the same noise, and an edit's large image is pasted into
its twin's, so that they stay equal outside what was painted. A real image is its own large twin.

Shapes: B batch, S side of the large image; images grey, uint8 [h, w] and [S, S].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xreal_synth.errors import BundleError
from xreal_synth.sampling.blend import cubic_resize, feathered_paste, from_grey, to_grey
from xreal_synth.sampling.denoise import split_prediction
from xreal_synth.sampling.jobs import GroupImages, GroupJob
from xreal_synth.sampling.noise import NoiseKey, NoiseSource, philox
from xreal_synth.sampling.schedule import Schedule, ddim_step
from xreal_synth.types import GreyImage, Role

RANGE = (-1.0, 1.0)
"""Of images inside an upscaler."""


Fade = Callable[[npt.NDArray[np.bool_]], npt.NDArray[np.float32]]
"""A region bool [h, w] of the small image -> the paste's weights float32 [S, S], 0 outside the region."""


class UpscalerModel(Protocol):
    """Predicts the noise in a large image."""

    device: torch.device
    """Where the network lies; images and noise are brought there."""
    side: int
    """S."""
    alphas_cumprod: Tensor
    """[T] of the training schedule."""

    def denoise(self, noisy_B1SS: Tensor, small_B1SS: Tensor, t_B: Tensor) -> Tensor:
        """Noisy large image and the small one resized to its side, in -1..1 -> eps [B, 1, S, S]."""


def upscale_schedule(alphas_cumprod: Tensor, steps: int) -> Schedule:
    """Timesteps floor(i * T / S), descending; the last step leads to abar[0]. Cheff's where S divides T."""
    alphas = alphas_cumprod.tolist()
    assert 1 <= steps <= len(alphas), f"{steps} steps of {len(alphas)}"
    timesteps = tuple(i * len(alphas) // steps for i in range(steps))[::-1]
    abar = tuple(alphas[t] for t in timesteps)
    return Schedule(timesteps, abar, (*abar[1:], alphas[0]))


@torch.inference_mode()
def upscale_image(
    model: UpscalerModel,
    image: GreyImage,
    noise: npt.NDArray[np.float32],
    schedule: Schedule,
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """An image uint8 [h, w] and noise [1, S, S] -> the large image [1, S, S] in -1..1. Raises BundleError."""
    small = from_grey(torch.from_numpy(image)[None].to(model.device), RANGE, 1)
    small = cubic_resize(small, (model.side, model.side))
    x = torch.from_numpy(noise)[None].to(model.device)
    for i, t in enumerate(schedule.timesteps):
        out = model.denoise(x, small, torch.full((1,), t, device=model.device))
        x0, eps = split_prediction("epsilon", out, x, schedule.abar[i])
        x = ddim_step(x0, eps, schedule.abar[i], schedule.abar_next[i], torch.zeros(()).to(x), 0.0)
        on_step()
    if not bool(torch.isfinite(x).all()):
        raise BundleError(
            found="the upscaler's numbers overflow", wanted="finite images", hint="set compute.precision to fp32"
        )
    return x[0].clamp(*RANGE)


def upscale_groups(
    model: UpscalerModel,
    groups: Iterable[GroupImages],
    jobs: Iterable[GroupJob],
    *,
    steps: int,
    fade: Fade,
    noise: NoiseSource = philox,
    on_images: Callable[[float], None] = lambda images: None,
) -> Iterator[GroupImages]:
    """Each group's images at the large side, in the order of `jobs`, whose groups they are.

    `on_images` is called after each step with the share of an image that it was. Raises BundleError.
    """
    schedule = upscale_schedule(model.alphas_cumprod, steps)
    for group, job in zip(groups, jobs, strict=True):
        assert job.index == group.index, f"images of group {group.index} where {job.index} was due"
        shape = (1, model.side, model.side)
        start = noise(shape, NoiseKey(job.seed, job.index, job.attempt), "u.x_T", 0, 0)

        def enlarged(image: GreyImage, start: npt.NDArray[np.float32] = start) -> Tensor:
            return upscale_image(model, image, start, schedule, lambda: on_images(1 / steps))

        yield GroupImages(group.index, _large_images(job, group, enlarged, fade))


def _large_images(
    job: GroupJob, group: GroupImages, enlarged: Callable[[GreyImage], Tensor], fade: Fade
) -> dict[str, GreyImage]:
    if job.large is None and Role.healthy not in group.images:
        return {name: _grey(enlarged(image)) for name, image in group.images.items()}
    if job.large is None:
        twin = enlarged(group.images[Role.healthy])
    else:
        twin = from_grey(torch.from_numpy(job.large.copy())[None], RANGE, 1)[0]
    images = {Role.healthy.member(): _grey(twin)}
    for member in job.members:
        if not member.edits:
            images[member.name] = images[Role.healthy]
            continue
        region = np.any([edit.region for edit in member.edits], axis=0)
        edited = enlarged(group.images[member.name])
        alpha = torch.from_numpy(fade(region)).to(edited.device)
        images[member.name] = _grey(feathered_paste(twin.to(edited.device), edited, alpha))
    return images


def _grey(image_1SS: Tensor) -> GreyImage:
    grey: GreyImage = to_grey(image_1SS, RANGE).cpu().numpy()
    return grey
