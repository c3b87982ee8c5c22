"""A dataset's settings in words: the findings rows, what each section asks for, scores and their bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.summary import DatasetSummary
from xreal_synth.quality.catalogue import SCORES
from xreal_synth.recipe.digest import ON_DISK
from xreal_synth.recipe.edits import EditRule

_CHANGES: Final = {
    "rotate_deg": "turned up to {:g}°", "shift": "shifted up to {:.0%}", "scale": "resized up to {:.0%}",
    "elastic": "warped up to {:.0%}",
}  # fmt: skip
_CONTROL: Final = {
    "xreal": "held to the organ mask through a rough image in the first steps (XReal)",
    "controlnet": "led by the organ mask through a ControlNet",
    "none": "not made to follow the organ mask",
}
_MODE: Final = {
    "branch": "a finding's image branches off from its healthy twin's",
    "reference": "as the authors' released code computes",
    "paper": "Algorithm 1 as printed",
    "joint": "one trajectory an image, the findings asked for from its first step",
}
_UNREQUESTED: Final = {
    "negative": "0, by the recipe and not by anyone's reading",
    "unknown": "null (unknown)",
    "checked": "0 where the healthy twin passes the classifier's check, else null",
}
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


def recipe_in_words(head: DatasetHead) -> dict[str, str]:
    """The main settings in words; what a dataset's settings do not tell is left out."""
    real = head.real_images
    unrequested = _UNREQUESTED.get(str(head.setting("labels", "unrequested")), "")
    words = {
        "Anatomies": _anatomy(head),
        "Places of findings": _placement(head, real),
        "Images of a group": _pairs(head, real),
        "Sampling": _sampling(head, real),
        "Labels nobody asked for": "images keep their own labels; what nobody read an image for is null (unknown)"
        if real
        else unrequested,
        "Checks": _quality(head),
        "Seed": str(head.settings.get("seed", "")),
    }
    return {what: text for what, text in words.items() if text}


def _anatomy(head: DatasetHead) -> str:
    source, change = head.setting("anatomy", "source"), head.setting("anatomy", "augment") or {}
    if head.real_images:
        return "real images: findings are painted in or over on each image itself"
    if source == "bank":
        words = ["organ masks drawn from the bundle's shape model"]
    elif isinstance(source, Mapping) and "masks" in source:
        words = ["organ masks from a folder"]
    else:
        return ""
    words += [form.format(change[key]) for key, form in _CHANGES.items() if change.get(key)]
    if change.get("heart_scale"):
        words.append("hearts {:g} to {:g} times as large".format(*change["heart_scale"]))
    return ", ".join(words)


def _placement(head: DatasetHead, real: bool) -> str:
    if not head.setting("placement"):
        return ""
    drawn = "boxes drawn where radiologists boxed such findings on NIH and RSNA images"
    least = head.setting("placement", "min_overlap")
    if least is None:
        return drawn
    masks = ", where an image has an organ mask" if real else ""
    return f"{drawn}; at least {least:.0%} of a box inside organs where the finding can live{masks}"


def _pairs(head: DatasetHead, real: bool) -> str:
    pairs = head.setting("pairs")
    if not pairs:
        return ""
    variants, one = pairs.get("variants", 1), "edit" if real else "image"
    twin = "the image as it was" if real else "its healthy twin, equal outside the finding's region"
    words = {
        f"{variants} {one}{'s' if variants != 1 else ''} with findings on each anatomy": True,
        twin: pairs.get("twin"),
        f"sham edits (same region, healthy prompt) for {pairs.get('sham') or 0:.0%} of the groups": pairs.get(
            "sham"
        ),
        "groups without findings edited likewise, to no effect": pairs.get("edit_negatives"),
    }
    return "; ".join(text for text, holds in words.items() if holds)


def _sampling(head: DatasetHead, real: bool) -> str:
    sampling = head.setting("sampling") or {}
    if "steps" not in sampling:
        return ""
    words = [f"{sampling['steps']} steps, guidance {sampling.get('guidance', 1):g}"]
    if not real:
        words += [_CONTROL.get(str(sampling.get("control")), ""), _MODE.get(str(sampling.get("mode")), "")]
    return "; ".join(filter(None, words))


def _quality(head: DatasetHead) -> str:
    profile = head.setting("quality", "profile")
    if profile is None:
        return ""
    if profile == "none":
        return "none: no image was looked at before it was delivered (quality.profile: none)"
    tries = head.setting("quality", "max_attempts") or 1
    checks = head.setting("quality", "checks") or {}
    actions = ", ".join(f"{name} {check.get('action')}" for name, check in checks.items())
    return f"profile {profile} ({actions}); up to {tries} tries with new noise, then with new anatomy"


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
