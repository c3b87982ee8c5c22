"""The recipe's `sampling` keys, and what they leave out filled in from the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Final, Self, TypeVar

from pydantic import Field, model_validator

from xreal_synth import types
from xreal_synth.errors import Problem, RecipeError
from xreal_synth.recipe.kinds import RecipePart, problem, shown

NOT_IN_PAPER: Final = (
    "soft", "guidance", "eta", "eta_free", "spacing", "soft_variance", "detail", "solver", "guidance_floor", "branch"
)  # fmt: skip
XREALS_OWN: Final = ("hold", "soft", "soft_variance", "detail")
PAPER: Final = {
    **dict.fromkeys(NOT_IN_PAPER), "steps": 100, "hold": 0.5, "branch": 0.0, "guidance": 1.0, "soft": 0.0, "eta": 1.0
}  # fmt: skip
"""What mode `paper` has, whatever the bundle's are; steps and hold may be another."""
REFERENCE: Final = {
    **dict.fromkeys(("eta_free", "spacing", "soft_variance", "detail", "solver", "guidance_floor")), "eta": 1.0
}  # fmt: skip
"""What mode `reference` has in place of the bundle's, unless the recipe says otherwise."""
UPSCALE_STEPS: Final = 100
"""Of the upscaler, as Cheff's released code takes them."""

_T = TypeVar("_T")


