"""The recipe, version 1: what a user may write, with units, ranges and defaults.

These models are also the JSON schema (`json_schema`). Unknown keys are errors. Version 1 grows by
added keys; a key added after the first release must default to None, so that older digests stay.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from xreal_synth.recipe import kinds
from xreal_synth.recipe.findings import FindingRow, ImagesSource
from xreal_synth.recipe.kinds import RecipePart, problem
from xreal_synth.recipe.quality import Quality
from xreal_synth.recipe.sampling import Sampling

AUTO_SHARD_SAMPLES: Final = 64
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]*$"


class MaskFolder(RecipePart):
    """Organ masks as PNGs, 8-bit, pixel = organ code (1 left lung, 2 right lung, 3 heart, 4 aorta)."""

    path: kinds.Place
    """Folder or URI with the mask PNGs, a .tar, .tar.gz or .tgz of them, or a folder of such tars."""
    suffix: kinds.PngSuffix | None = None
    """Only files whose names end so, `.anatomy.png` for the shards of a dataset; left out, `.png`."""
    exclude: kinds.Texts | None = None
    """Names of masks to leave out, as errors tell them."""
    content: kinds.Sha256 | None = None
    """The masks' digest, as dataset.json has it: other masks are refused."""


class MasksSource(RecipePart):
    """Anatomies from a folder of organ masks."""

    masks: MaskFolder


def _source_kind(value: object) -> str:
    if isinstance(value, ImagesSource) or (isinstance(value, dict) and "images" in value):
        return "images"
    return "masks" if isinstance(value, dict | MasksSource) else "bank"


class Augment(RecipePart):
    """Random changes made to each drawn anatomy; each number is the largest change, both ways."""

    rotate_deg: float = Field(default=5.0, ge=0, le=30)
    """Rotation, degrees."""
    shift: float = Field(default=0.03, ge=0, le=0.2)
    """Shift, share of the image's side."""
    scale: float = Field(default=0.06, ge=0, le=0.3)
    """Change of size, share."""
    elastic: float = Field(default=0.02, ge=0, le=0.1)
    """Elastic warp, share of the image's side."""
    heart_scale: kinds.HeartScale = (0.9, 1.25)
    """Range of factors for the heart's width and height about its centre, 0.5 to 2."""
    lungs_scale: kinds.LungsScale | None = None
    """Range of factors for the lungs' width and height about their centre, 0.7 to 1.3; the heart keeps its size. Left
    out: as they are drawn."""


class Anatomy(RecipePart):
    """Where the organ masks come from, one per group."""

    source: Annotated[
        Annotated[Literal["bank"], Tag("bank")]
        | Annotated[MasksSource, Tag("masks")]
        | Annotated[ImagesSource, Tag("images")],
        Discriminator(_source_kind),
    ] = "bank"
    """`bank`: the bundle's own shape model; `masks: {path: FOLDER or TAR}`: organ masks; or `images: {path: FOLDER}`:
    real images, which are edited."""
    augment: Augment = Field(default_factory=Augment)
    by_finding: bool | None = None
    """Whether an anatomy of the bank has the outline that patients with its row's findings have (a lung cut off by an
    effusion, the small lungs of the bedridden). Left out: that of patients without a finding."""

    @field_validator("source", mode="before")
    @classmethod
    def _known_source(cls, value: object) -> object:
        known = ["masks", "images"]
        wanted = "bank, masks: {path: FOLDER}, or images: {path: FOLDER}"
        if isinstance(value, dict):
            if len(value) == 1 and set(value) <= set(known):
                return value
            odd = [str(key) for key in value if key not in known]
            raise problem(value, wanted=wanted, hint=kinds.near(odd[0], known) if odd else "give one of them")
        if value != "bank" and not isinstance(value, MasksSource | ImagesSource):
            hint = (
                kinds.near(value, ["bank"]) or f"for a folder of organ masks write: masks: {{path: {value}}}"
                if isinstance(value, str)
                else ""
            )
            raise problem(value, wanted=wanted, hint=hint)
        return value


