"""A recipe's findings: what an image shows, where, and how many images show it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from xreal_synth.findings import FINDINGS, REGIONS
from xreal_synth.recipe.edits import EditRule
from xreal_synth.recipe.kinds import Box, FindingName, RecipePart, SizeRange, problem
from xreal_synth.types import Side, Zone


class FindingLabel(RecipePart):
    """One finding and where it may lie: by side, zone and size from the prior, or in a fixed box."""

    name: FindingName
    """TorchXRayVision's name of the finding, or an alias of it."""
    side: Side = "any"
    """The patient's side: `left` is the right half of the picture."""
    zone: Zone = "any"
    """Third of the lung's height that has at least half of the area."""
    size: SizeRange | None = None
    """Area over that lung's area, [lowest, highest]: of the box, or of the shape that it follows."""
    box: Box | None = None
    """Fixed box [x0, y0, x1, y1], shares of the picture; excludes side, zone and size."""
    prompt: str | None = Field(default=None, min_length=1, max_length=2000)
    """Text to paint it by in place of the bundle's own; encoded once, before the run, if the bundle has not got it."""

    @model_validator(mode="after")
    def _places_agree(self) -> Self:
        rule = REGIONS[FINDINGS[self.name].region]
        placed = [key for key in ("side", "zone", "size", "box") if getattr(self, key) not in (None, "any")]
        refused = [key for key in placed if key not in rule.keys]
        if refused:
            kept = "".join(f", {key}: {getattr(self, key)}" for key in placed if key in rule.keys)
            raise problem(
                None,
                found=f"{', '.join(f'`{key}`' for key in refused)} for {self.name}",
                wanted=f"none of them: {self.name} takes in {rule.words}",
                hint=f"write {{name: {self.name}{kept}}}",
                at=refused[0],
            )
        if self.box is not None and placed != ["box"]:
            named = ", ".join(f"`{key}`" for key in placed if key != "box")
            raise problem(
                None,
                found=f"`box` together with {named}",
                wanted="either a fixed box, or side, zone and size",
                hint=f"remove `box`, or remove {named}",
                at="box",
            )
        return self


class Variant(RecipePart):
    """What one image of a group shows."""

    labels: tuple[FindingLabel, ...] = Field(strict=False, min_length=1, max_length=16)
    """Findings on this image, as in a row's `labels`."""


class FindingRow(RecipePart):
    """A kind of image and its share of the dataset."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["labels"]}, {"required": ["variants"]}]})

    weight: float = Field(gt=0, le=1e300)
    """Share of the groups, relative to the other rows' weights."""
    labels: tuple[FindingLabel, ...] = Field(default=(), strict=False, max_length=16)
    """Findings on one image, painted one after another in this order; empty for no finding."""
    variants: Annotated[tuple[Variant, ...], Field(strict=False, min_length=1, max_length=100)] | None = None
    """In place of `labels`: what each image of a group shows, v0, v1.. in this order, all on one anatomy."""
    edit: EditRule | None = None
    """What is done first with the findings of a real image; needs source images."""
    images: Literal["any", "healthy"] | None = None
    """Which real images the row takes: `any`, or `healthy`, those labelled No Finding."""
    joint: Literal[True] | None = None
    """Paint each finding of the row by the bundle's prompt for all of them together, joined in the bundle's order."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.variants is None and "labels" not in self.model_fields_set:
            raise problem(
                None, found="missing", wanted="the findings of an image, or `variants`",
                hint="a row without findings has an empty list: `labels: []`", at="labels",
            )  # fmt: skip
        if self.variants is not None and self.labels:
            raise problem(
                None, found="`variants` together with `labels`", wanted="one of them",
                hint="make `labels` the first of the variants", at="variants",
            )  # fmt: skip
        if self.joint and (len({label.name for label in self.labels}) < 2 or self.edit is not None):
            raise problem(
                self.joint, found="`joint` without several findings", wanted="two labels or more, no `edit`",
                hint="remove it", at="joint",
            )  # fmt: skip
        if self.joint and any(label.prompt is not None for label in self.labels):
            raise problem(
                self.joint, found="`joint` beside a label's own `prompt`", wanted="one of them",
                hint="remove one", at="joint",
            )  # fmt: skip
        return self

    @property
    def kinds(self) -> tuple[tuple[str, tuple[FindingLabel, ...]], ...]:
        """(path in the row, findings) of each kind of image that it paints, in the order of the variants."""
        if self.variants is None:
            return (("labels", self.labels),)
        return tuple((f"variants[{i}].labels", kind.labels) for i, kind in enumerate(self.variants))

    @property
    def names(self) -> tuple[str, ...]:
        """The findings that its images are asked to show, each once, in the order in which they come."""
        return tuple(dict.fromkeys(label.name for _, labels in self.kinds for label in labels))

    @property
    def paints(self) -> bool:
        """Whether an image of this row is painted on, and so has variants."""
        return bool(self.labels) or self.variants is not None or self.edit is not None
