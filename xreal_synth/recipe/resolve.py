"""The recipe's `sampling` with what it leaves out filled in from the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Final, TypeVar

from xreal_synth.errors import Problem, RecipeError
from xreal_synth.recipe.sampling import NOT_IN_PAPER, XREALS_OWN, Sampling, steps_words
from xreal_synth.types import SamplingDefaults, SamplingSettings

UPSCALE_STEPS: Final = 100
"""Of the upscaler, as Cheff's released code takes them."""

REFERENCE: Final = {
    "eta": 1.0,
    "eta_free": None,
    "spacing": None,
    "soft_variance": None,
    "detail": None,
    "solver": None,
    "guidance_floor": None,
}
"""What mode `reference` has in place of the bundle's, unless the recipe says otherwise."""

_T = TypeVar("_T")


def resolve_sampling(
    sampling: Sampling, defaults: SamplingDefaults, *, source: str = "recipe", edits: bool = False
) -> SamplingSettings:
    """Settings with no gaps.

    `edits` says that images are made from others: a twin or a sham is delivered, or real images are edited. Mode
    `joint` cannot do that, so that a bundle whose default it is takes `branch` then.
    In mode `reference`, unless the recipe says otherwise, `eta` is 1 throughout and steps are evenly spaced.
    Mode `paper` takes nothing from the bundle: T = 100 and s = 50 unless the recipe says otherwise (section
    IV.B), the rest is Algorithm 1's.
    `hold`, `soft` and `soft_variance` stay None unless `control` is xreal.
    Raises RecipeError where mode `reference` gets a step count that does not divide 1000, whether it
    stands in the recipe or comes from the bundle.
    """
    mode = _or(sampling.mode, "branch" if edits and defaults.mode == "joint" else defaults.mode)
    if mode == "paper":
        return _paper(sampling)
    left = {**asdict(defaults), **(REFERENCE if mode == "reference" else {}), "mode": mode}
    if sampling.control != "xreal":
        left |= dict.fromkeys(XREALS_OWN)
    settings = SamplingSettings(
        **{name: _or(getattr(sampling, name), value) for name, value in left.items()},
        control=sampling.control,
        resample=sampling.resample,
        paste=sampling.paste,
    )
    if settings.mode == "reference" and 1000 % settings.steps:
        raise RecipeError(source, [Problem("sampling.steps", **steps_words(settings.steps))])
    return settings


def with_upscaler(settings: SamplingSettings, sampling: Sampling) -> SamplingSettings:
    """The settings of images that are upscaled: as many steps as the recipe says, else UPSCALE_STEPS."""
    return replace(settings, upscale_steps=_or(sampling.upscale_steps, UPSCALE_STEPS))


def written_sampling(resolved: Mapping[str, object]) -> dict[str, object]:
    """Resolved settings as a recipe may write them: mode `paper` names none of what it fixes itself."""
    fixed = NOT_IN_PAPER if resolved.get("mode") == "paper" else ()
    return {key: value for key, value in resolved.items() if key not in fixed}


def _paper(sampling: Sampling) -> SamplingSettings:
    holds = sampling.control == "xreal"
    return SamplingSettings(
        mode="paper",
        control=sampling.control,
        steps=_or(sampling.steps, 100),
        hold=_or(sampling.hold, 0.5) if holds else None,
        branch=0.0,
        guidance=1.0,
        soft=0.0 if holds else None,
        resample=sampling.resample,
        paste=sampling.paste,
        eta=1.0,
    )


def _or(value: _T | None, default: _T) -> _T:
    return default if value is None else value
