"""A dataset's settings in words that a colleague understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from xreal_synth.dataset.head import DatasetHead

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


def recipe_in_words(head: DatasetHead) -> list[tuple[str, str]]:
    """(what, words) for the main settings; what a dataset's settings do not tell is left out."""
    reported = [
        ("Anatomies", _anatomy(_part(head.settings, "anatomy"))),
        ("Places of findings", _placement(_part(head.settings, "placement"), head.real_images)),
        ("Images of a group", _pairs(_part(head.settings, "pairs"), head.real_images)),
        ("Sampling", _sampling(_part(head.settings, "sampling"), head.real_images)),
        ("Labels nobody asked for", _labels(_part(head.settings, "labels"), head.real_images)),
        ("Checks", _quality(_part(head.settings, "quality"))),
        ("Seed", str(head.settings.get("seed", ""))),
    ]
    return [(what, words) for what, words in reported if words]


def _anatomy(anatomy: Mapping[str, Any]) -> str:
    source = anatomy.get("source")
    if isinstance(source, Mapping) and "images" in source:
        return "real images: findings are painted in or over on each image itself"
    if isinstance(source, Mapping) and "masks" in source:
        drawn = "organ masks from a folder"
    elif source == "bank":
        drawn = "organ masks drawn from the bundle's shape model"
    else:
        return ""
    change = _part(anatomy, "augment")
    reported = []
    if change.get("rotate_deg"):
        reported.append(f"turned up to {change['rotate_deg']:g}°")
    if change.get("shift"):
        reported.append(f"shifted up to {change['shift']:.0%}")
    if change.get("scale"):
        reported.append(f"resized up to {change['scale']:.0%}")
    if change.get("elastic"):
        reported.append(f"warped up to {change['elastic']:.0%}")
    if isinstance(change.get("heart_scale"), list):
        low, high = change["heart_scale"]
        reported.append(f"hearts {low:g} to {high:g} times as large")
    return f"{drawn}, {', '.join(reported)}" if reported else drawn


def _placement(placement: Mapping[str, Any], real: bool) -> str:
    if not placement:
        return ""
    least = placement.get("min_overlap")
    drawn = "boxes drawn where radiologists boxed such findings on NIH and RSNA images"
    if least is None:
        return drawn
    masks = "" if not real else ", where an image has an organ mask"
    return f"{drawn}; at least {least:.0%} of a box inside organs where the finding can live{masks}"


def _pairs(pairs: Mapping[str, Any], real: bool) -> str:
    if not pairs:
        return ""
    variants = pairs.get("variants", 1)
    one = "edit" if real else "image"
    reported = [f"{variants} {one}{'s' if variants != 1 else ''} with findings on each anatomy"]
    if pairs.get("twin"):
        reported.append(
            "the image as it was" if real else "its healthy twin, equal outside the finding's region"
        )
    if pairs.get("sham"):
        reported.append(f"sham edits (same region, healthy prompt) for {pairs['sham']:.0%} of the groups")
    if pairs.get("edit_negatives"):
        reported.append("groups without findings edited likewise, to no effect")
    return "; ".join(reported)


def _sampling(sampling: Mapping[str, Any], real: bool) -> str:
    if "steps" not in sampling:
        return ""
    reported = [f"{sampling['steps']} steps, guidance {sampling.get('guidance', 1):g}"]
    mode, control = str(sampling.get("mode", "")), str(sampling.get("control", ""))
    if not real and control in _CONTROL:
        reported.append(_CONTROL[control])
    if mode in _MODE and not real:
        reported.append(_MODE[mode])
    return "; ".join(reported)


def _labels(labels: Mapping[str, Any], real: bool) -> str:
    if real:
        return "images keep their own labels; what nobody read an image for is null (unknown)"
    return {
        "negative": "0, by the recipe and not by anyone's reading",
        "unknown": "null (unknown)",
        "checked": "0 where the healthy twin passes the classifier's check, else null",
    }.get(str(labels.get("unrequested")), "")


def _quality(quality: Mapping[str, Any]) -> str:
    profile = quality.get("profile")
    if profile is None:
        return ""
    if profile == "none":
        return "none: no image was looked at before it was delivered (quality.profile: none)"
    tries = f"up to {quality.get('max_attempts', 1)} tries with new noise, then with new anatomy"
    checks = quality.get("checks")
    reported = checks if isinstance(checks, Mapping) else {}
    actions = ", ".join(f"{name} {check.get('action')}" for name, check in reported.items())
    return f"profile {profile} ({actions}); {tries}"


def _part(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = settings.get(name)
    return part if isinstance(part, Mapping) else {}
