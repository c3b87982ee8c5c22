"""Whether a film is synthetic, edited from a real film, or a real film beside its edited ones."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Final

from xreal_synth.shards.names import parse_key
from xreal_synth.types import Role, SampleMeta

IMAGES: Final = "images"
"""The anatomy source whose films are real ones."""


class Origin(StrEnum):
    """Where a film's pixels come from."""

    synthetic = "synthetic"
    edited = "edited from a real film"
    real = "a real film"


NOTICES: Final = {
    Origin.synthetic: "Synthetic chest film, made by a model. For research; not for diagnosis. "
    "It does not show a patient.",
    Origin.edited: "A patient's chest film, edited by a model. For research; not for diagnosis.",
    Origin.real: "A patient's chest film as it is, beside films edited from it. For research; not for diagnosis.",
}


def origin_of(meta: SampleMeta) -> Origin:
    if meta.anatomy_source != IMAGES:
        return Origin.synthetic
    return Origin.real if parse_key(meta.key).member == Role.healthy else Origin.edited


def subject_id(source: str, anatomy_id: str, digest: str, group: int) -> str:
    """Names whose chest a film shows, never who: films with the same id must not be split apart.

    A made-up anatomy is known by recipe digest and group; a real film by a hash of its name, since several
    groups may be edited from one film.
    """
    if source == IMAGES:
        return f"FILM-{hashlib.sha256(anatomy_id.encode()).hexdigest()[:16]}"
    return f"SYNTHETIC-{digest[:8]}-{group:010d}"
