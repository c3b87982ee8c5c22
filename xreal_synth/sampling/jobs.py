"""What the sampler is asked for and what it gives back. Arrays only: no torch is needed to state a job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt

from xreal_synth.types import GreyImage, Mask


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """A finding's region bool [H, W], its prompt, the paste's alpha float32 [H, W], 0 outside the region.

    `finding` names it, "" where nothing is to be shown. `area` bool [H, W] is what a denoiser with region maps is
    told of its place (None: the region). With `held` mode joint holds the anatomy inside the region too.
    """

    region: npt.NDArray[np.bool_]
    prompt: str
    alpha: npt.NDArray[np.float32]
    finding: str = ""
    area: npt.NDArray[np.bool_] | None = None
    held: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class MemberJob:
    """An image to make from the twin: its edits are infused one after another.

    In mode joint all are made together, in one trajectory of the image's own, whose prompt is `prompt`.
    """

    name: str
    edits: tuple[Edit, ...]
    prompt: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class GroupJob:
    """One anatomy (organ codes uint8 [H, W]) and the members to make of it; the twin is always made, in mode
    joint only where no member has findings.

    With `image`, a real image uint8 [H, W], there is no stage A: the image itself is the twin. `large` is the
    same image at the size that images are upscaled to, where they are.
    """

    seed: int
    index: int
    attempt: int
    anatomy: Mask
    healthy_prompt: str
    members: tuple[MemberJob, ...]
    image: GreyImage | None = None
    large: GreyImage | None = None


@dataclass(frozen=True, slots=True, eq=False)
class GroupImages:
    """Finished images uint8 [H, W] by member name, the twin "h" among them if it was made."""

    index: int
    images: dict[str, GreyImage]


class Renderer(Protocol):
    """Makes groups' images a micro-batch at a time; what does not fill one waits for later groups."""

    def begin(self, jobs: Sequence[GroupJob]) -> list[GroupImages]:
        """Begins a micro-batch of groups at the most; the groups that are finished now, in the order of the jobs."""

    def finish(self) -> list[GroupImages]:
        """Finishes all groups that were begun."""


def in_batches(renderer: Renderer, jobs: Iterable[GroupJob], size: int) -> Iterator[list[GroupImages]]:
    """The images of each job, in order, as they come; jobs are taken `size` at a time."""
    source = iter(jobs)
    while batch := list(islice(source, size)):
        yield renderer.begin(batch)
    yield renderer.finish()
