"""A row's `edit` on one real image: which of its existing findings are painted over, and where others go.

Every box that is painted into lies on the latent grid. A finding's boxes on one image are painted in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

import numpy as np

from xreal_synth.anatomy.regions import removed_region, snap_outward
from xreal_synth.errors import PlacementError
from xreal_synth.images.folder import RealImage
from xreal_synth.images.manifest import ImageBox
from xreal_synth.planning.chest import CODE_OF, OTHER, ZONES, Floats, Ground, Ints, Site, area, overlap, side_and_zone
from xreal_synth.planning.placement import TRIES, common
from xreal_synth.planning.prior import Lung, Prior
from xreal_synth.recipe.findings import EditRule, Move
from xreal_synth.types import ExistingFinding, PixelBox, PlacedFinding, SourceImage

MOST_SHARED: Final = 0.25
"""Share of a moved box that may lie in the region it was moved from."""

Draw = Callable[[str, int], np.random.Generator]
"""(what for, number of the box) -> a stream of its own."""

_Named = TypeVar("_Named", ImageBox, ExistingFinding)


def source_of(image: RealImage, edit: EditRule | None, *, factor: int, size: int) -> SourceImage:
    """What is recorded of the image: its own labels and boxes, those marked that the edit paints over."""

    def own(given: ImageBox) -> ExistingFinding:
        x0, y0, x1, y1 = (share * size for share in given.box)
        box = snap_outward((x0, y0, x1, y1), 1, size)
        removes = edit is not None and edit.removes(given.name)
        return ExistingFinding(given.name, box, removed_region(box, factor, size) if removes else None)

    return SourceImage(image.id, image.sha256, tuple(sorted(image.row.labels)), tuple(map(own, image.own)))


def edited(edit: EditRule, source: SourceImage, ground: Ground, draw: Draw) -> tuple[PlacedFinding, ...]:
    """The findings that an edit paints into an image: moved ones, resized ones, those with places.

    Raises PlacementError where a moved box finds no place, or a resized one stays as it is on the grid.
    """
    placed: list[PlacedFinding] = []
    if edit.move is not None:
        for name, own in _by_name(source.findings, edit.moved.__contains__):
            placed.append(_moved(name, own, edit.move, ground, draw))
    if edit.resize is not None:
        for name, own in _by_name(source.findings, edit.resized.__contains__):
            boxes = [_resized(one, edit.resize.scale, ground, draw(f"resize {name}", i)) for i, one in enumerate(own)]
            placed.append(_placed(name, boxes, ground))
    if edit.add is not None:
        assert ground.chest.image is not None, "places belong to a real image"
        for name, given in _by_name(ground.chest.image.places, edit.adds):
            placed.append(_placed(name, [ground.snapped(place.box) for place in given], ground))
    return tuple(placed)


def _moved(name: str, own: Sequence[ExistingFinding], move: Move, ground: Ground, draw: Draw) -> PlacedFinding:
    taken: list[PixelBox] = [one.removed for one in own if one.removed is not None]
    boxes: list[PixelBox] = []
    for i, one in enumerate(own):
        rng = draw(f"move {name}", i)
        lung: Lung = ground.prior.draw_lung(name, rng) if move.side == "any" else move.side
        lungs = (lung, OTHER[lung]) if move.side == "any" else (lung,)
        found = next((box for side in lungs if (box := _place_for(name, one, side, move, ground, rng, taken))), None)
        if found is None:
            where = "the lungs" if move.side == "any" else f"the {move.side} lung"
            zone = "" if move.zone == "any" else f", {move.zone} zone"
            x0, y0, x1, y1 = one.box
            raise PlacementError(
                found=f"{name}: no other place for its box of {x1 - x0} x {y1 - y0} pixels in {where}{zone} with "
                f"at least {ground.min_overlap:.0%} of it in the lung in {TRIES} tries",
                hint="widen side or zone, or lower placement.min_overlap",
            )
        boxes.append(found)
        taken.append(found)
    return _placed(name, boxes, ground)


def _place_for(
    name: str, own: ExistingFinding, lung: Lung, move: Move, ground: Ground, rng: np.random.Generator,
    taken: Sequence[PixelBox],
) -> PixelBox | None:  # fmt: skip
    """A box of the finding's own width and height in that lung, away from those taken."""
    site = ground.site(lung)
    boxes = site.snapped(_centres(name, own, site, move.zone, ground.prior, rng))
    fits = site.within_reach(boxes) & site.in_zone(boxes, move.zone)
    inside = overlap(boxes.clip(0, site.size), ground.anatomy == CODE_OF[lung])
    fits &= inside >= ground.min_overlap
    for box in taken:
        fits &= _shared(boxes, box) <= MOST_SHARED
    hits = np.flatnonzero(fits)
    if not hits.size:
        return None
    x0, y0, x1, y1 = map(int, boxes[hits[0]])
    return x0, y0, x1, y1


