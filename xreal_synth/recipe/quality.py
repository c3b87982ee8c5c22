"""The recipe's `quality`: the gate's checks, the profiles as a table, and both together with no gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import Field

from xreal_synth.errors import Problem, RecipeError
from xreal_synth.recipe.kinds import RecipePart
from xreal_synth.types import CheckAction, CheckSettings, QualityProfile, QualitySettings

Share = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_ACTION: Final = "`off`, `warn` (delivered, flagged) or `reject` (drawn again); left out, the profile's."


class CheckBounds(RecipePart):
    """What every check has."""

    action: CheckAction | None = Field(default=None, description=_ACTION)


class Pixels(CheckBounds):
    """Faults of the image itself; needs nothing."""

    range: Annotated[float, Field(ge=0, le=255)] | None = Field(
        default=None, description="Least grey levels between the 1st and the 99th percentile."
    )
    blank: Share | None = Field(default=None, description="Most 8x8 blocks of one grey level, share.")
    saturated: Share | None = Field(default=None, description="Most pixels at 0 or 255, share.")
    blur: Share | None = Field(default=None, description="Most blur: 0 sharp, 1 flat.")


class Seam(CheckBounds):
    """Steps along the border of what was painted; needs nothing."""

    energy: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="Largest step across the border over the healthy twin's across the same line.",
    )


class Organs(CheckBounds):
    """Does the image follow its organ mask? Needs the bundle's segmenter, or TorchXRayVision's PSPNet."""

    left_lung: Share | None = Field(default=None, description="Least Dice.")
    right_lung: Share | None = Field(default=None, description="Least Dice.")
    heart: Share | None = Field(default=None, description="Least Dice.")
    aorta: Share | None = Field(default=None, description="Least Dice.")
    covered: Share | None = Field(
        default=None, description="Least Dice of a lung or heart of which a finding covers more than half."
    )
    weights: str | None = Field(
        default=None,
        min_length=1,
        description="pspnet_chestxray_best_model_4.pth of TorchXRayVision, in place of the bundle's segmenter.",
    )
    content: Sha256 | None = Field(
        default=None, description="The file's sha256, as dataset.json has it: another file is refused."
    )


class FindingShownBounds(CheckBounds):
    """Does the bundle's classifier see more of the finding than in the healthy twin?"""

    shown: float | None = Field(default=None, description="Least difference of the two logits.")


class Change(CheckBounds):
    """Grey levels by which the image differs from its healthy twin; needs nothing."""

    inside: Annotated[float, Field(ge=0, le=255)] | None = Field(
        default=None, description="Least mean change in the region."
    )
    outside: Annotated[float, Field(ge=0, le=255)] | None = Field(
        default=None, description="Most change of any pixel outside it."
    )


class Copies(CheckBounds):
    """Is the image a copy of a training image? Needs an index of those images."""

    distance: Annotated[float, Field(ge=0, le=255)] | None = Field(
        default=None, description="Least distance in grey levels (RMS); left out, the index's own."
    )
    index: str | None = Field(
        default=None, min_length=1, description="A file made by `xreal-synth quality index`."
    )
    content: Sha256 | None = Field(
        default=None, description="The file's sha256, as dataset.json has it: another file is refused."
    )


class Checks(RecipePart):
    """The gate's checks; what is left out is the profile's."""

    pixels: Pixels = Field(default_factory=Pixels)
    seam: Seam = Field(default_factory=Seam)
    organs: Organs = Field(default_factory=Organs)
    finding: FindingShownBounds = Field(default_factory=FindingShownBounds)
    change: Change = Field(default_factory=Change)
    copies: Copies = Field(default_factory=Copies)


class Quality(RecipePart):
    """The gate between sampling and delivery."""

    profile: QualityProfile = Field(
        default="standard",
        description="Which checks run, with which limits: `none`, `standard` or `strict`. A check that the bundle "
        "has no network for is off, and the plan says so.",
    )
    max_attempts: int = Field(
        default=3, ge=1, le=20, description="Tries with new noise, then as many with new anatomy and boxes."
    )
    checks: Checks = Field(default_factory=Checks)


@dataclass(frozen=True, slots=True)
class Profile:
    """One check in one profile."""

    action: CheckAction
    bounds: Mapping[str, float]


STANDARD: Final[dict[str, Profile]] = {
    "pixels": Profile("reject", {"range": 80, "blank": 0.4, "saturated": 0.2, "blur": 0.7}),
    "seam": Profile("reject", {"energy": 2.2}),
    "organs": Profile(
        "reject", {"left_lung": 0.8, "right_lung": 0.8, "heart": 0.7, "aorta": 0.3, "covered": 0.65}
    ),
    "finding": Profile("warn", {"shown": 0.0}),
    "change": Profile("reject", {"inside": 1.0, "outside": 0.0}),
    "copies": Profile("reject", {}),
}
"""Chosen on 96 groups of xreal-mini: its worst few
percent fail, as they should when looked at. Whether a finding is shown is only a warning: of Pneumonia, Effusion
and Atelectasis the classifier sees about as often less as more than in the twin, so that drawing again until it
sees more would pick images by the classifier's noise, at twice the cost."""
STRICT: Final[dict[str, Profile]] = {
    "pixels": Profile("reject", {"range": 100, "blank": 0.25, "saturated": 0.1, "blur": 0.6}),
    "seam": Profile("reject", {"energy": 1.9}),
    "organs": Profile(
        "reject", {"left_lung": 0.85, "right_lung": 0.85, "heart": 0.78, "aorta": 0.45, "covered": 0.72}
    ),
    "finding": Profile("reject", {"shown": 0.0}),
    "change": Profile("reject", {"inside": 2.5, "outside": 0.0}),
    "copies": Profile("reject", {}),
}
NEGATIVE_BELOW: Final = 0.5
"""Default of `labels.negative_below`."""

