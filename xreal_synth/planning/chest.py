"""The chest that a group's findings are placed on, its lungs as places for boxes, and how findings are placed on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xreal_synth.anatomy.label_map import cardiothoracic_ratio, organ_box
from xreal_synth.anatomy.regions import snap_outward
from xreal_synth.findings import LEFT_LUNG, RIGHT_LUNG
from xreal_synth.images.folder import RealImage
from xreal_synth.planning.prior import Lung, Prior
from xreal_synth.types import Mask, NormBox, PixelBox

REACH: Final = 0.1
"""How far a drawn box may reach out of its lung's box, over that box's width or height: 90% of the shared
images' own boxes stay within it on every side, while the mean lung frame blurs the prior's beyond it."""

HALF: Final = 0.5 - 1e-9
ZONES: Final = ("upper", "middle", "lower")
CODE_OF: Final[dict[Lung, int]] = {"left": LEFT_LUNG, "right": RIGHT_LUNG}
OTHER: Final[dict[Lung, Lung]] = {"left": "right", "right": "left"}

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Site:
    """One lung of the anatomy. `box` half-open xyxy pixels, `area` pixels, `size` of the image, `factor` of
    the latent grid."""

    lung: Lung
    box: PixelBox
    area: int
    size: int
    factor: int

    @property
    def fill(self) -> float:
        """The share of the lung's bounding box that is lung, 0..1."""
        x0, y0, x1, y1 = self.box
        return self.area / ((x1 - x0) * (y1 - y0))

    @property
    def extent(self) -> Floats:
        """Width and height [2] of the lung's box in pixels."""
        x0, y0, x1, y1 = self.box
        return np.array([x1 - x0, y1 - y0], dtype=np.float64)

    def snapped(self, drawn: Floats) -> Ints:
        """(u, v, w, h) over the lung's box -> pixel boxes grown to the grid; may reach out of the image.

        float [n, 4] -> int [n, 4].
        """
        centre = np.array(self.box[:2]) + drawn[:, :2] * self.extent
        half = drawn[:, 2:] * self.extent / 2
        low = np.floor((centre - half).round(6) / self.factor)
        high = np.ceil((centre + half).round(6) / self.factor)
        return (np.concatenate([low, high], axis=1) * self.factor).astype(np.int64)

    def within_reach(self, boxes: Ints) -> npt.NDArray[np.bool_]:
        """Which boxes lie in the image and reach out of the lung's box by no more than REACH or a grid step.

        int [n, 4] -> bool [n].
        """
        reach = np.maximum(REACH * self.extent, self.factor)
        low = np.maximum(0.0, np.array(self.box[:2]) - reach)
        high = np.minimum(self.size, np.array(self.box[2:]) + reach)
        return np.asarray((boxes[:, :2] >= low).all(axis=1) & (boxes[:, 2:] <= high).all(axis=1))

    def in_zone(self, boxes: Ints, zone: str) -> npt.NDArray[np.bool_]:
        """Which boxes have at least half of their area in this third of the lung's height; `any` takes all.

        int [n, 4] -> bool [n].
        """
        if zone == "any":
            return np.ones(len(boxes), dtype=bool)
        return _in_thirds(boxes, self.box)[:, ZONES.index(zone)] >= HALF


def overlap(boxes: Ints, organ: npt.NDArray[np.bool_]) -> Floats:
    """Share of each box's area [N] in the organ bool [H, W], from its summed-area table."""
    table = np.zeros((organ.shape[0] + 1, organ.shape[1] + 1), dtype=np.int32)
    np.cumsum(np.cumsum(organ, axis=0, dtype=np.int32), axis=1, out=table[1:, 1:])
    x0, y0, x1, y1 = boxes.T
    inside = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
    return np.asarray(inside / np.maximum(1, (x1 - x0) * (y1 - y0)))


def _in_thirds(boxes: Ints, lung: PixelBox) -> Floats:
    """Shares of each box's area in the thirds of the lung's height, to the outer ones what reaches beyond: [n, 3]."""
    top, height = lung[1], lung[3] - lung[1]
    edges = np.array([-np.inf, top + height / 3, top + height * 2 / 3, np.inf])
    y0, y1 = boxes[:, 1:2], boxes[:, 3:4]
    inside = np.minimum(y1, edges[1:]) - np.maximum(y0, edges[:-1])
    return np.asarray(inside.clip(0) / (y1 - y0))


def zone_of(box: PixelBox, lung: PixelBox) -> str:
    """The third of the lung's height that has at least half of the box's area; "any" where none has."""
    shares = _in_thirds(np.array([box]), lung)[0]
    return ZONES[int(shares.argmax())] if shares.max() >= HALF else "any"


def side_and_zone(box: PixelBox, anatomy: Mask) -> tuple[Lung, str]:
    """The lung that a box covers more of, and its zone there. The mask is uint8 [H, W]."""
    inside = anatomy[box[1] : box[3], box[0] : box[2]]
    lung: Lung = "left" if (inside == LEFT_LUNG).sum() >= (inside == RIGHT_LUNG).sum() else "right"
    return lung, zone_of(box, organ_box(anatomy, CODE_OF[lung]))


def area(box: PixelBox) -> int:
    """Pixels in a half-open box x0, y0, x1, y1."""
    return (box[2] - box[0]) * (box[3] - box[1])


@dataclass(frozen=True, slots=True, eq=False)
class Chest:
    """An organ mask, and the real image that it belongs to, if it does: `anatomy` uint8 [H, W], of zeros where a real
    image has no organ mask (`masked` is False); `id` says where it came from, `number` is the image's in its folder."""

    anatomy: Mask
    id: str
    masked: bool = True
    image: RealImage | None = None
    number: int = -1

    @property
    def ctr(self) -> float | None:
        """The mask's cardiothoracic ratio."""
        return cardiothoracic_ratio(self.anatomy) if self.masked else None


@dataclass(frozen=True, slots=True)
class Ground:
    """A chest, and how findings are placed on it: by the prior, on the latent grid of steps of `factor` pixels, with
    the recipe's `min_overlap`."""

    chest: Chest
    prior: Prior
    factor: int
    min_overlap: float

    @property
    def anatomy(self) -> Mask:
        """The chest's mask, uint8 [H, H]."""
        return self.chest.anatomy

    @property
    def size(self) -> int:
        """The image's side in pixels, as it is sampled."""
        return int(self.anatomy.shape[0])

    def site(self, lung: Lung) -> Site:
        """One of the chest's lungs."""
        code = CODE_OF[lung]
        return Site(lung, organ_box(self.anatomy, code), int((self.anatomy == code).sum()), self.size, self.factor)

    def snapped(self, box: NormBox) -> PixelBox:
        """Shares of the image -> pixels, grown outward to the latent grid."""
        x0, y0, x1, y1 = (share * self.size for share in box)
        return snap_outward((x0, y0, x1, y1), self.factor, self.size)
