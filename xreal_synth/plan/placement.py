"""Places a finding on an anatomy: a box from the prior, the recipe's fixed box, or the organ itself.

What is asked for holds for the box that is delivered, after it was snapped outward to the latent grid: its
centre lies in the zone, its area over the lung's is in the size range, and at least `min_overlap` of its
area lies in the organs where the finding can live (vocab.py), for a drawn box in the lung of its side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xreal_synth.anatomy.measure import bounding_box, lung_box
from xreal_synth.anatomy.regions import organ_region, snap_outward
from xreal_synth.errors import PlacementError
from xreal_synth.plan.prior import Lung, Prior
from xreal_synth.recipe.schema import FindingLabel
from xreal_synth.types import Mask, PixelBox, PlacedFinding
from xreal_synth.vocab import FINDINGS, LEFT_LUNG, LUNGS, ORGANS, RIGHT_LUNG

TRIES = 200
REACH = 0.1
"""How far a drawn box may reach out of its lung's box, over that box's width or height: 90% of the shared
films' own boxes stay within it on every side, while the mean lung frame blurs the prior's beyond it."""

ZONES = ("upper", "middle", "lower")

_CODE: dict[Lung, int] = {"left": LEFT_LUNG, "right": RIGHT_LUNG}
_OTHER: dict[Lung, Lung] = {"left": "right", "right": "left"}

_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Site:
    """One lung of the anatomy. `box` half-open xyxy pixels, `area` pixels."""

    lung: Lung
    box: PixelBox
    area: int
    size: int
    factor: int

    @property
    def fill(self) -> float:
        x0, y0, x1, y1 = self.box
        return self.area / ((x1 - x0) * (y1 - y0))


def place(
    label: FindingLabel,
    anatomy: Mask,
    rng: np.random.Generator,
    prior: Prior,
    *,
    factor: int,
    min_overlap: float,
) -> PlacedFinding:
    """Places `label` on a validated mask uint8 [H, H], H a multiple of `factor`, the latent grid's step.

    Raises PlacementError saying what failed: nothing of the asked side, zone, size and overlap in TRIES
    draws, or a fixed box outside the organs.
    """
    assert anatomy.shape[0] % factor == 0, "the image is a multiple of the latent grid"
    if FINDINGS[label.name].region != "box":
        return _place_organ(label, anatomy, factor)
    if label.box is not None:
        return _place_fixed(label, anatomy, factor, min_overlap)
    if label.side == "both":
        return _place_both(label, anatomy, rng, prior, factor, min_overlap)
    lung = prior.draw_lung(label.name, rng) if label.side == "any" else _lung(label.side)
    try:
        return _place_drawn(label, _site(anatomy, lung, factor), anatomy, rng, prior, min_overlap)
    except PlacementError as first:
        if label.side != "any":
            raise
        try:
            other = _site(anatomy, _OTHER[lung], factor)
            return _place_drawn(label, other, anatomy, rng, prior, min_overlap)
        except PlacementError as second:
            found = f"{first.found}; nor {second.found.removeprefix(f'{label.name}: no ')}"
            raise PlacementError(found=found, wanted=first.wanted, mend=first.mend) from second


def _place_organ(label: FindingLabel, anatomy: Mask, factor: int) -> PlacedFinding:
    region = FINDINGS[label.name].region
    assert (label.zone, label.size, label.box) == ("any", None, None), "the recipe's schema refuses them"
    box = bounding_box(organ_region(region, anatomy))
    assert box is not None, "a validated mask has both lungs and a heart"
    x0, y0, x1, y1 = box
    return PlacedFinding(
        name=label.name,
        side="any" if region == "heart" else "both",
        zone="any",
        region=region,
        boxes=(snap_outward((x0, y0, x1, y1), factor, anatomy.shape[0]),),
    )


def _place_fixed(label: FindingLabel, anatomy: Mask, factor: int, min_overlap: float) -> PlacedFinding:
    assert label.box is not None, "a fixed box"
    size = anatomy.shape[0]
    x0, y0, x1, y1 = (v * size for v in label.box)
    box = snap_outward((x0, y0, x1, y1), factor, size)
    organs = FINDINGS[label.name].organs
    inside = anatomy[box[1] : box[3], box[0] : box[2]]
    overlap = float(np.isin(inside, organs).mean())
    if overlap < min_overlap:
        raise PlacementError(
            found=f"{label.name}: the fixed box {list(label.box)} has {_percent(overlap)} of its area in the "
            f"{_organ_names(organs)} of this anatomy",
            wanted=f"at least {min_overlap:.0%} (placement.min_overlap)",
            mend="move the box over the organ, or lower placement.min_overlap",
        )
    lung: Lung = "left" if (inside == LEFT_LUNG).sum() >= (inside == RIGHT_LUNG).sum() else "right"
    zone = _zone_of((box[1] + box[3]) / 2, lung_box(anatomy, _CODE[lung]))
    return PlacedFinding(label.name, lung, zone, "box", (box,))


def _place_both(
    label: FindingLabel,
    anatomy: Mask,
    rng: np.random.Generator,
    prior: Prior,
    factor: int,
    min_overlap: float,
) -> PlacedFinding:
    """One box per lung; `size` is their joint area over the lungs'."""
    sites = [_site(anatomy, lung, factor) for lung in _CODE]
    parts = [_place_drawn(label, site, anatomy, rng, prior, min_overlap) for site in sites]
    boxes = tuple(part.boxes[0] for part in parts)
    zones = {part.zone for part in parts}
    zone = zones.pop() if len(zones) == 1 else "any"
    size = sum(_area(box) for box in boxes) / sum(site.area for site in sites)
    return PlacedFinding(label.name, "both", zone, "box", boxes, size)


