"""Organs, findings with the shapes of their regions, and how their names map between label sets.

Finding names are TorchXRayVision's (18 `default_pathologies`); CheXpert's 14 are the second label set.
Parents follow the CheXpert label hierarchy as far as both sets can say it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from xreal_synth.masks import Bools, bounding_box, scale_about
from xreal_synth.types import Mask

BACKGROUND: Final = 0
LEFT_LUNG: Final = 1
RIGHT_LUNG: Final = 2
HEART: Final = 3
AORTA: Final = 4

ORGANS: Final[dict[str, int]] = {"left_lung": LEFT_LUNG, "right_lung": RIGHT_LUNG, "heart": HEART, "aorta": AORTA}
LUNGS: Final = (LEFT_LUNG, RIGHT_LUNG)
LUNGS_OF: Final = {"left": (LEFT_LUNG,), "right": (RIGHT_LUNG,), "both": LUNGS, "any": LUNGS}
"""Codes by side, the patient's."""


@dataclass(frozen=True, slots=True)
class RegionRule:
    """The shape of a region, as the project knows it.

    `words` say what it takes in. `keys` are the recipe's keys that it accepts: side, zone, size (its area over the
    lung's is drawn), box (a fixed box in its place). `mask` gives its pixels: (label map, side, size) -> bool [H, W];
    None for a box, which is its own mask. `side` is the side where none is asked for, None where one is drawn.
    With `held` the label map itself shows the finding, so that the anatomy is held inside the region too.
    `covers` are the codes that it holds in full on its side, as far as the label map alone can tell.
    """

    words: str
    keys: tuple[str, ...]
    mask: Callable[[Mask, str, float | None], Bools] | None
    side: str | None = None
    covers: tuple[int, ...] = ()
    held: bool = False

    @property
    def drawn(self) -> bool:
        """Whether the same organs can have it in several places or sizes."""
        return "size" in self.keys


HEART_REGION_SCALE: Final = 1.2
"""The heart's region is the heart this much larger, room for its border to move outward: NIH's Cardiomegaly
boxes are 1.30 times as wide and 1.13 times as high as the shared masks' mean heart."""

FEATHER_SHARE: Final = 1 / 32
"""Width of a paste's feather over the image's side: 8 pixels at 256."""

LUNGS_MARGIN: Final = FEATHER_SHARE
"""A region that follows the lungs has a margin of this share of the image's side around them: the paste fades
within the region, so without it a rim of the healthy counterfactual's air would be left at their border."""

MENISCUS: Final = 0.3
"""How much higher an effusion stands at the chest wall than at the mediastinum, over the lung's height."""

COLLAPSE: Final = 0.35
"""How much thinner a pneumothorax is at the lung's base than at its apex, over the lung's width."""

_Floats = npt.NDArray[np.float64]


def _heart(label_map: Mask, side: str, size: float | None) -> Bools:
    return scale_about(label_map == HEART, (HEART_REGION_SCALE, HEART_REGION_SCALE))


def _lungs(label_map: Mask, side: str, size: float | None) -> Bools:
    return _filled(label_map, side, 1.0, lambda lung, lateral: np.zeros(lung.shape))


def _costophrenic(label_map: Mask, side: str, size: float | None) -> Bools:
    """Fluid: from the costophrenic angle upwards, with a border that climbs the chest wall as a meniscus does."""

    def height(lung: Bools, lateral: _Floats) -> _Floats:
        rows = np.arange(lung.shape[0], 0, -1)[:, None] / lung.shape[0]
        return np.asarray(rows - MENISCUS * (1.0 - (lateral / lung.shape[1]).clip(0.0, 1.0)) ** 3)

    return _filled(label_map, side, size, height)


def _pleural(label_map: Mask, side: str, size: float | None) -> Bools:
    """Air: a band along the apex and the chest wall, thickest at the apex."""

    def depth(lung: Bools, lateral: _Floats) -> _Floats:
        away = ndimage.distance_transform_edt(lateral >= 0)
        rows = np.arange(lung.shape[0])[:, None] / lung.shape[0]
        return np.asarray(away / lung.shape[1] + COLLAPSE * rows)

    return _filled(label_map, side, size, depth)