class Placement(RecipePart):
    """How boxes are drawn."""

    prior: Literal["nih-rsna"] = "nih-rsna"
    """Where findings lie and how large they are."""
    min_overlap: float = Field(default=0.6, ge=0, le=1)
    """Least share of a box's area in organs where the finding can live."""
    overlap: Literal["allow", "avoid", "forbid"] | None = None
    """Several findings on one image; the later is painted over the earlier. `avoid` (left out): a drawn box that would
    cover more than half of an earlier one is drawn again, a few times; `forbid`: no region touches another; `allow`: as
    drawn."""


class Pairs(RecipePart):
    """Which images of a group are delivered."""

    twin: bool = False
    """Deliver the healthy twin of each image too."""
    variants: int = Field(default=1, ge=1, le=100)
    """Images with the same findings on the same anatomy, other boxes; of a row with `variants`, so many of each."""
    sham: float = Field(default=0.0, ge=0, le=1)
    """Share of the groups with findings that deliver a sham too: the first variant's regions painted with the healthy
    prompt, labelled like the twin."""
    edit_negatives: bool | None = None
    """Groups without findings are edited too: instead of the healthy image (or, with `twin`, beside it) they deliver a
    sham, in the regions that another row's findings would have; so that having been edited says nothing of the
    label."""


class Labels(RecipePart):
    """What unrequested findings are labelled as."""

    unrequested: Literal["negative", "unknown", "checked"] = "negative"
    """`negative`: 0; `unknown`: null; `checked`: 0 where the bundle's classifier does not see the finding in the
    healthy twin, else null."""
    negative_below: float | None = Field(default=None, gt=0, lt=1)
    """For `checked`: the classifier's probability must be below it."""


class Split(RecipePart):
    """Shares of the groups marked val and test, by a hash of the group; the rest is train."""

    val: float = Field(default=0.0, ge=0, le=1)
    """Share of val."""
    test: float = Field(default=0.0, ge=0, le=1)
    """Share of test."""

    @model_validator(mode="after")
    def _sum(self) -> Self:
        if self.val + self.test > 1:
            raise problem(
                None,
                found=f"val {self.val:g} + test {self.test:g} = {self.val + self.test:g}",
                wanted="together at most 1",
                hint="lower one of them",
            )
        return self


class Output(RecipePart):
    """Where the dataset goes."""

    uri: kinds.Place
    """Folder of the dataset; relative to the current folder."""
    shard_samples: kinds.ShardSamples = "auto"
    """Groups per shard, 1 to 10000; auto: 64."""
    upscale: int | None = Field(default=None, ge=2, le=8192)
    """Side of the images in pixels, made by the bundle's upscaler as a last step; left out, the bundle's own size."""

    @property
    def shard_size(self) -> int:
        """Groups per shard with `auto` resolved; depends on nothing but the recipe."""
        return AUTO_SHARD_SAMPLES if self.shard_samples == "auto" else self.shard_samples


class ActorRange(RecipePart):
    """An elastic run's actors: they join as nodes do, and leave with them."""

    min: int = Field(default=1, ge=1, le=kinds.MAX_ACTORS)
    """The first shard is begun when this many are up."""
    max: int = Field(ge=1, le=kinds.MAX_ACTORS)
    """This many are asked for at all times; those that fit nowhere wait for a node, which an autoscaler takes as
    demand."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.min > self.max:
            raise problem(
                None, found=f"min {self.min} above max {self.max}", wanted="min up to max", at="min",
                hint=f"write {{min: {self.max}, max: {self.min}}}",
            )  # fmt: skip
        return self


class Compute(RecipePart):
    """What an actor gets and how long it is waited for; of these, micro_batch and precision change bytes."""

    actors: Annotated[
        Annotated[Literal["auto"] | Annotated[int, Field(ge=1, le=kinds.MAX_ACTORS)], Tag("count")]
        | Annotated[ActorRange, Tag("range")],
        Discriminator(lambda value: "range" if isinstance(value, dict | ActorRange) else "count"),
    ] = "auto"
    """How many actors; auto: as many as fit on the nodes there are; {min: 2, max: 16}: see there."""
    gpus_per_actor: kinds.Gpus = "auto"
    """GPU of one actor, or its share of one (0.5: two actors on a GPU), 0 for none; auto: one where there are GPUs."""
    cpus_per_actor: kinds.Cpus = "auto"
    """CPUs of one actor."""
    micro_batch: kinds.MicroBatch = "auto"
    """Groups denoised together; auto: 4 on a CPU, on a GPU found once by the first actor (doubled until images per
    second grow by less than 5% or memory passes 80%), then fixed for the dataset."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the networks."""
    compile: Literal["auto", "none", "graphs", "inductor"] = "auto"
    """How the denoiser's kernels are sent to the device: one by one (none), recorded as CUDA graphs (graphs: the same
    bytes, sooner; a GPU is needed), or compiled by torch (inductor: other last bits, a C compiler is needed); auto:
    graphs on a GPU, none on a CPU."""
    boot_timeout_s: float = Field(default=900.0, ge=1, le=86400)
    """An actor that has a place but has not loaded the models by then is replaced; seconds."""
    hang_timeout_s: float = Field(default=600.0, ge=1, le=86400)
    """An actor that shows no new image for so long (or ten times the longest gap seen, if that is longer) is replaced;
    seconds."""
    drain_s: float = Field(default=60.0, ge=0, le=86400)
    """How long a stopped run waits for the shards in flight; seconds. A job's RAY_JOB_STOP_WAIT_TIME_S must be
    longer."""

    @field_validator("actors", mode="before")
    @classmethod
    def _known_count(cls, value: object) -> object:
        return value if isinstance(value, dict | ActorRange) else kinds.actor_count(value)


