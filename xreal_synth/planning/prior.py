"""The placement prior: where in a lung each finding's boxes lie, and how large they are.

Fitted once by `tests/planning/fit_prior.py` on public tables. A box is (u, v, log w, log h): centre and size over the
box of the lung it lies in, u and v from that box's top left. The prior of a finding on one side is its
boxes, each blurred by a Gaussian: a draw is one of them plus bandwidth * normal. Findings without boxes
use the zone weights and size range of findings.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from xreal_synth.errors import PlacementError
from xreal_synth.findings import FINDINGS
from xreal_synth.opening import parse_json

Lung = Literal["left", "right"]
SIDES: tuple[Lung, Lung] = ("left", "right")
Boxes = npt.NDArray[np.float64]

FORMAT_VERSION = 1
PATH = Path(__file__).parent / "prior-nih-rsna.json"

_FALLBACK_ACROSS = (0.2, 0.8)
_FALLBACK_ASPECT = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class SidePrior:
    """A finding's boxes in one lung: points [N, 4] and bandwidth [4] in (u, v, log w, log h)."""

    points: Boxes
    bandwidth: Boxes

    def draw(self, rng: np.random.Generator, count: int) -> Boxes:
        """Boxes relative to a lung's frame, float64 [count, 4]: a fitted box each, moved by the kernel's width."""
        chosen = self.points[rng.integers(len(self.points), size=count)]
        return np.asarray(chosen + self.bandwidth * rng.standard_normal((count, 4)))


@dataclass(frozen=True, slots=True, eq=False)
class FindingPrior:
    """A finding by the patient's sides; `left_share` is the chance that a box lies in the left lung."""

    left_share: float
    sides: dict[Lung, SidePrior]


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """The priors by finding; `Prior.load()` gives the shipped one."""

    findings: dict[str, FindingPrior]

    @staticmethod
    @cache
    def load(path: Path = PATH) -> Prior:
        """The stored prior. Raises PlacementError if the file is broken or newer than this code."""
        try:
            stored = parse_json(path.read_text())
            if stored["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format {stored['format_version']}, this code reads {FORMAT_VERSION}")
            findings = {
                name: FindingPrior(entry["left_share"], {lung: _side(entry[lung]) for lung in SIDES})
                for name, entry in stored["findings"].items()
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PlacementError(
                where=str(path),
                found=f"the placement prior cannot be read ({error})",
                wanted="the JSON as it is in the package, or as `python -m tests.planning.fit_prior` writes it",
                hint="install the package again",
            ) from error
        return Prior(findings)

    def draw_lung(self, name: str, rng: np.random.Generator) -> Lung:
        """The lung for a finding whose side was left open."""
        known = self.findings.get(name)
        return "left" if rng.uniform() < (known.left_share if known else 0.5) else "right"

    def draw(self, name: str, lung: Lung, rng: np.random.Generator, count: int, *, fill: float) -> Boxes:
        """`count` boxes [count, 4] = (u, v, w, h) over the lung's box; `fill` = lung area over its box's."""
        known = self.findings.get(name)
        if known is None:
            return _fallback(name, rng, count, fill)
        drawn = known.sides[lung].draw(rng, count)
        drawn[:, 2:] = np.exp(drawn[:, 2:])
        return drawn


def _fallback(name: str, rng: np.random.Generator, count: int, fill: float) -> Boxes:
    """Zone by weight, centre uniform in it; area log-uniform in the finding's range; mild aspect."""
    finding = FINDINGS[name]
    weights = np.array(finding.zone_weights)
    zone = np.searchsorted(np.cumsum(weights) / weights.sum(), rng.uniform(size=count), side="right")
    u = rng.uniform(*_FALLBACK_ACROSS, count)
    v = (zone.clip(0, 2) + rng.uniform(size=count)) / 3.0
    low, high = np.log(finding.size)
    side = np.sqrt(np.exp(rng.uniform(low, high, count)) * fill)
    aspect = np.exp(_FALLBACK_ASPECT * rng.standard_normal(count))
    return np.stack([u, v, side * aspect, side / aspect], axis=1)


def _side(entry: dict[str, list[float]]) -> SidePrior:
    points = np.array(entry["points"], dtype=np.float64).reshape(-1, 4)
    if not len(points):
        raise ValueError("a side without boxes")
    return SidePrior(points=points, bandwidth=np.array(entry["bandwidth"], dtype=np.float64))
