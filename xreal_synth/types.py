"""The system's nouns, in the order in which they flow.

YAML -> Recipe -> Plan -> ShardPlan -> SampleSpec -> Sample -> Verdict -> tar + ShardRecord -> dataset.

Boxes are half-open xyxy with the origin at the top left. Sides are the patient's: `left` is the
right half of the picture. Masks are uint8 arrays [H, W]; images leave sampling as uint8 [H, W].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Le

Mask = npt.NDArray[np.uint8]
GreyImage = npt.NDArray[np.uint8]
PixelBox = tuple[int, int, int, int]
NormBox = tuple[float, float, float, float]
Side = Literal["any", "left", "right", "both"]
Zone = Literal["any", "upper", "middle", "lower"]
Split = Literal["train", "val", "test"]
LabelValue = Literal[0, 1] | None
SamplingMode = Literal["branch", "reference", "paper", "joint"]
Control = Literal["xreal", "controlnet", "none"]
SoftVariance = Literal["mixed", "kept"]
Solver = Literal["ddim", "multistep"]
Paste = Literal["feather", "kept"]
"""Names of the blend rules, sampling.blend.HOLDS."""
QualityProfile = Literal["none", "standard", "strict"]
CheckAction = Literal["off", "warn", "reject"]


class Role(StrEnum):
    """The role of a group's member; the first letter of its name: h, v0, v1.., s0."""

    healthy = "h"
    variant = "v"
    sham = "s"

    def member(self, number: int = 0) -> str:
        """The name of a group's member of this role; there is one healthy image."""
        return self.value if self is Role.healthy else f"{self.value}{number}"

    @classmethod
    def of(cls, member: str) -> Role:
        """The role of the member named `h`, `v0`, `s0`; ValueError for another letter."""
        return cls(member[0])


def sample_key(group: int, member: str) -> str:
    """`0000000042-v0` of 42 and `v0`."""
    return f"{group:010d}-{member}"


ANATOMY_SOURCES = ("bank", "masks", "images")


@dataclass(frozen=True, slots=True)
class PlacedFinding:
    """A finding with its place on one anatomy.

    `boxes` are the pixel boxes, snapped outward to the latent grid: one, or one per lung for `both`.
    `region` names its shape (vocab.REGIONS); of one that is no box `boxes` holds the bounding box, or one per lung.
    `side` and `zone` are what was asked for with `any` resolved to what was drawn.
    `size` is the area over that lung's area, of the box or of the shape within the lung; None for a whole organ
    or a fixed box.
    `prompt` is the recipe's own text for it, None for the bundle's; KEY.json has it among `prompt` alone.
    """

    name: str
    side: str
    zone: str
    region: str
    boxes: tuple[PixelBox, ...]
    size: float | None = None
    prompt: str | None = field(default=None, compare=False)

    @property
    def box_xyxy(self) -> PixelBox:
        """The bounding box of all parts, int pixels."""
        x0, y0, x1, y1 = zip(*self.boxes, strict=True)
        return min(x0), min(y0), max(x1), max(y1)


@dataclass(frozen=True, slots=True)
class ExistingFinding:
    """A finding that a real image came with, in its box (half-open xyxy pixels).

    `removed` is the region that was painted over with the healthy prompt: the box and a margin, snapped
    outward to the latent grid; None where the finding was left as it is.
    """

    name: str
    box: PixelBox
    removed: PixelBox | None = None


@dataclass(frozen=True, slots=True)
class SourceImage:
    """A real image as it is recorded: nothing that names the patient but what the user's file name says.

    `id` is the image's name in its folder, `sha256` of its file, `labels` its own positive labels' names.
    """

    id: str
    sha256: str
    labels: tuple[str, ...]
    findings: tuple[ExistingFinding, ...]

    @property
    def removed(self) -> tuple[PixelBox, ...]:
        """The regions that were painted over."""
        return tuple(own.removed for own in self.findings if own.removed is not None)


