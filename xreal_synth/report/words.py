"""A dataset's settings in words: the findings rows, scores and their bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.record import DatasetSummary
from xreal_synth.quality.gate import SCORES
from xreal_synth.recipe.digest import ON_DISK
from xreal_synth.recipe.findings import EditRule

_DONE: Final = {"reject": "refused", "warn": "flagged"}


@dataclass(frozen=True, slots=True)
class AskedRow:
    """A findings row of the recipe in words, the findings it names, whether it paints nothing, and its groups."""

    weight: float
    labels: str
    findings: frozenset[str]
    healthy: bool
    groups: int


def asked_rows(head: DatasetHead, summary: DatasetSummary) -> list[AskedRow]:
    """The recipe's findings rows with the groups that were made of each."""
    rows = head.setting("findings")
    listed = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    return [_asked_row(row, summary.rows.get(number, 0)) for number, row in enumerate(listed)]


def _asked_row(row: Mapping[str, Any], groups: int) -> AskedRow:
    variants = [kind["labels"] for kind in row.get("variants") or () if kind.get("labels")]
    own = [row["labels"]] if row.get("labels") else []
    painted = " / ".join(" + ".join(map(_label_in_words, labels)) for labels in variants or own)
    edit = EditRule.model_validate(row["edit"]).words if row.get("edit") else ""
    words = " + ".join(filter(None, (edit, painted))) or "no finding"
    if row.get(ON_DISK["images"]) == "healthy":
        words += " (on images without finding)"
    findings = frozenset(str(label.get("name")) for labels in own + variants for label in labels)
    healthy = not any(row.get(key) for key in ("labels", "variants", "edit"))
    return AskedRow(float(row.get("weight", 1)), words, findings, healthy, groups)


def _label_in_words(label: Mapping[str, object]) -> str:
    details = [str(label[key]) for key in ("side", "zone") if label.get(key) not in (None, "any")]
    size, box = label.get("size"), label.get("box")
    if isinstance(size, list):
        details.append(f"{size[0]:.0%} to {size[1]:.0%} of the lung")
    if isinstance(box, list):
        details.append(f"box {', '.join(f'{value:g}' for value in box)}")
    return f"{label.get('name')} ({', '.join(details)})" if details else str(label.get("name"))


def words_for(score: str) -> str:
    """A score's meaning with a capital; empty for one that no check of this version has."""
    words = SCORES.get(score, (True, ""))[1]
    return words[:1].upper() + words[1:]


def worst_end(score: str) -> Literal["low", "high"]:
    """Where the worst images of a score are; of one that is not known the lowest."""
    return "low" if SCORES.get(score, (True, ""))[0] else "high"


def bound_of(head: DatasetHead, score: str) -> tuple[float, str] | None:
    """The bound of a score, at `quality.checks.FAMILY` of the digested settings, and what is done beyond it."""
    family, _, name = score.partition(".")
    value = head.setting("quality", "checks", family, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    done = _DONE.get(str(head.setting("quality", "checks", family, "action")), "beyond")
    return float(value), f"{done} {'below' if worst_end(score) == 'low' else 'above'}"