def _place_drawn(
    label: FindingLabel,
    site: _Site,
    anatomy: Mask,
    rng: np.random.Generator,
    prior: Prior,
    min_overlap: float,
) -> PlacedFinding:
    boxes = _candidates(label, site, rng, prior)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    share = area / site.area
    asked = _within_reach(boxes, site)
    if label.zone != "any":
        asked &= _in_zone(boxes, site, label.zone)
    if label.size is not None:
        asked &= (share >= label.size[0]) & (share <= label.size[1])
    overlap = np.where(asked, _overlap(boxes.clip(0, site.size), anatomy == _CODE[site.lung]), 0.0)
    fits = np.flatnonzero(asked & (overlap >= min_overlap))
    if not fits.size:
        raise _no_box(label, site, min_overlap, int(asked.sum()), float(overlap.max()))
    x0, y0, x1, y1 = map(int, boxes[fits[0]])
    zone = _zone_of((y0 + y1) / 2, site.box)
    return PlacedFinding(label.name, site.lung, zone, "box", ((x0, y0, x1, y1),), float(share[fits[0]]))


def _candidates(label: FindingLabel, site: _Site, rng: np.random.Generator, prior: Prior) -> _Ints:
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
    return _snapped(drawn, site)


def _of_size(drawn: _Floats, share: _Floats, site: _Site) -> _Floats:
    """Widths and heights [N, 2] with their proportions kept and the area `share` [N] of the lung's.

    Snapping adds one grid step to a side on average: it is taken off beforehand.
    """
    pixels = drawn * _extent(site)
    pixels *= np.sqrt(share * site.area / pixels.prod(axis=1))[:, None]
    return np.maximum(1.0, pixels - site.factor) / _extent(site)


def _snapped(drawn: _Floats, site: _Site) -> _Ints:
    """(u, v, w, h) over the lung's box -> pixel boxes grown to the grid; may reach out of the image."""
    centre = np.array(site.box[:2]) + drawn[:, :2] * _extent(site)
    half = drawn[:, 2:] * _extent(site) / 2
    low = np.floor((centre - half).round(6) / site.factor)
    high = np.ceil((centre + half).round(6) / site.factor)
    return (np.concatenate([low, high], axis=1) * site.factor).astype(np.int64)


def _overlap(boxes: _Ints, organ: npt.NDArray[np.bool_]) -> _Floats:
    """Share of each box's area [N] in the organ bool [H, W], from its summed-area table."""
    table = np.zeros((organ.shape[0] + 1, organ.shape[1] + 1), dtype=np.int32)
    np.cumsum(np.cumsum(organ, axis=0, dtype=np.int32), axis=1, out=table[1:, 1:])
    x0, y0, x1, y1 = boxes.T
    inside = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
    return np.asarray(inside / np.maximum(1, (x1 - x0) * (y1 - y0)))


def _within_reach(boxes: _Ints, site: _Site) -> npt.NDArray[np.bool_]:
    """Which boxes lie in the image and reach out of the lung's box by no more than REACH or a grid step."""
    reach = np.maximum(REACH * _extent(site), site.factor)
    low = np.maximum(0.0, np.array(site.box[:2]) - reach)
    high = np.minimum(site.size, np.array(site.box[2:]) + reach)
    return np.asarray((boxes[:, :2] >= low).all(axis=1) & (boxes[:, 2:] <= high).all(axis=1))


def _extent(site: _Site) -> _Floats:
    """Width and height [2] of the lung's box in pixels."""
    x0, y0, x1, y1 = site.box
    return np.array([x1 - x0, y1 - y0], dtype=np.float64)


def _in_zone(boxes: _Ints, site: _Site, zone: str) -> npt.NDArray[np.bool_]:
    top, height = site.box[1], site.box[3] - site.box[1]
    third = np.floor(((boxes[:, 1] + boxes[:, 3]) / 2 - top) * 3 / height)
    return np.asarray(third == ZONES.index(zone))


def _zone_of(y: float, lung: PixelBox) -> str:
    third = int((y - lung[1]) * 3 // (lung[3] - lung[1]))
    return ZONES[min(2, max(0, third))]


def _no_box(label: FindingLabel, site: _Site, min_overlap: float, asked: int, best: float) -> PlacementError:
    lung = f"the {site.lung} lung"
    where = lung if label.zone == "any" else f"{lung}'s {label.zone} zone"
    sized = "" if label.size is None else f" of {label.size[0]:g} to {label.size[1]:g} of {lung}'s area"
    smallest = site.factor**2 / site.area
    if label.size is not None and label.size[1] < smallest:
        step = site.factor
        mend = f"ask for more: the smallest box, {step}x{step} px, is {smallest:.3g} of {lung}'s area"
    else:
        mend = "widen size or zone, or lower placement.min_overlap"
    closest = f"the best had {_percent(best)}" if asked else "none had the asked place and size"
    return PlacementError(
        found=f"{label.name}: no box{sized} with at least {min_overlap:.0%} of its area in {where} "
        f"in {TRIES} tries ({closest})",
        mend=mend,
    )


def _site(anatomy: Mask, lung: Lung, factor: int) -> _Site:
    code = _CODE[lung]
    return _Site(lung, lung_box(anatomy, code), int((anatomy == code).sum()), anatomy.shape[0], factor)


def _lung(side: str) -> Lung:
    assert side in ("left", "right"), side
    return "left" if side == "left" else "right"


def _area(box: PixelBox) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _percent(share: float) -> str:
    """Rounded down, so that what falls short of a limit does not read as the limit."""
    return f"{math.floor(share * 1000) / 10:g}%"


def _organ_names(codes: tuple[int, ...]) -> str:
    if codes == LUNGS:
        return "lungs"
    return " and ".join(name.replace("_", " ") for name, code in ORGANS.items() if code in codes)