Share = Annotated[float, Ge(0), Le(1)]
Steps = Annotated[int, Ge(1), Le(1000)]
Guidance = Annotated[float, Ge(0), Le(50)]
Spacing = Annotated[float, Ge(0.5), Le(4)]
Timestep = Annotated[int, Ge(0), Le(999)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """The settings that a bundle's weights are best sampled with, as bundle.json has it; a recipe may say otherwise."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    mode: Literal["branch", "reference", "joint"] = "branch"
    steps: Steps
    hold: Share
    branch: Share
    guidance: Guidance
    soft: Share = 0.2
    eta: Share = 1.0
    eta_free: Share | None = None
    spacing: Spacing | None = None
    soft_variance: SoftVariance | None = None
    detail: Share | None = None
    solver: Solver | None = None
    guidance_floor: Timestep | None = None


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """The recipe's `sampling` with every default filled in from the bundle.

    hold and branch are shares of `steps`: s = floor(hold*steps + 0.5) held steps, k = floor(branch*steps).
    `soft` is the anatomy blend's weight outside the organs, `resample` RePaint's U, `eta` DDIM's noise.
    In mode `paper` guidance is 1, soft 0, eta 1 and branch 0.
    `eta_free` is eta in the steps after the hold (None: the same), `spacing` the power by which timesteps crowd
    towards the end (None or 1: evenly spaced). `soft_variance` is whether a soft blend keeps the noise variance
    that the timestep promises (None: mixed). `detail` is the strength of the texture that real images have over the
    rough image, added to what the steps are held to (None: nothing). `solver` is how a step without noise is taken
    (None: ddim), below timestep `guidance_floor` the prompt is followed without guidance (None: nowhere).
    `control` says what makes an image follow its organ mask; hold and the softs are XReal's, None without it.
    `upscale_steps` are the upscaler's, None where images are delivered at the bundle's size.
    """

    mode: SamplingMode
    control: Control
    steps: int
    hold: float | None
    branch: float
    guidance: float
    soft: float | None
    resample: int
    paste: Paste
    eta: float = 1.0
    eta_free: float | None = None
    spacing: float | None = None
    soft_variance: SoftVariance | None = None
    detail: float | None = None
    solver: Solver | None = None
    guidance_floor: int | None = None
    upscale_steps: int | None = None

    @property
    def hold_steps(self) -> int:
        """s, the first steps that are held to the anatomy: floor(hold * steps + 0.5), 0 without a hold."""
        return int((self.hold or 0.0) * self.steps + 0.5)

    @property
    def branch_step(self) -> int:
        """k, the steps of stage A that an edit starts from: floor(branch * steps)."""
        return int(self.branch * self.steps)

    def replaced_steps(self, *, freed: bool = False) -> int:
        """How many first steps of stage A need no denoiser: with `soft` 1 the next step's hold is the whole image.

        In mode joint a finding's region is `freed` of the hold from `branch_step` on.
        """
        whole = min(self.hold_steps, self.branch_step) if freed else self.hold_steps
        return max(whole - 1, 0) if self.soft == 1.0 else 0


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """One check of the gate: what a failure does, its bounds by score (without the check's name), and the file
    that it reads, with its sha256, if there is one."""

    name: str
    action: CheckAction
    bounds: dict[str, float]
    file: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class QualitySettings:
    """The recipe's `quality` with the profile's values filled in.

    `checks` are those that run, `unchecked` the ones that the profile has and that cannot run here, each with the
    reason. `negative_below` is the probability below which the classifier sees no finding, None where no label
    depends on it.
    """

    profile: QualityProfile
    max_attempts: int
    checks: tuple[CheckSettings, ...] = ()
    unchecked: dict[str, str] = field(default_factory=dict)
    negative_below: float | None = None

    @property
    def gated(self) -> bool:
        """Whether images are looked at before they are delivered."""
        return bool(self.checks) or self.negative_below is not None


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """One image of a group. `name` is h (healthy twin), v0, v1.. (variants), s0 (sham).

    `source` is the real image that it is or was edited from, with the findings painted over in it. `sham` are
    the first variant's findings, in whose regions a sham is painted with the healthy prompt; it shows none.
    """

    key: str
    name: str
    findings: tuple[PlacedFinding, ...]
    source: SourceImage | None = None
    sham: tuple[PlacedFinding, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SampleSpec:
    """Everything drawn for one group (one anatomy) before any model runs.

    `index` is the group's index, `row` the findings row of the recipe, `anatomy` the organ codes
    uint8 [H, W] at the bundle's image size, `anatomy_id` where it came from ("bank", a file's name),
    `ctr` the cardiothoracic ratio of the mask, `members` the images to deliver, twin first. `image` is the real
    image that stands in the twin's place, `large` the same at the size images are upscaled to; one without organ
    mask has no organ codes and no ratio. `regions` bool [H, W] are those of all members' findings and shams.
    """

    index: int
    attempt: int
    row: int
    split: Split
    anatomy: Mask
    anatomy_id: str
    ctr: float | None
    members: tuple[MemberSpec, ...]
    image: GreyImage | None = None
    large: GreyImage | None = None
    regions: dict[PlacedFinding, npt.NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """Groups [start, stop) of shard `shard`; `name` is the dataset's name."""

    name: str
    shard: int
    start: int
    stop: int

    @property
    def stem(self) -> str:
        """The shard's files without their endings: `NAME-000000`."""
        return f"{self.name}-{self.shard:06d}"


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A finished image with its masks and labels.

    `meta` is what KEY.json holds; `split` may change with the recipe and so stands in the table alone.
    `change` is |image - twin|, uint8 [H, W]: 0 outside what was painted, and everywhere for a twin.
    """

    image: GreyImage
    anatomy: Mask
    pathology: Mask
    meta: SampleMeta
    split: Split
    change: GreyImage


@dataclass(frozen=True, slots=True)
class ImageQuality:
    """The gate's scores and flags of a delivered image.

    `scores` by name ("organs.heart"), `flags` the names of those that are beyond their bound and were let
    through with a warning; the bounds are among the digested settings.
    """

    profile: str
    scores: dict[str, float]
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SampleMeta:
    """The facts in an image's KEY.json: digested settings only, no URI, actor, host or time.

    With `source` the image is a real one (member h) or was edited from it. `quality` is None where no gate
    looked at it. `sham` are the first variant's findings in whose regions a sham was painted, healthy.
    """

    key: str
    group: int
    member: str
    attempt: int
    row: int
    digest: str
    bundle_name: str
    bundle_hash: str
    seed: int
    anatomy_source: str
    anatomy_id: str
    ctr: float | None
    image_size: tuple[int, int]
    findings: tuple[PlacedFinding, ...]
    labels: dict[str, dict[str, LabelValue]]
    prompt: str
    sampling: dict[str, object]
    source: SourceImage | None = None
    quality: ImageQuality | None = None
    sham: tuple[PlacedFinding, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """One attempt at a group that was not delivered, and why; `dropped` says that it was the last.

    `check` is "placement" or the first score that was refused ("organs.heart"), `member` whose it was,
    `scores` all of that image's, `findings` what the group was asked to show.
    """

    group: int
    attempt: int
    row: int
    reason: str
    dropped: bool
    check: str = "placement"
    member: str = ""
    findings: tuple[str, ...] = ()
    scores: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's verdict on an image.

    `refused` and `flags` name the scores beyond their bounds that reject and that warn; `reasons` says both
    in words, in the order of `refused + flags`. `passed` are the findings that the classifier does not see,
    None where none looked.
    """

    refused: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    scores: tuple[tuple[str, float], ...] = ()
    passed: frozenset[str] | None = None

    @property
    def accepted(self) -> bool:
        """Whether the image may be delivered; one that is only flagged may."""
        return not self.refused


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Counts of what the gate did. `tried` and `accepted` are attempts at groups by the finding asked for ("No Finding"
    without any; a group with two counts for both), `reasons` refused attempts by `Rejected.check`, `flags`
    delivered images by flag.
    """

    tried: dict[str, int]
    accepted: dict[str, int]
    reasons: dict[str, int]
    flags: dict[str, int]


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Size and sha256 of a published file."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """The mark that a shard is done: written last, read as the ledger. `gate` is None where none was."""

    shard: int
    start: int
    stop: int
    samples: int
    groups: int
    rejected: int
    dropped: int
    tar: FileStamp
    table: FileStamp
    rejects: FileStamp | None
    digest: str
    fingerprint: dict[str, str]
    label_counts: dict[str, int]
    timings: dict[str, float]
    actor: str
    attempt: int
    gate: Acceptance | None = None