def _filled(label_map: Mask, side: str, size: float | None, order: Callable[[Bools, _Floats], _Floats]) -> Bools:
    """The share `size` of each lung of a side that comes first, and the margin next to it -> bool [H, W].

    `order` takes a lung bool [h, w], cut out with a rim of a pixel but below, and how far each pixel lies from the
    chest wall in its row (negative outside), float [h, w], and gives what is filled first the lowest values.
    """
    assert size is not None, "a share of the lung is drawn"
    inside = np.zeros(label_map.shape, dtype=bool)
    for code in LUNGS_OF[side]:
        lung = label_map == code
        box = bounding_box(lung)
        assert box is not None, "a validated label map has both lungs"
        window = slice(box[1], box[3]), slice(box[0], box[2])
        rimmed = np.pad(lung[window], ((1, 0), (1, 1)))
        values = order(rimmed, _from_wall(rimmed, code))[1:, 1:-1]
        last = max(1, round(size * int(lung.sum()))) - 1
        inside[window] |= lung[window] & (values <= np.partition(values[lung[window]], last)[last])
    return inside | _margin(label_map, LUNGS_OF[side], inside)


def _from_wall(lung: Bools, code: int) -> _Floats:
    """Pixels from the chest wall along each row, negative outside of it: float [h, w]."""
    if code == RIGHT_LUNG:
        wall = np.where(lung.any(axis=1), lung.argmax(axis=1), lung.shape[1])
        return np.asarray(np.arange(lung.shape[1])[None, :] - wall[:, None], dtype=np.float64)
    return _from_wall(lung[:, ::-1], RIGHT_LUNG)[:, ::-1]


def _margin(label_map: Mask, codes: tuple[int, ...], inside: Bools) -> Bools:
    """What lies outside of all lungs, within LUNGS_MARGIN of these and nearest to a pixel of `inside`."""
    away, (rows, columns) = ndimage.distance_transform_edt(~np.isin(label_map, codes), return_indices=True)
    near = (away <= LUNGS_MARGIN * label_map.shape[0]) & ~np.isin(label_map, LUNGS)
    return np.asarray(near & inside[rows, columns])


_PLACED: Final = ("side", "zone", "size", "box")

REGIONS: Final[dict[str, RegionRule]] = {
    "box": RegionRule("a box", _PLACED, None),
    "heart": RegionRule("the heart", (), _heart, side="any", held=True),
    "lungs": RegionRule("a whole lung or both lungs", ("side",), _lungs, side="both", covers=LUNGS),
    "costophrenic": RegionRule("the lung's base from the costophrenic angle up", _PLACED, _costophrenic),
    "pleural": RegionRule("a band along the pleura from the apex down", _PLACED, _pleural),
}
"""By name, as KEY.json has it: the one place that knows shapes; a finding names its own."""

NO_FINDING: Final = "No Finding"

CHEXPERT14: Final[tuple[str, ...]] = (
    NO_FINDING, "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other",
    "Fracture", "Support Devices",
)  # fmt: skip

TXRV18: Final[tuple[str, ...]] = (
    "Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema", "Fibrosis",
    "Effusion", "Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass", "Hernia", "Lung Lesion",
    "Fracture", "Lung Opacity", "Enlarged Cardiomediastinum",
)  # fmt: skip

IMAGE_LABELS: Final[tuple[str, ...]] = (NO_FINDING, *TXRV18, "Pleural Other", "Support Devices")
"""Names that label an image in a manifest: those of both sets, "Effusion" for CheXpert's "Pleural Effusion"."""

LATER_LABELS: Final[frozenset[str]] = frozenset()
"""Labels that a set got after version 1 of the dataset folder: null in datasets that were made without them."""

LABEL_SETS: Final[dict[str, tuple[str, ...]]] = {"chexpert14": CHEXPERT14, "txrv18": TXRV18}


