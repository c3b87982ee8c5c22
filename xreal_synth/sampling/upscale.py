"""The last step, if it is asked for: finished films made larger by a super-resolution diffusion (SR3).

The upscaler sees a film resized to the large side and denoises from noise by DDIM with eta 0, as Cheff's
released code does. All films of a group start from the same noise, and an edit's large film is pasted into
its twin's, so that they stay equal outside what was painted. A real film is its own large twin.

Shapes: B batch, S side of the large film; films grey, uint8 [h, w] and [S, S].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xreal_synth.errors import BundleError
from xreal_synth.sampling.blend import cubic_resize, from_grey, paste, to_grey
from xreal_synth.sampling.denoise import split_prediction
from xreal_synth.sampling.jobs import GroupFilms, GroupJob
from xreal_synth.sampling.noise import NoiseKey, NoiseSource, philox
from xreal_synth.sampling.schedule import Schedule, ddim_step
from xreal_synth.types import Film

RANGE = (-1.0, 1.0)
"""Of films inside an upscaler."""

TWIN = "h"

Fade = Callable[[npt.NDArray[np.bool_]], npt.NDArray[np.float32]]
"""A region bool [h, w] of the small film -> the paste's weights float32 [S, S], 0 outside the region."""


class UpscalerModel(Protocol):
    """Predicts the noise in a large film."""

    @property
    def device(self) -> torch.device: ...

    @property
    def side(self) -> int:
        """S."""
        ...

    @property
    def alphas_cumprod(self) -> Tensor:
        """[T] of the training schedule."""
        ...

    def denoise(self, noisy_B1SS: Tensor, small_B1SS: Tensor, t_B: Tensor) -> Tensor:
        """Noisy large film and the small one resized to its side, in -1..1 -> eps [B, 1, S, S]."""
        ...


def upscale_schedule(alphas_cumprod: Tensor, steps: int) -> Schedule:
    """Timesteps floor(i * T / S), descending; the last step leads to abar[0]. Cheff's where S divides T."""
    alphas = alphas_cumprod.tolist()
    assert 1 <= steps <= len(alphas), f"{steps} steps of {len(alphas)}"
    timesteps = tuple(i * len(alphas) // steps for i in range(steps))[::-1]
    abar = tuple(alphas[t] for t in timesteps)
    return Schedule(timesteps, abar, (*abar[1:], alphas[0]))


@torch.inference_mode()
def upscale_film(
    model: UpscalerModel,
    film: Film,
    noise: npt.NDArray[np.float32],
    schedule: Schedule,
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """A film uint8 [h, w] and noise [1, S, S] -> the large film [1, S, S] in -1..1. Raises BundleError."""
    small = from_grey(torch.from_numpy(film)[None].to(model.device), RANGE, 1)
    small = cubic_resize(small, (model.side, model.side))
    x = torch.from_numpy(noise)[None].to(model.device)
    for i, t in enumerate(schedule.timesteps):
        out = model.denoise(x, small, torch.full((1,), t, device=model.device))
        x0, eps = split_prediction("epsilon", out, x, schedule.abar[i])
        x = ddim_step(x0, eps, schedule.abar[i], schedule.abar_next[i], torch.zeros(()).to(x), 0.0)
        on_step()
    if not bool(torch.isfinite(x).all()):
        raise BundleError(
            found="the upscaler's numbers overflow",
            wanted="finite films",
            mend="set compute.precision to fp32",
        )
    return x[0].clamp(*RANGE)


def upscale_groups(
    model: UpscalerModel,
    groups: Iterable[GroupFilms],
    jobs: Iterable[GroupJob],
    *,
    steps: int,
    fade: Fade,
    noise: NoiseSource = philox,
    on_films: Callable[[float], None] = lambda films: None,
) -> Iterator[GroupFilms]:
    """Each group's films at the large side, in the order of `jobs`, whose groups they are.

    `on_films` is called after each step with the share of a film that it was. Raises BundleError.
    """
    schedule = upscale_schedule(model.alphas_cumprod, steps)
    for group, job in zip(groups, jobs, strict=True):
        assert job.index == group.index, f"films of group {group.index} where {job.index} was due"
        shape = (1, model.side, model.side)
        start = noise(shape, NoiseKey(job.seed, job.index, job.attempt), "u.x_T", 0, 0)

        def enlarged(film: Film, start: npt.NDArray[np.float32] = start) -> Tensor:
            return upscale_film(model, film, start, schedule, lambda: on_films(1 / steps))

        yield GroupFilms(group.index, _large_films(job, group, enlarged, fade))


def _large_films(
    job: GroupJob, group: GroupFilms, enlarged: Callable[[Film], Tensor], fade: Fade
) -> dict[str, Film]:
    if job.large is None and TWIN not in group.films:
        return {name: _grey(enlarged(film)) for name, film in group.films.items()}
    if job.large is None:
        twin = enlarged(group.films[TWIN])
    else:
        twin = from_grey(torch.from_numpy(job.large.copy())[None], RANGE, 1)[0]
    films = {TWIN: _grey(twin)}
    for member in job.members:
        if not member.edits:
            films[member.name] = films[TWIN]
            continue
        region = np.any([edit.region for edit in member.edits], axis=0)
        edited = enlarged(group.films[member.name])
        alpha = torch.from_numpy(fade(region)).to(edited.device)
        films[member.name] = _grey(paste(twin.to(edited.device), edited, alpha))
    return films


def _grey(film_1SS: Tensor) -> Film:
    grey: Film = to_grey(film_1SS, RANGE).cpu().numpy()
    return grey