PROFILES: Final[dict[QualityProfile, dict[str, Profile]]] = {
    "none": {name: Profile("off", profile.bounds) for name, profile in STANDARD.items()},
    "standard": STANDARD,
    "strict": STRICT,
}
FILES: Final = {"organs": "weights", "copies": "index"}
"""Checks that can read a file, and the key that names it."""
_NOT_BOUNDS: Final = ("action", "content", *FILES.values())


@dataclass(frozen=True, slots=True)
class CheckFile:
    """A file that a check reads: its sha256, and the bounds that it brings along."""

    sha256: str
    bounds: Mapping[str, float] = field(default_factory=dict)


def resolve_quality(
    quality: Quality,
    unable: Mapping[str, str],
    files: Mapping[str, CheckFile],
    *,
    negative_below: float | None = None,
    source: str = "recipe",
) -> QualitySettings:
    """The gate's settings with no gaps.

    `unable` has the checks that cannot run here, each with the reason, `files` what is known of the files that the
    recipe names, by check. Raises RecipeError where the recipe itself asks for a check that cannot run, gives
    limits to one that is off, or names another file than it was.
    """
    checks, unchecked, problems = list[CheckSettings](), dict[str, str](), list[Problem]()
    for name, profile in PROFILES[quality.profile].items():
        given: CheckBounds = getattr(quality.checks, name)
        action = given.action or profile.action
        reported = {key for key in given.model_fields_set if getattr(given, key) is not None}
        if action == "off":
            problems += _without_effect(name, reported)
        elif name in unable and reported:
            problems.append(_cannot(name, unable[name]))
        elif name in unable:
            unchecked[name] = unable[name]
        else:
            file = files.get(name)
            problems += _other_file(name, given, file)
            limits = {**profile.bounds, **(file.bounds if file is not None else {}), **_bounds(given)}
            bounds = {score: float(value) for score, value in limits.items()}
            path = getattr(given, FILES[name]) if file is not None else None
            checks.append(CheckSettings(name, action, bounds, path, file.sha256 if file else None))
    if problems:
        raise RecipeError(source, problems)
    return QualitySettings(quality.profile, quality.max_attempts, tuple(checks), unchecked, negative_below)


def check_file(quality: Quality, name: str) -> str | None:
    """The file that the recipe names for a check that is not off."""
    given: CheckBounds = getattr(quality.checks, name)
    action = given.action or PROFILES[quality.profile][name].action
    path: str | None = getattr(given, FILES[name])
    return None if action == "off" else path


def digested_quality(settings: QualitySettings) -> dict[str, object]:
    """What of the gate decides images: every check with its action and limits; files by their content."""
    reported: dict[str, object] = {"profile": settings.profile, "max_attempts": settings.max_attempts}
    if settings.profile == "none" and not settings.checks:
        return reported
    running = {check.name: check for check in settings.checks}
    reported["checks"] = {
        name: {"action": "off"}
        if (check := running.get(name)) is None
        else {"action": check.action, **check.bounds, **({"content": check.sha256} if check.sha256 else {})}
        for name in STANDARD
    }
    return reported


def place_files(quality: dict[str, object], written: object) -> None:
    """Puts the files' places, as a recipe has them, into digested settings, which leave them out."""
    checks = quality.get("checks")
    for name, key in FILES.items():
        check = checks.get(name) if isinstance(checks, dict) else None
        place = written
        for part in ("checks", name, key):
            place = place.get(part) if isinstance(place, Mapping) else None
        if isinstance(check, dict) and check.get("content") is not None and place is not None:
            check[key] = place


def _bounds(given: CheckBounds) -> dict[str, float]:
    values: dict[str, Any] = given.model_dump(exclude=set(_NOT_BOUNDS), exclude_none=True)
    return values


def _without_effect(name: str, reported: set[str]) -> list[Problem]:
    rest = sorted(reported - {"action", "content"})
    if not rest:
        return []
    return [
        Problem(
            f"quality.checks.{name}.{rest[0]}",
            f"given for a check that is off: {', '.join(rest)}",
            "a check that runs",
            f"add `action: warn` or `action: reject`, or remove {'it' if len(rest) == 1 else 'them'}",
        )
    ]


def _cannot(name: str, why: str) -> Problem:
    hint = "set `action: off`, or leave it out: then it is off and the dataset says so"
    if name == "copies":
        hint = "give the file that `xreal-synth quality index` makes of the training images; or " + hint
    return Problem(f"quality.checks.{name}", f"cannot run here: {why}", "a check that can", hint)


def _other_file(name: str, given: CheckBounds, file: CheckFile | None) -> list[Problem]:
    content: str | None = getattr(given, "content", None)
    if content is None or (file is not None and file.sha256 == content):
        return []
    key = f"quality.checks.{name}.{FILES[name]}"
    found = "no file" if file is None else f"a file with sha256 {file.sha256[:12]}"
    return [Problem(key, found, f"the one with sha256 {content[:12]}", "give the file of the earlier run")]
