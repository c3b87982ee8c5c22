"""What goes with an image that is delivered larger than it is sampled: boxes, and the paste at the large size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from xreal_synth.anatomy.label_map import enlarged
from xreal_synth.anatomy.regions import FEATHER_SHARE, feather
from xreal_synth.types import ExistingFinding, PixelBox, PlacedFinding, SourceImage

FADE_SHARE = FEATHER_SHARE / 4
"""Width of the paste at the large size, over the image's side: the image beneath it has faded already."""


def enlarged_box(box: PixelBox, times: int) -> PixelBox:
    """The same place on an image `times` as large."""
    x0, y0, x1, y1 = box
    return x0 * times, y0 * times, x1 * times, y1 * times


def enlarged_finding(finding: PlacedFinding, times: int) -> PlacedFinding:
    return replace(finding, boxes=tuple(enlarged_box(box, times) for box in finding.boxes))


def enlarged_source(source: SourceImage, times: int) -> SourceImage:
    def own(one: ExistingFinding) -> ExistingFinding:
        removed = None if one.removed is None else enlarged_box(one.removed, times)
        return ExistingFinding(one.name, enlarged_box(one.box, times), removed)

    return replace(source, findings=tuple(map(own, source.findings)))


def enlarged_fade(region: npt.NDArray[np.bool_], times: int) -> npt.NDArray[np.float32]:
    """A region bool [h, w] -> the weights float32 [S, S] with which an edit is pasted, S = times * h."""
    large = enlarged(region, times)
    return feather(large, FADE_SHARE * large.shape[0])
