"""A finding's region on a delivered film, whole where a later finding was painted over it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xreal_synth.anatomy.regions import region_mask
from xreal_synth.plan.labels import labels_of
from xreal_synth.types import Mask, PlacedFinding


def finding_region(
    finding: PlacedFinding, value: int, anatomy: Mask, pathology: Mask
) -> npt.NDArray[np.bool_]:
    """bool [H, W] of the finding that pathology.png holds as `value`.

    What the mask shows is taken as it is; where a later finding hides it, its shape rule says what is there.
    """
    shown = np.asarray(pathology == value)
    hidden = pathology > value
    if hidden.any():
        shown |= hidden & region_mask(finding, anatomy)
    return shown


def positive_names(finding: str, label_set: str) -> frozenset[str]:
    """The labels of a set that the finding makes positive: itself and its parents."""
    values = labels_of([finding], "unknown", ctr=0.0)[label_set]
    return frozenset(label for label, value in values.items() if value == 1)
