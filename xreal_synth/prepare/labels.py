"""Labels of a source's rows, as a manifest has them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final

from xreal_synth.anatomy.tables import Row
from xreal_synth.findings import CHEXPERT14, IMAGE_LABELS, NO_FINDING, image_label
from xreal_synth.images.manifest import BESIDE_NO_FINDING
from xreal_synth.prepare.found import Blank

Labels = tuple[tuple[str, ...], tuple[str, ...]]
"""Names of the positive labels, and of the unknown ones."""
HEALTHY: Final[dict[float | None, bool]] = {1.0: True, 0.0: False}
"""What a cell of "No Finding" says."""


def chexpert_labels(row: Row, blank: Blank, spared: Collection[str] = ()) -> Labels:
    """The labels of a row with a column for each of CheXpert's, as TorchXRayVision's datasets read them.

    -1 and an empty cell are unknown; with `blank="negative"` an empty cell counts as 0. Where "No Finding" is 1 all
    others are 0 but for those `spared`. Labels that the set does not have are unknown. Raises ValueError for a cell
    that is not 1, 0, -1 or empty.
    """
    cells = {name: float(row[name]) if row[name] else None for name in sorted(CHEXPERT14)}
    if not set(cells.values()) <= {1, 0, -1, None}:
        raise ValueError("a label that is not 1, 0, -1 or empty")
    healthy, empty = HEALTHY.get(cells.pop(NO_FINDING)), 0.0 if blank == "negative" else math.nan
    values = {}
    for name, cell in cells.items():
        value = empty if cell is None else cell
        values[image_label(name) or name] = 0.0 if healthy and name not in spared else value
    return named_labels(values, healthy)


def named_labels(values: Mapping[str, float], healthy: bool | None) -> Labels:
    """Values of some labels, 1, 0 or any other for unknown, and whether the image is said to have no finding.

    Nothing said and nothing found leaves "No Finding" unknown; so are labels that have no value.
    """
    positive = [name for name, value in values.items() if value == 1]
    negative = {name for name, value in values.items() if value == 0}
    finding = any(name not in BESIDE_NO_FINDING for name in positive)
    if healthy and not finding:
        positive.insert(0, NO_FINDING)
    elif finding or healthy is False:
        negative.add(NO_FINDING)
    unknown = [name for name in IMAGE_LABELS if name not in positive and name not in negative]
    return tuple(positive), tuple(unknown)
