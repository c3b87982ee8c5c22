"""What a dataset's settings ask for, in words a colleague understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from xreal_synth.shards.head import DatasetHead

_CONTROL: Final = {
    "xreal": "held to the organ mask through a rough film in the first steps (XReal)",
    "controlnet": "led by the organ mask through a ControlNet",
    "none": "not made to follow the organ mask",
}
_MODE: Final = {
    "branch": "a finding's film branches off from its healthy twin's",
    "reference": "as the authors' released code computes",
    "paper": "Algorithm 1 as printed",
    "joint": "one trajectory a film, the findings asked for from its first step",
}


def recipe_in_words(head: DatasetHead) -> list[tuple[str, str]]:
    """(what, words) for the main settings; what a dataset's settings do not tell is left out."""
    told = [
        ("Anatomies", _anatomy(_part(head.settings, "anatomy"))),
        ("Places of findings", _placement(_part(head.settings, "placement"), head.real_films)),
        ("Films of a group", _pairs(_part(head.settings, "pairs"), head.real_films)),
        ("Sampling", _sampling(_part(head.settings, "sampling"), head.real_films)),
        ("Labels nobody asked for", _labels(_part(head.settings, "labels"), head.real_films)),
        ("Checks", _quality(_part(head.settings, "quality"))),
        ("Seed", _seed(head.settings)),
    ]
    return [(what, words) for what, words in told if words]


def _anatomy(anatomy: Mapping[str, Any]) -> str:
    source = anatomy.get("source")
    if isinstance(source, Mapping) and "images" in source:
        return "real films: findings are painted in or over on each film itself"
    if isinstance(source, Mapping) and "masks" in source:
        drawn = "organ masks from a folder"
    elif source == "bank":
        drawn = "organ masks drawn from the bundle's shape model"
    else:
        return ""
    change = _part(anatomy, "augment")
    told = []
    if change.get("rotate_deg"):
        told.append(f"turned up to {change['rotate_deg']:g}°")
    if change.get("shift"):
        told.append(f"shifted up to {change['shift']:.0%}")
    if change.get("scale"):
        told.append(f"resized up to {change['scale']:.0%}")
    if change.get("elastic"):
        told.append(f"warped up to {change['elastic']:.0%}")
    if isinstance(change.get("heart_scale"), list):
        low, high = change["heart_scale"]
        told.append(f"hearts {low:g} to {high:g} times as large")
    return f"{drawn}, {', '.join(told)}" if told else drawn


def _placement(placement: Mapping[str, Any], real: bool) -> str:
    if not placement:
        return ""
    least = placement.get("min_overlap")
    drawn = "boxes drawn where radiologists boxed such findings on NIH and RSNA films"
    if least is None:
        return drawn
    masks = "" if not real else ", where a film has an organ mask"
    return f"{drawn}; at least {least:.0%} of a box inside organs where the finding can live{masks}"


def _pairs(pairs: Mapping[str, Any], real: bool) -> str:
    if not pairs:
        return ""
    variants = pairs.get("variants", 1)
    one = "edit" if real else "film"
    told = [f"{variants} {one}{'s' if variants != 1 else ''} with findings on each anatomy"]
    if pairs.get("twin"):
        told.append("the film as it was" if real else "its healthy twin, equal outside the finding's region")
    if pairs.get("sham"):
        told.append(f"sham edits (same region, healthy prompt) for {pairs['sham']:.0%} of the groups")
    return "; ".join(told)


def _sampling(sampling: Mapping[str, Any], real: bool) -> str:
    if "steps" not in sampling:
        return ""
    told = [f"{sampling['steps']} steps, guidance {sampling.get('guidance', 1):g}"]
    mode, control = str(sampling.get("mode", "")), str(sampling.get("control", ""))
    if not real and control in _CONTROL:
        told.append(_CONTROL[control])
    if mode in _MODE and not real:
        told.append(_MODE[mode])
    return "; ".join(told)


def _labels(labels: Mapping[str, Any], real: bool) -> str:
    if real:
        return "films keep their own labels; what nobody read a film for is null (unknown)"
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
        return "none: no film was looked at before it was delivered (quality.profile: none)"
    tries = f"up to {quality.get('max_attempts', 1)} tries with new noise, then with new anatomy"
    checks = quality.get("checks")
    told = checks if isinstance(checks, Mapping) else {}
    actions = ", ".join(f"{name} {check.get('action')}" for name, check in told.items())
    return f"profile {profile} ({actions}); {tries}"


def _seed(settings: Mapping[str, Any]) -> str:
    return str(settings["seed"]) if "seed" in settings else ""


def _part(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = settings.get(name)
    return part if isinstance(part, Mapping) else {}
