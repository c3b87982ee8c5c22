"""Settings of every training: the images and their random changes, and the loop."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from xreal_synth.findings import IMAGE_LABELS, NO_FINDING, image_label
from xreal_synth.models.networks.label_tokens import FINDINGS

STRICT = ConfigDict(extra="forbid")

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def _findings(names: tuple[str, ...]) -> tuple[str, ...]:
    """The project's names of findings; raises ValueError for any other name and for one given twice."""
    strange = [name for name in names if image_label(name) in (None, NO_FINDING)]
    if strange:
        known = ", ".join(name for name in IMAGE_LABELS if name != NO_FINDING)
        raise ValueError(f"no finding {', '.join(map(repr, strange))}; known are {known}")
    found = tuple(image_label(name) or name for name in names)
    if len(set(found)) != len(found):
        raise ValueError("a finding is named twice")
    return found


Findings = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_findings)]
OptionalFindings = Annotated[tuple[str, ...], AfterValidator(_findings)]


@dataclass(frozen=True, slots=True, config=STRICT)
class WarpSettings:
    """Random changes of an image and its mask; never a mirror image, for the heart's side carries meaning.

    Rotation in degrees, scale and shift as shares of the side, gamma and contrast as logarithms of the
    largest factor, brightness as the largest difference; all are drawn uniformly up to both signs. `elastic` is
    the largest displacement, as a share of the side, of the knots of a smooth field.
    """

    rotate_deg: Annotated[float, Field(ge=0, le=45)] = 5.0
    scale: Annotated[float, Field(ge=0, le=0.5)] = 0.06
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.03
    elastic: Annotated[float, Field(ge=0, le=0.1)] = 0.0
    gamma: Share = 0.1
    brightness: Share = 0.05
    contrast: Share = 0.08


@dataclass(frozen=True, slots=True, config=STRICT)
class DrawSettings:
    """Rates at which images are drawn into a training batch, relative to one that nothing is said of.

    `boxed` is the factor of images with a region of a finding whose place is known, `findings` those of images
    with these labels (the largest counts). With `balance_view`, PA and AP images have equal shares among the
    images with a finding and among those without, so that the view does not stand for the label.
    """

    boxed: Positive = 1.0
    findings: dict[str, Positive] = field(default_factory=dict)
    balance_view: bool = False


@dataclass(frozen=True, slots=True, config=STRICT)
class DataSettings:
    """Images that are read, findings that are learnt, and changes of images while training.

    More than `max_refused` of faulty images stop a run before it starts; `limit` keeps the first images of each
    split only. `findings` are labels in the order of the network's own, "No Finding" comes after them.
    `region_maps` are the findings whose regions a denoiser, or a classifier with places, is shown. Without `draw`
    every image is seen once per pass.
    """

    image_size: Annotated[int, Field(ge=16)] = 256
    warp: WarpSettings = WarpSettings()
    findings: Findings = FINDINGS
    region_maps: OptionalFindings = ()
    draw: DrawSettings | None = None
    max_refused: Share = 0.05
    limit: Count | None = None


@dataclass(frozen=True, slots=True, config=STRICT)
class LoopSettings:
    """The loop's own settings: budget, optimiser, average of weights, and what is written when.

    A step sees `batch` images in all: `accumulate` splits them into parts computed one after another, where the
    whole batch does not fit into memory, and several workers share them. `lr` is reached after `warmup_steps`,
    kept, and brought to zero over the last `decay_share` of the steps (`constant`: kept to the end). `minutes`
    ends a run early; a resumed run may be given other budgets, intervals and another split, nothing else.
    """

    steps: Annotated[int, Field(ge=0)]
    batch: Count
    lr: Positive
    minutes: Positive | None = None
    accumulate: Count = 1
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    decay_share: Annotated[float, Field(gt=0, le=1)] = 0.4
    betas: tuple[Share, Share] = (0.9, 0.99)
    weight_decay: NotNegative = 0.01
    clip_norm: Positive = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9995
    precision: Literal["fp32", "bf16"] = "bf16"
    log_every: Count = 20
    validate_every: Count = 250
    preview_every: Count = 500
    checkpoint_minutes: Positive = 4.0


BUDGET_KEYS = (
    "steps",
    "minutes",
    "accumulate",
    "log_every",
    "validate_every",
    "preview_every",
    "checkpoint_minutes",
)
