"""Whether an image is synthetic, edited from a real image, or a real image beside its edited ones."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Final

from xreal_synth.dataset.names import parse_key
from xreal_synth.types import SampleMeta

IMAGES: Final = "images"
"""The anatomy source whose images are real ones."""


class Origin(StrEnum):
    """Where an image's pixels come from."""

    synthetic = "synthetic"
    edited = "edited from a real film"
    real = "a real film"


NOTICES: Final = {
    Origin.synthetic: "Synthetic chest X-ray, made by a model. For research; not for diagnosis. "
    "It does not show a patient.",
    Origin.edited: "A patient's chest X-ray, edited by a model. For research; not for diagnosis.",
    Origin.real: "A patient's chest X-ray as it is, beside images edited from it. For research; not for diagnosis.",
}


def origin_of(meta: SampleMeta) -> Origin:
    if meta.anatomy_source != IMAGES:
        return Origin.synthetic
    return Origin.real if parse_key(meta.key).member == "h" else Origin.edited


def subject_id(source: str, anatomy_id: str, digest: str, group: int) -> str:
    """Names whose chest an image shows, never who: images with the same id must not be split apart.

    A made-up anatomy is known by recipe digest and group; a real image by a hash of its name, since several
    groups may be edited from one image.
    """
    if source == IMAGES:
        return f"IMAGE-{hashlib.sha256(anatomy_id.encode()).hexdigest()[:16]}"
    return f"SYNTHETIC-{digest[:8]}-{group:010d}"