class Recipe(RecipePart):
    """A dataset of synthetic chest X-rays, described."""

    version: Literal[1]
    """Version of the recipe format."""
    name: str = Field(pattern=NAME_PATTERN, max_length=80)
    """The dataset's name: lower-case letters, digits, . _ -"""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Every random number comes from it."""
    anatomies: int = Field(ge=1, le=10**10 - 1)
    """Groups: one anatomy each; twins and variants come on top."""
    bundle: kinds.BundlePlace
    """Model bundle: a shipped name, a path or a URI (s3://, gs://, hf://, https://)."""
    bundle_sha256: kinds.Sha256 | None = None
    """The bundle's content hash, as `xreal-synth bundle show` tells it: another bundle is refused."""
    anatomy: Anatomy = Field(default_factory=Anatomy)
    findings: tuple[FindingRow, ...] = Field(strict=False, min_length=1, max_length=1000)
    """Rows drawn by weight."""
    placement: Placement = Field(default_factory=Placement)
    pairs: Pairs = Field(default_factory=Pairs)
    sampling: Sampling = Field(default_factory=Sampling)
    quality: Quality = Field(default_factory=Quality)
    labels: Labels = Field(default_factory=Labels)
    split: Split = Field(default_factory=Split)
    output: Output
    compute: Compute = Field(default_factory=Compute)

    @property
    def on_images(self) -> bool:
        """Whether real images are edited."""
        return isinstance(self.anatomy.source, ImagesSource)

    @property
    def edits(self) -> bool:
        """Whether images are made from others: twins or shams are delivered, or real images are edited."""
        pairs = self.pairs
        return pairs.twin or pairs.sham > 0 or bool(pairs.edit_negatives) or self.on_images

    def edits_negative(self, row: FindingRow) -> bool:
        """Whether a row without findings delivers shams; of real images only healthy ones are painted on."""
        return bool(self.pairs.edit_negatives) and not row.paints and self._on_healthy(row)

    def takes_sham(self, row: FindingRow) -> bool:
        """Whether a row's groups can have a sham: something is painted in, and nothing over that a label tells of.

        A real image must be healthy: a sham could else paint over what its own labels say.
        """
        adds = bool(row.kinds[0][1]) or (row.edit is not None and row.edit.add is not None)
        removes = row.edit is not None and row.edit.uses_own
        return adds and not removes and self._on_healthy(row)

    def sham_share(self, row: FindingRow) -> float:
        """The share of a row's groups that have a sham."""
        return self.pairs.sham * self.takes_sham(row)

    def _on_healthy(self, row: FindingRow) -> bool:
        return row.images == "healthy" or not self.on_images


def json_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of recipe version 1, with descriptions, ranges and defaults."""
    schema = Recipe.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        for key in part.get("properties", {}).values():
            if "description" in key:
                key["description"] = " ".join(key["description"].split())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "xreal-synth recipe"}
