"""What the sampler is asked for and what it gives back. Arrays only: no torch is needed to state a job."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xreal_synth.types import Film, Mask


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
    """A film to make from the twin: its edits are infused one after another.

    In mode joint all are made together, in one trajectory of the film's own, whose prompt is `prompt`.
    """

    name: str
    edits: tuple[Edit, ...]
    prompt: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class GroupJob:
    """One anatomy (organ codes uint8 [H, W]) and the members to make of it; the twin is always made, in mode
    joint only where no member has findings.

    With `film`, a real film uint8 [H, W], there is no stage A: the film itself is the twin. `large` is the
    same film at the size that films are upscaled to, where they are.
    """

    seed: int
    index: int
    attempt: int
    anatomy: Mask
    healthy_prompt: str
    members: tuple[MemberJob, ...]
    film: Film | None = None
    large: Film | None = None


@dataclass(frozen=True, slots=True, eq=False)
class GroupFilms:
    """Finished films uint8 [H, W] by member name, the twin "h" among them if it was made."""

    index: int
    films: dict[str, Film]
