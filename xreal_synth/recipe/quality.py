"""The recipe's `quality`: the gate's checks, the profiles as a table, and both together with no gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field, create_model

from xreal_synth.errors import Problem, RecipeError
from xreal_synth.quality.checks import CheckEntry
from xreal_synth.quality.gate import CHECKS
from xreal_synth.recipe.kinds import RecipePart, Sha256
from xreal_synth.types import CheckAction, CheckSettings, QualityProfile, QualitySettings

_ACTION: Final = "`off`, `warn` (delivered, flagged) or `reject` (drawn again); left out, the profile's."


class CheckBounds(RecipePart):
    """What every check has."""

    action: CheckAction | None = Field(default=None, description=_ACTION)


def _keys(entry: CheckEntry) -> type[CheckBounds]:
    """A check's keys: a bound for each score, and its file with the sha256."""
    keys: dict[str, Any] = {}
    for name, score in entry.scores.items():
        low, high = score.limits
        keys[name] = (Annotated[float, Field(ge=low, le=high)] | None, Field(default=None, description=score.help))
    if entry.file is not None:
        reported = "The file's sha256, as dataset.json has it: another file is refused."
        keys[entry.file.key] = (str | None, Field(default=None, min_length=1, description=entry.file.help))
        keys["content"] = (Sha256 | None, Field(default=None, description=reported))
    return create_model(entry.name.title(), __base__=CheckBounds, __doc__=entry.about, **keys)


if TYPE_CHECKING:

    class Checks(RecipePart):
        """The gate's checks; what is left out is the profile's."""
else:
    Checks = create_model(
        "Checks",
        __base__=RecipePart,
        __doc__="The gate's checks; what is left out is the profile's.",
        **{
            name: (keys, Field(default_factory=keys))
            for name, keys in ((entry.name, _keys(entry)) for entry in CHECKS.values())
        },
    )


class Quality(RecipePart):
    """The gate between sampling and delivery."""

    profile: QualityProfile = "standard"
    """Which checks run, with which limits: `none`, `standard` or `strict`. A check that the bundle has no network for
    is off, and the plan says so."""
    max_attempts: int = Field(default=3, ge=1, le=20)
    """Tries with new noise, then as many with new anatomy and boxes."""
    checks: Checks = Field(default_factory=Checks)


NEGATIVE_BELOW: Final = 0.5
"""Default of `labels.negative_below`."""
FILES: Final = {entry.name: entry.file.key for entry in CHECKS.values() if entry.file is not None}
"""Checks that can read a file, and the key that names it."""


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file that a check reads: its sha256, and the bounds that it brings along."""

    sha256: str
    bounds: Mapping[str, float] = field(default_factory=dict)


def in_profile(check: str, profile: QualityProfile) -> tuple[CheckAction, dict[str, float]]:
    """A check's action and bounds in a profile.

    Those of `standard` were chosen on 96 groups of xreal-mini: its worst few percent fail, as they should when looked
    at.
    """
    entry, level = CHECKS[check], "strict" if profile == "strict" else "standard"
    bounds = {name: getattr(score, level) for name, score in entry.scores.items()}
    known = {name: bound for name, bound in bounds.items() if bound is not None}
    return "off" if profile == "none" else getattr(entry, level), known


def resolve_quality(
    quality: Quality,
    unable: Mapping[str, str],
    files: Mapping[str, KnownFile],
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
    for name in CHECKS:
        action, bounds = in_profile(name, quality.profile)
        given: CheckBounds = getattr(quality.checks, name)
        written: dict[str, Any] = given.model_dump(exclude_none=True)
        action, file = given.action or action, files.get(name)
        problem = _problem(name, action, written, unable.get(name), file)
        if problem is not None:
            problems.append(problem)
        elif action != "off" and name in unable:
            unchecked[name] = unable[name]
        elif action != "off":
            limits = {**bounds, **(file.bounds if file else {}), **written}
            taken = {score: float(limits[score]) for score in CHECKS[name].scores if score in limits}
            path, sha256 = (written.get(FILES[name]), file.sha256) if file else (None, None)
            checks.append(CheckSettings(name, action, taken, path, sha256))
    if problems:
        raise RecipeError(source, problems)
    return QualitySettings(quality.profile, quality.max_attempts, tuple(checks), unchecked, negative_below)


def check_file(quality: Quality, name: str) -> str | None:
    """The file that the recipe names for a check that is not off."""
    given: CheckBounds = getattr(quality.checks, name)
    action = given.action or in_profile(name, quality.profile)[0]
    path: str | None = getattr(given, FILES[name])
    return None if action == "off" else path


def digested_quality(settings: QualitySettings) -> dict[str, object]:
    """What of the gate decides images: the checks that run, with action and limits; files by their content.

    Those that do not run are not named, so that one which is added later leaves the digests of earlier datasets.
    """
    reported: dict[str, object] = {"profile": settings.profile, "max_attempts": settings.max_attempts}
    if settings.profile != "none" or settings.checks:
        reported["checks"] = {
            check.name: {"action": check.action, **check.bounds, **({"content": check.sha256} if check.sha256 else {})}
            for check in settings.checks
        }
    return reported


def as_digested(quality: dict[str, object], written: object) -> None:
    """Makes digested settings a recipe's again: what they do not name is off, and files are where `written`, the
    recipe, has them."""
    checks = quality.get("checks")
    if isinstance(checks, dict):
        quality["checks"] = checks = {**{name: {"action": "off"} for name in CHECKS}, **checks}
    for name, key in FILES.items():
        check = checks.get(name) if isinstance(checks, dict) else None
        place = written
        for part in ("checks", name, key):
            place = place.get(part) if isinstance(place, Mapping) else None
        if isinstance(check, dict) and check.get("content") is not None and place is not None:
            check[key] = place


def _problem(
    name: str, action: CheckAction, written: Mapping[str, Any], unable: str | None, file: KnownFile | None
) -> Problem | None:
    """What is wrong with a check's keys as the recipe gives them; `unable` says why it cannot run, if it cannot."""
    key, content = f"quality.checks.{name}", written.get("content")
    rest = sorted(set(written) - {"action", "content"})
    if action == "off":
        return Problem(
            f"{key}.{rest[0]}", f"given for a check that is off: {', '.join(rest)}", "a check that runs",
            f"add `action: warn` or `action: reject`, or remove {'it' if len(rest) == 1 else 'them'}",
        ) if rest else None  # fmt: skip
    if unable is not None:
        hint = f"{CHECKS[name].hint}set `action: off`, or leave it out: then it is off and the dataset says so"
        return Problem(key, f"cannot run here: {unable}", "a check that can", hint) if written else None
    if content is None or (file is not None and file.sha256 == content):
        return None
    found = "no file" if file is None else f"a file with sha256 {file.sha256[:12]}"
    wanted = f"the one with sha256 {content[:12]}"
    return Problem(f"{key}.{FILES[name]}", found, wanted, "give the file of the earlier run")
