"""Places a label beside the findings that are there already, by the recipe's `placement.overlap`.

A later finding is painted over an earlier one, which would else be labelled but not to be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

import numpy as np

from xreal_synth.anatomy.regions import region_mask
from xreal_synth.errors import PlacementError
from xreal_synth.findings import FINDINGS, REGIONS
from xreal_synth.planning.chest import Ground
from xreal_synth.planning.placement import place
from xreal_synth.recipe.findings import FindingLabel
from xreal_synth.types import PlacedFinding

Overlap = Literal["allow", "avoid", "forbid"]

TRIES: Final[dict[Overlap, int]] = {"allow": 1, "avoid": 8, "forbid": 64}
MOST_COVERED: Final[dict[Overlap, float]] = {"allow": 1.0, "avoid": 0.5, "forbid": 0.0}
"""Share of an earlier finding that a later one may cover."""


def place_apart(
    label: FindingLabel, ground: Ground, rng: np.random.Generator, before: Sequence[PlacedFinding], rule: Overlap
) -> PlacedFinding:
    """Places a label; one that covers more of an earlier finding than the rule has it is drawn again.

    After the tries `avoid` takes the place that covers least, `forbid` raises PlacementError, as it does
    where there is nothing to draw: a fixed box, or a whole organ. An organ shares its place with others, but
    under `forbid`.
    """
    drawn = REGIONS[FINDINGS[label.name].region].drawn
    taken = [
        region_mask(earlier, ground.anatomy)
        for earlier in before
        if rule == "forbid" or (drawn and REGIONS[earlier.region].drawn)
    ]
    best, least = None, np.inf
    for _ in range(TRIES[rule] if before and label.box is None else 1):
        placed, covered = place(label, ground, rng), 0.0
        if taken:
            region = region_mask(placed, ground.anatomy)
            covered = max(float((region & other).sum() / other.sum()) for other in taken)
        if covered < least:
            best, least = placed, covered
        if covered <= MOST_COVERED[rule] or not drawn:
            break
    assert best is not None
    if least > 0 and rule == "forbid":
        names = list(dict.fromkeys(earlier.name for earlier in before))
        raise PlacementError(
            found=f"{label.name}: no place apart from {' and '.join(names)} in {TRIES['forbid']} tries"
            if label.box is None
            else f"{label.name}: the fixed box touches {' or '.join(names)}",
            wanted="regions that share no pixel (placement.overlap: forbid)",
            hint="ask for other sides, zones or smaller sizes, or set placement.overlap: avoid",
        )
    return replace(best, prompt=label.prompt)
