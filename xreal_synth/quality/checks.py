"""What a check of the gate is: it measures an image, and its scores have bounds.

Each check stands in a file of its own: `pixels`, `seam`, `organs`, `finding`, `change`, `copies`. A score that
does not apply to an image (no region, an organ that is not in the mask) is left out, and is no failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from xreal_synth.types import GreyImage, Mask

Region = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class JudgedImage:
    """An image before the gate, uint8 [H, W] like all pictures here.

    `anatomy` is the organ mask that it has to follow, None where it follows none. `twin` is the image that it
    was painted on, `region` where it was painted; both None for a healthy twin. `asked` are the findings that it
    has to show more than its twin does; with `sham` it was painted on without one. `real` says that the twin is
    a real image, whose own faults are not the gate's matter.
    """

    key: str
    image: GreyImage
    anatomy: Mask | None = None
    twin: GreyImage | None = None
    region: Region | None = None
    asked: tuple[str, ...] = ()
    sham: bool = False
    real: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class NetworkReadings:
    """What the networks see: organ codes uint8 [H, W] of an image, and logits by finding of it and of its twin;
    None where no check asks for them."""

    label_map: Mask | None = None
    logits: Mapping[str, float] | None = None
    twin_logits: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """The limit of a score: `least` says that it must not be below, else not above. `words` name the score."""

    value: float
    least: bool
    words: str

    def broken(self, score: float) -> bool:
        """A score that is no number is."""
        return not (score >= self.value if self.least else score <= self.value)

    def reason(self, score: float) -> str:
        return f"{self.words} {score:.4g}, {'at least' if self.least else 'at most'} {self.value:.4g}"


class Check(Protocol):
    """Measures images; the same numbers for the same image, whatever else is judged."""

    @property
    def name(self) -> str: ...

    @property
    def bounds(self) -> Mapping[str, Bound]:
        """By score, without the check's name."""
        ...

    def scores(self, image: JudgedImage, seen: NetworkReadings) -> dict[str, float]:
        """The scores that apply to this image, without the check's name."""
        ...


def bounds_of(values: Mapping[str, float], words: Mapping[str, tuple[bool, str]]) -> dict[str, Bound]:
    """Bounds from settings; `words` has (least, what it is) of each score."""
    return {name: Bound(values[name], *words[name]) for name in words}
