"""Every score of the gate: what it is in words, and whether more or less of it is the better. No torch here."""

from __future__ import annotations

from typing import Final

from xreal_synth.quality import change, copies, finding, organs, pixels, seam

SCORES: Final[dict[str, tuple[bool, str]]] = {
    f"{module.NAME}.{name}": reported
    for module in (pixels, seam, organs, finding, change, copies)
    for name, reported in module.WORDS.items()
}
"""By full name ("organs.heart"): whether its bound is the least that is let through, and its words."""
