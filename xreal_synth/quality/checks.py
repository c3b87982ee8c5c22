"""Checks of the gate: each measures an image, and its scores have bounds.

Each check stands in a file of its own, whose CHECK is all that the rest of the project reads of it. A score that
does not apply to an image (no region, an organ that is not in the mask) is left out, and is no failure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from xreal_synth.types import CheckAction, GreyImage, Mask

Region = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class JudgedImage:
    """An image before the gate, uint8 [H, W] like all pictures here.

    `anatomy` is the organ mask that it has to follow, None where it follows none. `twin` is the image that it
    was painted on, None for a healthy one and in mode joint; `region` is where its findings are, None for a healthy
    one. `asked` are the findings that it has to show more than its twin does, `gone` those that it has to show less;
    with `sham` it was painted on without one. `real` says that the twin is a real image, whose own faults are not the
    gate's matter.
    """

    key: str
    image: GreyImage
    anatomy: Mask | None = None
    twin: GreyImage | None = None
    region: Region | None = None
    asked: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    sham: bool = False
    real: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class NetworkReadings:
    """Readings of the networks: organ codes uint8 [H, W] of an image, and logits by finding of it and of its twin;
    None where no check asks for them."""

    label_map: Mask | None = None
    logits: Mapping[str, float] | None = None
    twin_logits: Mapping[str, float] | None = None


Measure = Callable[[JudgedImage, NetworkReadings], dict[str, float]]
"""The scores of a check that apply to an image, by their names: the same whatever else is judged."""


@dataclass(frozen=True, slots=True)
class Score:
    """One number of a check. `least` says that its bound is the least let through, else the most.

    `words` name it in reports, `help` is its key's description in the recipe, `standard` and `strict` are its bounds
    in the profiles (None: brought by the check's file), `limits` what a recipe may ask for.
    """

    least: bool
    words: str
    help: str
    standard: float | None
    strict: float | None
    limits: tuple[float | None, float | None] = (0, 1)

    def broken(self, value: float, bound: float) -> bool:
        """Whether a value is beyond the bound; one that is no number is."""
        return not (value >= bound if self.least else value <= bound)

    def reason(self, value: float, bound: float) -> str:
        """Why a value beyond the bound is refused, in words: `mean grey level 3, at least 10`."""
        return f"{self.words} {value:.4g}, {'at least' if self.least else 'at most'} {bound:.4g}"


@dataclass(frozen=True, slots=True)
class CheckFile:
    """A file that a check reads: the recipe's key that names it, what it is, and the bounds that it brings along."""

    key: str
    help: str
    bounds: Callable[[Path], dict[str, float]] = lambda path: {}


@dataclass(frozen=True, slots=True)
class CheckEntry:
    """All that the project knows of a check: its row in `gate.CHECKS`.

    `rank` is its place among the checks, the cheap and plain ones first. `about` says what it does in the recipe's
    schema. It measures by `measure`, or by what `open` makes of its file. `needs` is what it cannot run without:
    "segmenter", "classifier" or "file"; `hint` says how to come by that.
    """

    name: str
    rank: int
    about: str
    scores: Mapping[str, Score]
    measure: Measure | None = None
    open: Callable[[Path], Measure] | None = None
    standard: CheckAction = "reject"
    strict: CheckAction = "reject"
    needs: Literal["segmenter", "classifier", "file"] | None = None
    file: CheckFile | None = None
    hint: str = ""

    def opened(self, file: str | None) -> Measure:
        """How it measures, with the file that the recipe names."""
        measure = self.measure if self.open is None or file is None else self.open(Path(file))
        assert measure is not None, f"{self.name} reads a file"
        return measure
