"""A finding's region on a delivered image: one painted in, whole where a later one was painted over it, or one
that a real image came with and kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from xreal_synth.anatomy.regions import region_mask
from xreal_synth.findings import NO_FINDING
from xreal_synth.masks import boxes_region
from xreal_synth.planning.labels import implied, labels_of
from xreal_synth.types import ExistingFinding, Mask, PixelBox, PlacedFinding, SampleMeta


def finding_region(finding: PlacedFinding, value: int, anatomy: Mask, pathology: Mask) -> npt.NDArray[np.bool_]:
    """bool [H, W] of the finding that pathology.png holds as `value`.

    What the mask shows is taken as it is; where a later finding hides it, its shape rule says what is there.
    """
    shown = np.asarray(pathology == value)
    hidden = pathology > value
    if hidden.any():
        shown |= hidden & region_mask(finding, anatomy)
    return shown


def shown_regions(meta: SampleMeta, anatomy: Mask, pathology: Mask) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """(finding, bool [H, W]) of what was painted in, then the boxes of what a real image came with and kept."""
    for value, finding in enumerate(meta.findings, start=1):
        yield finding.name, finding_region(finding, value, anatomy, pathology)
    for own in kept_findings(meta):
        yield own.name, boxes_region([own.box], anatomy.shape)


def kept_findings(meta: SampleMeta) -> tuple[ExistingFinding, ...]:
    """The boxed findings that a real image came with and that nobody painted over."""
    own = meta.source.findings if meta.source is not None else ()
    return tuple(one for one in own if one.removed is None)


def boxed_findings(meta: SampleMeta) -> Iterator[tuple[str, PixelBox]]:
    """(finding, box) of what was painted in, a box per lung, then of what a real image came with and kept."""
    yield from ((finding.name, box) for finding in meta.findings for box in finding.boxes)
    yield from ((own.name, own.box) for own in kept_findings(meta))


def has_unboxed(meta: SampleMeta) -> bool:
    """Whether a label is 1 that none of the image's boxes accounts for: it shows a finding nobody placed."""
    boxed = implied([name for name, _ in boxed_findings(meta)])
    return any(
        value == 1 and label != NO_FINDING and label not in boxed[label_set]
        for label_set, labels in meta.labels.items()
        for label, value in labels.items()
    )


def positive_names(finding: str, label_set: str) -> frozenset[str]:
    """The labels of a set that the finding makes positive: itself and its parents."""
    values = labels_of([finding], "unknown", ctr=0.0)[label_set]
    return frozenset(label for label, value in values.items() if value == 1)
