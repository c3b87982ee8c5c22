"""Organs, findings, and how their names map between label sets.

Finding names are TorchXRayVision's (18 `default_pathologies`); CheXpert's 14 are the second label set.
Parents follow the CheXpert label hierarchy as far as both sets can say it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from xreal_synth.types import Region

BACKGROUND: Final = 0
LEFT_LUNG: Final = 1
RIGHT_LUNG: Final = 2
HEART: Final = 3
AORTA: Final = 4

ORGANS: Final[dict[str, int]] = {
    "left_lung": LEFT_LUNG,
    "right_lung": RIGHT_LUNG,
    "heart": HEART,
    "aorta": AORTA,
}
LUNGS: Final = (LEFT_LUNG, RIGHT_LUNG)

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

LABEL_SETS: Final[dict[str, tuple[str, ...]]] = {"chexpert14": CHEXPERT14, "txrv18": TXRV18}


@dataclass(frozen=True, slots=True)
class Finding:
    """What the project knows of a finding.

    `chexpert` is its CheXpert name if that set has it; `implies` are names (of either set) that are
    positive wherever it is. `organs` are the codes in which it can live; `region` the shape rule.
    `size` and `zone_weights` (upper, middle, lower) are used where the placement prior has no boxes:
    box area over the lung's area, and chances.
    """

    name: str
    chexpert: str | None
    implies: tuple[str, ...] = ()
    organs: tuple[int, ...] = LUNGS
    region: Region = "box"
    size: tuple[float, float] = (0.05, 0.35)
    zone_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)


_OPACITY = ("Lung Opacity",)

_ALL: Final[tuple[Finding, ...]] = (
    Finding("Atelectasis", "Atelectasis", _OPACITY, size=(0.04, 0.3), zone_weights=(0.15, 0.3, 0.55)),
    Finding("Consolidation", "Consolidation", _OPACITY, zone_weights=(0.25, 0.35, 0.4)),
    Finding("Infiltration", None, _OPACITY, zone_weights=(0.2, 0.4, 0.4)),
    Finding("Pneumothorax", "Pneumothorax", size=(0.08, 0.5), zone_weights=(0.7, 0.2, 0.1)),
    Finding("Edema", "Edema", _OPACITY, region="lungs"),
    Finding("Emphysema", None, size=(0.15, 0.6), zone_weights=(0.5, 0.3, 0.2)),
    Finding("Fibrosis", None, size=(0.05, 0.4), zone_weights=(0.25, 0.25, 0.5)),
    Finding("Effusion", "Pleural Effusion", size=(0.08, 0.4), zone_weights=(0.0, 0.1, 0.9)),
    Finding("Pneumonia", "Pneumonia", _OPACITY, zone_weights=(0.2, 0.35, 0.45)),
    Finding("Pleural_Thickening", "Pleural Other", size=(0.03, 0.2), zone_weights=(0.4, 0.3, 0.3)),
    Finding("Cardiomegaly", "Cardiomegaly", ("Enlarged Cardiomediastinum",), (HEART,), "heart"),
    Finding("Nodule", "Lung Lesion", ("Lung Lesion", "Lung Opacity"), size=(0.005, 0.03)),
    Finding("Mass", "Lung Lesion", ("Lung Lesion", "Lung Opacity"), size=(0.02, 0.12)),
    Finding("Lung Lesion", "Lung Lesion", _OPACITY, size=(0.005, 0.12)),
    Finding("Lung Opacity", "Lung Opacity"),
)

FINDINGS: Final[dict[str, Finding]] = {finding.name: finding for finding in _ALL}

ALIASES: Final[dict[str, str]] = {
    "Pleural Effusion": "Effusion",
    "Pleural Thickening": "Pleural_Thickening",
    "Infiltrate": "Infiltration",
}


def canonical(name: str) -> str | None:
    """The project's name of a finding given by any known alias (case-sensitive), or None."""
    name = ALIASES.get(name, name)
    return name if name in FINDINGS else None


def image_label(name: str) -> str | None:
    """The manifest's name (IMAGE_LABELS) of a label given by any known alias, in any case, or None."""
    return _IMAGE_NAMES.get(_plain(name))


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


_IMAGE_NAMES: Final = {_plain(alias): own for alias, own in ALIASES.items()} | {
    _plain(own): own for own in IMAGE_LABELS
}