class Sampling(RecipePart):
    """How images are sampled; what is left out comes from the bundle."""

    mode: types.SamplingMode | None = None
    """`branch`: the edit starts from the twin's state; `reference`: as in the authors' code; `paper`: Algorithm 1 as
    printed; `joint`: one trajectory an image, with its findings from the first step, without a healthy twin. Left out:
    the bundle's, `joint` for bundles that know regions where neither twin nor sham is delivered."""
    control: types.Control = "xreal"
    """What makes an image follow its organ mask: `xreal` holds its first steps to the rough image, `controlnet` is the
    baseline (the bundle needs one), `none` leaves the mask out."""
    steps: types.Steps | None = None
    """Denoising steps; `reference` wants a divisor of 1000, `paper` takes 100 unless told."""
    hold: types.Share | None = None
    """Share of the steps that are held to the anatomy; `paper`: 0.5."""
    branch: types.Share | None = None
    """Share of the twin's steps that an edit keeps; in `joint`, of the steps after which a finding's region is no
    longer held to the anatomy."""
    guidance: types.Guidance | None = None
    """Classifier-free guidance; 1 is none."""
    soft: types.Share | None = None
    """Weight of the anatomy outside the organs while held."""
    eta: types.Share | None = None
    """DDIM's noise: 1 fresh in every step, 0 none; `reference`: 1."""
    eta_free: types.Share | None = None
    """The same in the steps after the hold; left out: as `eta`."""
    spacing: types.Spacing | None = None
    """Power by which the steps crowd towards the end: 1 evenly spaced, more for finer detail."""
    soft_variance: types.SoftVariance | None = None
    """Whether a soft blend keeps the noise that the timestep promises; `reference`: mixed."""
    detail: types.Share | None = None
    """Strength of the random texture that the rough image lacks beside real ones, where the bundle has measured it;
    `reference`: none."""
    solver: types.Solver | None = None
    """How a step without fresh noise is taken: `ddim`, or `multistep` (DPM-Solver++ 2M), which needs fewer;
    `reference`: ddim."""
    guidance_floor: types.Timestep | None = None
    """Timestep (0 to 999) below which there is no guidance: what a finding looks like is decided above, and the steps
    below cost half; `reference`: guidance throughout."""
    resample: int = Field(default=1, ge=1, le=20)
    """RePaint's U: times each step of an edit is taken."""
    upscale_steps: int | None = Field(default=None, ge=1, le=1000)
    """Steps of the upscaler (`output.upscale`); left out: 100."""
    paste: types.Paste = "kept"
    """How an edit is joined to its twin: `feather` fades it in, `kept` also keeps the texture as strong as it is on
    both sides."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.mode == "reference" and self.spacing not in (None, 1):
            raise problem(
                None, found=f"spacing: {self.spacing} with mode: reference",
                wanted="evenly spaced steps, as the released code has them",
                hint="leave spacing out, or use mode: branch", at="spacing",
            )  # fmt: skip
        if self.mode == "reference" and self.steps is not None and 1000 % self.steps:
            raise problem(None, **steps_words(self.steps), at="steps")
        given = [key for key in NOT_IN_PAPER if getattr(self, key) is not None]
        if self.mode == "paper" and given:
            values = ", ".join(
                f"{key}: {value:g}" if isinstance(value, float) else f"{key}: {shown(value)}"
                for key, value in ((key, getattr(self, key)) for key in given)
            )
            raise problem(
                None, found=f"{values} with mode: paper",
                wanted=f"none of {', '.join(NOT_IN_PAPER)}: Algorithm 1 as printed has a binary mask, "
                "no guidance and DDPM's noise, and starts from noise",
                hint=f"remove {', '.join(given)} (on a command line: null), or use mode: reference", at=given[0],
            )  # fmt: skip
        held = {key: value for key in XREALS_OWN if (value := getattr(self, key)) is not None}
        if self.control != "xreal" and held:
            named = " and ".join(f"`{key}`" for key in held)
            values = ", ".join(f"{key}: {shown(value)}" for key, value in held.items())
            raise problem(
                None, found=f"{values} with control: {self.control}",
                wanted=f"{named} with control: xreal alone: nothing is held to the anatomy otherwise",
                hint=f"remove {named} (on a command line: null), or use control: xreal", at=next(iter(held)),
            )  # fmt: skip
        return self


def steps_words(steps: int) -> dict[str, str]:
    """found, wanted and hint for a step count that `reference` refuses."""
    divisors = [n for n in range(1, 1001) if 1000 % n == 0]
    nearest = (max(n for n in divisors if n < steps), min(n for n in divisors if n > steps))
    return {
        "found": f"steps: {steps} with mode: reference",
        "wanted": f"a step count that divides 1000: {', '.join(map(str, divisors))}",
        "hint": f"set steps to {' or '.join(map(str, nearest))}, or use mode: branch",
    }


def resolve_sampling(
    sampling: Sampling, defaults: types.SamplingDefaults, *, source: str = "recipe", edits: bool = False
) -> types.SamplingSettings:
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
    own = PAPER if mode == "paper" else REFERENCE if mode == "reference" else {}
    left = {**asdict(defaults), **own, "mode": mode}
    if sampling.control != "xreal":
        left |= dict.fromkeys(XREALS_OWN)
    settings = types.SamplingSettings(
        **{name: _or(getattr(sampling, name), value) for name, value in left.items()},
        control=sampling.control,
        resample=sampling.resample,
        paste=sampling.paste,
    )
    if settings.mode == "reference" and 1000 % settings.steps:
        raise RecipeError(source, [Problem("sampling.steps", **steps_words(settings.steps))])
    return settings


def with_upscaler(settings: types.SamplingSettings, sampling: Sampling) -> types.SamplingSettings:
    """The settings of images that are upscaled: as many steps as the recipe says, else UPSCALE_STEPS."""
    return replace(settings, upscale_steps=_or(sampling.upscale_steps, UPSCALE_STEPS))


def written_sampling(resolved: Mapping[str, object]) -> dict[str, object]:
    """Resolved settings as a recipe may write them: mode `paper` names none of what it fixes itself."""
    fixed = NOT_IN_PAPER if resolved.get("mode") == "paper" else ()
    return {key: value for key, value in resolved.items() if key not in fixed}


def _or(value: _T | None, default: _T) -> _T:
    return default if value is None else value
