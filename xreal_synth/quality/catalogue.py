"""Every check of the gate, found by its file: a module of this room with a CHECK. No torch here."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Final

import xreal_synth.quality as room
from xreal_synth.quality.checks import CheckEntry

READERS: Final = ("catalogue", "gate")
"""Modules of this room that read the table and so cannot be in it."""


def _entries() -> list[CheckEntry]:
    names = [found.name for found in iter_modules(room.__path__) if found.name not in READERS]
    modules = [import_module(f"{room.__name__}.{name}") for name in names]
    entries: list[CheckEntry] = [module.CHECK for module in modules if hasattr(module, "CHECK")]
    return sorted(entries, key=lambda entry: (entry.rank, entry.name))


CHECKS: Final[dict[str, CheckEntry]] = {entry.name: entry for entry in _entries()}

SCORES: Final[dict[str, tuple[bool, str]]] = {
    f"{entry.name}.{name}": (score.least, score.words)
    for entry in CHECKS.values()
    for name, score in entry.scores.items()
}
"""By full name ("organs.heart"): whether its bound is the least that is let through, and its words."""
