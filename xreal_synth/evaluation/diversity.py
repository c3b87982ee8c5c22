"""Diversity of images: MS-SSIM between images of one finding, in a stream.

Each image is compared with the last image of the same finding and of another group (or patient), after which both
are let go: one image a finding is in memory, and every pair is of images that no other pair has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from xreal_synth.evaluation.fidelity import ms_ssim
from xreal_synth.evaluation.intervals import Bootstrap, Estimate, unknown
from xreal_synth.types import GreyImage

ALL: Final = ""
"""The pairs of any two images."""

MOST_PAIRS: Final = 100
"""A finding; beyond it the interval is narrow enough."""


class ImagePairs:
    """Takes images one by one and keeps MS-SSIM of pairs by finding."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[str, GreyImage]] = {}
        self._scores: dict[str, list[tuple[str, float]]] = {}

    def add(self, image: GreyImage, group: str, findings: Iterable[str]) -> None:
        """An image of `group` that shows `findings`; it is paired within each, and among all images. uint8 [H, W]."""
        for name in (ALL, *findings):
            scores = self._scores.setdefault(name, [])
            if len(scores) >= MOST_PAIRS:
                continue
            former = self._waiting.get(name)
            if former is None or former[0] == group:
                self._waiting.setdefault(name, (group, image))
                continue
            scores.append((group, ms_ssim([image], [former[1]])[0]))
            del self._waiting[name]

    def figure(self, finding: str = ALL) -> Estimate:
        """Mean MS-SSIM of the finding's pairs, `n` of them; lower is more diverse."""
        scores = self._scores.get(finding, [])
        if not scores:
            return unknown()
        return Bootstrap([group for group, _ in scores]).mean(np.array([score for _, score in scores]))