def _centres(name: str, own: ExistingFinding, site: Site, zone: str, prior: Prior, rng: np.random.Generator) -> Floats:
    """TRIES boxes (u, v, w, h) of the finding's own size: half with centres of the prior, half anywhere in the
    zone."""
    drawn = prior.draw(name, site.lung, rng, TRIES, fill=site.fill)
    x0, y0, x1, y1 = own.box
    drawn[:, 2:] = np.array([x1 - x0, y1 - y0]) / site.extent
    top, share = (0.0, 1.0) if zone == "any" else (ZONES.index(zone) / 3, 1 / 3)
    uniform = rng.uniform(size=(TRIES // 2, 2))
    drawn[TRIES // 2 :, 0] = uniform[:, 0]
    drawn[TRIES // 2 :, 1] = top + share * uniform[:, 1]
    return drawn


def _shared(boxes: Ints, other: PixelBox) -> Floats:
    """Share of each box's area [N] that lies in another box."""
    width = np.minimum(boxes[:, 2], other[2]) - np.maximum(boxes[:, 0], other[0])
    height = np.minimum(boxes[:, 3], other[3]) - np.maximum(boxes[:, 1], other[1])
    own = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.asarray(width.clip(0) * height.clip(0) / own)


def _resized(own: ExistingFinding, scale: tuple[float, float], ground: Ground, rng: np.random.Generator) -> PixelBox:
    """The box about its own centre, width and height times a factor of the range, cut to the image."""
    x0, y0, x1, y1 = own.box
    before = snap_outward((x0, y0, x1, y1), ground.factor, ground.size)
    centre, half = ((x0 + x1) / 2, (y0 + y1) / 2), ((x1 - x0) / 2, (y1 - y0) / 2)
    low, high = np.log(scale)
    for factor in np.exp(rng.uniform(low, high, TRIES)):
        dx, dy = half[0] * float(factor), half[1] * float(factor)
        box = snap_outward((centre[0] - dx, centre[1] - dy, centre[0] + dx, centre[1] + dy), ground.factor, ground.size)
        if box != before:
            return box
    raise PlacementError(
        found=f"{own.name}: its box of {x1 - x0} x {y1 - y0} pixels, {scale[0]:g} to {scale[1]:g} times as large, "
        f"is the same on the grid of {ground.factor} pixels",
        hint="widen scale, away from 1",
    )


def _placed(name: str, boxes: Sequence[PixelBox], ground: Ground) -> PlacedFinding:
    """Side, zone and size by the organ mask; "any" and none where there is no mask."""
    if not ground.chest.masked:
        return PlacedFinding(name, "any", "any", "box", tuple(boxes))
    sides, zones = zip(*(side_and_zone(box, ground.anatomy) for box in boxes), strict=True)
    lungs = sum(ground.site(lung).area for lung in set(sides))
    side = sides[0] if len(set(sides)) == 1 else "both"
    return PlacedFinding(name, side, common(zones), "box", tuple(boxes), sum(map(area, boxes)) / lungs)


def _by_name(ones: Iterable[_Named], asked: Callable[[str], bool]) -> list[tuple[str, list[_Named]]]:
    """Those whose names are asked for, by name, in the order in which the names come first."""
    found: dict[str, list[_Named]] = {}
    for one in ones:
        if asked(one.name):
            found.setdefault(one.name, []).append(one)
    return list(found.items())