@dataclass(frozen=True, slots=True)
class KnownFinding:
    """A finding, as the project knows it.

    `chexpert` is its CheXpert name if that set has it; `implies` are names (of either set) that are
    positive wherever it is. `organs` are the codes in which it can live; `region` names its rule in REGIONS.
    `size` and `zone_weights` (upper, middle, lower) are used where the placement prior has no boxes, `size` for
    every drawn shape: its area over the lung's area, and chances.
    """

    name: str
    chexpert: str | None
    implies: tuple[str, ...] = ()
    organs: tuple[int, ...] = LUNGS
    region: str = "box"
    size: tuple[float, float] = (0.05, 0.35)
    zone_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)


_OPACITY = ("Lung Opacity",)

_ALL: Final[tuple[KnownFinding, ...]] = (
    KnownFinding("Atelectasis", "Atelectasis", _OPACITY, size=(0.04, 0.3), zone_weights=(0.15, 0.3, 0.55)),
    KnownFinding("Consolidation", "Consolidation", _OPACITY, zone_weights=(0.25, 0.35, 0.4)),
    KnownFinding("Infiltration", None, _OPACITY, zone_weights=(0.2, 0.4, 0.4)),
    KnownFinding("Pneumothorax", "Pneumothorax", region="pleural", size=(0.08, 0.5), zone_weights=(0.7, 0.2, 0.1)),
    KnownFinding("Edema", "Edema", _OPACITY, region="lungs"),
    KnownFinding("Emphysema", None, size=(0.15, 0.6), zone_weights=(0.5, 0.3, 0.2)),
    KnownFinding("Fibrosis", None, size=(0.05, 0.4), zone_weights=(0.25, 0.25, 0.5)),
    KnownFinding("Effusion", "Pleural Effusion", region="costophrenic", size=(0.08, 0.4), zone_weights=(0.0, 0.1, 0.9)),
    KnownFinding("Pneumonia", "Pneumonia", _OPACITY, zone_weights=(0.2, 0.35, 0.45)),
    KnownFinding("Pleural_Thickening", "Pleural Other", size=(0.03, 0.2), zone_weights=(0.4, 0.3, 0.3)),
    KnownFinding("Cardiomegaly", "Cardiomegaly", ("Enlarged Cardiomediastinum",), (HEART,), "heart"),
    KnownFinding("Nodule", "Lung Lesion", ("Lung Lesion", "Lung Opacity"), size=(0.005, 0.03)),
    KnownFinding("Mass", "Lung Lesion", ("Lung Lesion", "Lung Opacity"), size=(0.02, 0.12)),
    KnownFinding("Lung Lesion", "Lung Lesion", _OPACITY, size=(0.005, 0.12)),
    KnownFinding("Lung Opacity", "Lung Opacity"),
)

FINDINGS: Final[dict[str, KnownFinding]] = {finding.name: finding for finding in _ALL}

HEART_FINDING: Final = "Cardiomegaly"
"""The finding that an anatomy shows by itself: a heart too wide for its chest."""

ALIASES: Final[dict[str, str]] = {
    "Pleural Effusion": "Effusion",
    "Pleural Thickening": "Pleural_Thickening",
    "Infiltrate": "Infiltration",
}


def canonical(name: str) -> str | None:
    """The project's name of a finding given by any known alias (case-sensitive), or None."""
    name = ALIASES.get(name, name)
    return name if name in FINDINGS else None


def takes_box(name: str) -> bool:
    """Whether a finding can lie in a given box: a fixed one, a real image's own, one of the prior's tables."""
    return "box" in REGIONS[FINDINGS[name].region].keys


def image_label(name: str) -> str | None:
    """The manifest's name (IMAGE_LABELS) of a label given by any known alias, in any case, or None."""
    return _IMAGE_NAMES.get(_plain(name))


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


_IMAGE_NAMES: Final = {_plain(alias): own for alias, own in ALIASES.items()} | {
    _plain(own): own for own in IMAGE_LABELS
}
