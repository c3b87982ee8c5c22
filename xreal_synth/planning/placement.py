"""Places a finding on an anatomy: a box from the prior, the recipe's fixed box, or a shape that follows organs.

What is asked for holds for the box that is delivered, after it was snapped outward to the latent grid: at least
half of it lies in the zone, its area over the lung's is in the size range, and at least `min_overlap` of its
area lies in the organs where the finding can live (findings.py), for a drawn box in the lung of its side. Of a
shape (findings.REGIONS) half of the boxes lies in the zone and the size is its own area within the lung over the
lung's; it lies in its organs whatever `min_overlap` is.

A later finding is painted over an earlier one, which would else be labelled but not to be seen: so a label is placed
beside the findings that are there already, by the recipe's `placement.overlap`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

import numpy as np

from xreal_synth.anatomy.label_map import NAMES
from xreal_synth.anatomy.regions import region_mask, snap_outward
from xreal_synth.errors import PlacementError
from xreal_synth.findings import FINDINGS, LUNGS, REGIONS
from xreal_synth.masks import bounding_box
from xreal_synth.planning.chest import (
    CODE_OF,
    OTHER,
    ZONES,
    Floats,
    Ground,
    Ints,
    Site,
    area,
    overlap,
    side_and_zone,
    zone_of,
)
from xreal_synth.planning.prior import Lung, Prior
from xreal_synth.recipe.findings import FindingLabel
from xreal_synth.types import PixelBox, PlacedFinding

TRIES = 200
SHAPE_TRIES = 8

Overlap = Literal["allow", "avoid", "forbid"]

APART_TRIES: Final[dict[Overlap, int]] = {"allow": 1, "avoid": 8, "forbid": 64}
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
    for _ in range(APART_TRIES[rule] if before and label.box is None else 1):
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
            found=f"{label.name}: no place apart from {' and '.join(names)} in {APART_TRIES['forbid']} tries"
            if label.box is None
            else f"{label.name}: the fixed box touches {' or '.join(names)}",
            wanted="regions that share no pixel (placement.overlap: forbid)",
            hint="ask for other sides, zones or smaller sizes, or set placement.overlap: avoid",
        )
    return replace(best, prompt=label.prompt)


def place(label: FindingLabel, ground: Ground, rng: np.random.Generator) -> PlacedFinding:
    """Places `label` on a validated mask, or a fixed box on a real image without one.

    Raises PlacementError saying what failed: nothing of the asked side, zone, size and overlap in TRIES
    draws, or a fixed box outside the organs.
    """
    assert ground.size % ground.factor == 0, "the image is a multiple of the latent grid"
    if label.box is not None:
        return _place_fixed(label, ground.snapped(label.box), ground)
    assert ground.chest.masked, "images without masks take fixed boxes only"
    if REGIONS[FINDINGS[label.name].region].mask is not None:
        return _place_shape(label, ground, rng)
    if label.side == "both":
        parts = [_place_drawn(label, lung, ground, rng) for lung in CODE_OF]
        boxes = tuple(part.boxes[0] for part in parts)
        size = sum(map(area, boxes)) / sum(ground.site(lung).area for lung in CODE_OF)
        return PlacedFinding(label.name, "both", common([part.zone for part in parts]), "box", boxes, size)
    lung: Lung = ground.prior.draw_lung(label.name, rng) if label.side == "any" else label.side
    try:
        return _place_drawn(label, lung, ground, rng)
    except PlacementError as first:
        if label.side != "any":
            raise
        try:
            return _place_drawn(label, OTHER[lung], ground, rng)
        except PlacementError as second:
            found = f"{first.found}; nor {second.found.removeprefix(f'{label.name}: no ')}"
            raise PlacementError(found=found, wanted=first.wanted, hint=first.hint) from second


def common(zones: Sequence[str]) -> str:
    """The zone that all are in, else "any"."""
    return zones[0] if len(set(zones)) == 1 else "any"


def _place_shape(label: FindingLabel, ground: Ground, rng: np.random.Generator) -> PlacedFinding:
    """A shape that follows organs. Of one that is drawn the size is log-uniform in its range, and drawn again
    where its boxes are not in the zone."""
    finding = FINDINGS[label.name]
    rule = REGIONS[finding.region]
    side = label.side if label.side != "any" else rule.side or ground.prior.draw_lung(label.name, rng)
    low, high = np.log(label.size or finding.size)
    for drawn in np.exp(rng.uniform(low, high, SHAPE_TRIES)) if rule.drawn else (None,):
        size = None if drawn is None else float(drawn)
        boxes = _shape_boxes(finding.region, side, size, ground)
        zone = common([side_and_zone(box, ground.anatomy)[1] for box in boxes]) if rule.drawn else "any"
        if label.zone in ("any", zone):
            return PlacedFinding(label.name, side, zone, finding.region, boxes, size)
    raise PlacementError(
        found=f"{label.name}: {rule.words} lies in the {label.zone} zone in none of {SHAPE_TRIES} tries",
        hint="leave zone out, ask for another size, or give a fixed box",
    )


def _shape_boxes(region: str, side: str, size: float | None, ground: Ground) -> tuple[PixelBox, ...]:
    """The snapped bounding box of a shape; of a drawn one on both sides one for each lung."""
    rule = REGIONS[region]
    assert rule.mask is not None, "a shape has a mask"
    boxes = []
    for part in ("left", "right") if side == "both" and rule.drawn else (side,):
        box = bounding_box(rule.mask(ground.anatomy, part, size))
        assert box is not None, "a validated label map has both lungs and a heart"
        boxes.append(snap_outward(box, ground.factor, ground.size))
    return tuple(boxes)


def _place_fixed(label: FindingLabel, box: PixelBox, ground: Ground) -> PlacedFinding:
    """Of an image without organ mask nothing is known of the organs that the box lies in."""
    if not ground.chest.masked:
        return PlacedFinding(label.name, "any", "any", "box", (box,))
    organs = FINDINGS[label.name].organs
    named = "lungs" if organs == LUNGS else " and ".join(NAMES[code] for code in organs)
    covered = float(np.isin(ground.anatomy[box[1] : box[3], box[0] : box[2]], organs).mean())
    if covered < ground.min_overlap:
        raise PlacementError(
            found=f"{label.name}: the fixed box {list(label.box or ())} has {_percent(covered)} of its area in the "
            f"{named} of this anatomy",
            wanted=f"at least {ground.min_overlap:.0%} (placement.min_overlap)",
            hint="move the box over the organ, or lower placement.min_overlap",
        )
    return PlacedFinding(label.name, *side_and_zone(box, ground.anatomy), "box", (box,))


def _place_drawn(label: FindingLabel, lung: Lung, ground: Ground, rng: np.random.Generator) -> PlacedFinding:
    site = ground.site(lung)
    boxes = _candidates(label, site, rng, ground.prior)
    share = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / site.area
    asked = site.within_reach(boxes) & site.in_zone(boxes, label.zone)
    if label.size is not None:
        asked &= (share >= label.size[0]) & (share <= label.size[1])
    inside = np.where(asked, overlap(boxes.clip(0, site.size), ground.anatomy == CODE_OF[lung]), 0.0)
    fits = np.flatnonzero(asked & (inside >= ground.min_overlap))
    if not fits.size:
        raise _no_box(label, site, ground.min_overlap, int(asked.sum()), float(inside.max()))
    x0, y0, x1, y1 = map(int, boxes[fits[0]])
    zone = label.zone if label.zone != "any" else zone_of((x0, y0, x1, y1), site.box)
    return PlacedFinding(label.name, lung, zone, "box", ((x0, y0, x1, y1),), float(share[fits[0]]))


def _candidates(label: FindingLabel, site: Site, rng: np.random.Generator, prior: Prior) -> Ints:
    """TRIES snapped boxes int [TRIES, 4] in the order in which they are tried.

    The first half comes from the prior. Where a size is asked for, the second half has its area drawn in
    that range; where a zone or a size is asked for, the last quarter has its centre drawn anywhere in the
    zone: what the user asks for may be rare in the prior.
    """
    drawn = prior.draw(label.name, site.lung, rng, TRIES, fill=site.fill)
    uniform = rng.uniform(size=(TRIES, 3))
    half, last = slice(TRIES // 2, None), slice(3 * TRIES // 4, None)
    if label.size is not None:
        low, high = np.log(label.size)
        drawn[half, 2:] = _of_size(drawn[half, 2:], np.exp(low + (high - low) * uniform[half, 0]), site)
    if label.zone != "any" or label.size is not None:
        top, share = (0.0, 1.0) if label.zone == "any" else (ZONES.index(label.zone) / 3, 1 / 3)
        drawn[last, 0] = uniform[last, 1]
        drawn[last, 1] = top + share * uniform[last, 2]
    return site.snapped(drawn)


def _of_size(drawn: Floats, share: Floats, site: Site) -> Floats:
    """Widths and heights [N, 2] with their proportions kept and the area `share` [N] of the lung's.

    Snapping adds one grid step to a side on average: it is taken off beforehand.
    """
    pixels = drawn * site.extent
    pixels *= np.sqrt(share * site.area / pixels.prod(axis=1))[:, None]
    return np.maximum(1.0, pixels - site.factor) / site.extent


def _no_box(label: FindingLabel, site: Site, min_overlap: float, asked: int, best: float) -> PlacementError:
    lung = f"the {site.lung} lung"
    where = lung if label.zone == "any" else f"{lung}'s {label.zone} zone"
    sized = "" if label.size is None else f" of {label.size[0]:g} to {label.size[1]:g} of {lung}'s area"
    smallest = site.factor**2 / site.area
    if label.size is not None and label.size[1] < smallest:
        step = site.factor
        hint = f"ask for more: the smallest box, {step}x{step} px, is {smallest:.3g} of {lung}'s area"
    else:
        hint = "widen size or zone, or lower placement.min_overlap"
    closest = f"the best had {_percent(best)}" if asked else "none had the asked place and size"
    return PlacementError(
        found=f"{label.name}: no box{sized} with at least {min_overlap:.0%} of its area in {where} "
        f"in {TRIES} tries ({closest})",
        hint=hint,
    )


def _percent(share: float) -> str:
    """Rounded down, so that what falls short of a limit does not read as the limit."""
    return f"{math.floor(share * 1000) / 10:g}%"
