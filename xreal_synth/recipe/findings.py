"""A recipe's findings: what an image shows, where, and how many images show it; where real images are, and what is
done with the findings they came with."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from xreal_synth.findings import FINDINGS, REGIONS, takes_box
from xreal_synth.recipe.kinds import (
    Box,
    FindingName,
    Place,
    RecipePart,
    Sha256,
    SizeRange,
    Texts,
    finding_name,
    problem,
    rising,
)
from xreal_synth.types import Side, Zone


def _all_or_names(value: object) -> object:
    if value is None or value == "all":
        return value
    if not isinstance(value, list | tuple) or not value:
        raise problem(value, wanted="all, or a list of findings: [Pneumonia, Effusion]")
    names = tuple(finding_name(name) for name in value)
    if len(set(names)) < len(names):
        raise problem(value, wanted="each finding once")
    return names


AllOrNames = Annotated[
    Literal["all"] | Annotated[tuple[FindingName, ...], Field(strict=False, min_length=1)],
    BeforeValidator(_all_or_names),
]
Names = Annotated[tuple[FindingName, ...], Field(strict=False, min_length=1, max_length=16)]
Scale = Annotated[tuple[float, float], BeforeValidator(rising(0.25, 4.0, "factors of width and height from 0.25 to 4"))]


class ImagesFolder(RecipePart):
    """The user's own images: `manifest.csv` (image, mask, labels, negative, patient_id, split), or just PNGs and
    JPEGs with organ masks of the same names in `masks/`."""

    path: Place
    """Folder with the images."""
    boxes: str | None = Field(default=None, min_length=1)
    """CSV or COCO file, in the folder, of the findings that the images came with."""
    places: str | None = Field(default=None, min_length=1)
    """CSV or COCO file, in the folder, of boxes to paint findings into (`edit: {add: ..}`)."""
    splits: Texts | None = None
    """Only images of these splits of manifest.csv; else all but those of minors."""
    order: Literal["shuffled", "listed"] = "shuffled"
    """`shuffled`: a new permutation each time round; `listed`: by name, again and again."""
    content: Sha256 | None = None
    """The images' digest, as dataset.json has it: other images are refused."""


class ImagesSource(RecipePart):
    """Real images, edited in place."""

    images: ImagesFolder


class Move(RecipePart):
    """Paints findings over with the healthy prompt, and paints them at another place in the same size."""

    findings: Names
    """Which of the image's existing findings are moved."""
    side: Literal["any", "left", "right"] = "any"
    """The patient's side to move to: `left` is the right half of the picture."""
    zone: Zone = "any"
    """Third of the lung's height to move to."""


class Resize(RecipePart):
    """Paints findings over with the healthy prompt, and paints them anew about the same centre."""

    findings: Names
    """Which of the image's existing findings change their size."""
    scale: Scale
    """Range of factors for the box's width and height, 0.25 to 4; one is drawn for each box."""


class EditRule(RecipePart):
    """What is done with the findings of a real image, before the row's labels are added."""

    remove: AllOrNames | None = None
    """Findings painted over with the healthy prompt: `all`, or their names."""
    move: Move | None = None
    resize: Resize | None = None
    add: AllOrNames | None = None
    """Findings painted into the image's `places`: `all`, or their names."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if all(part is None for _, part in self):
            raise problem(None, found="an edit that does nothing", wanted="remove, move, resize or add")
        self._boxed()
        self._apart()
        return self

    def _boxed(self) -> None:
        """A finding that takes in an organ has no box to move, resize or fill."""
        for key, names in (("move", self.moved), ("resize", self.resized), ("add", self.added or ())):
            odd = [name for name in names if not takes_box(name)]
            if odd:
                words = REGIONS[FINDINGS[odd[0]].region].words
                raise problem(
                    None, found=f"{odd[0]} in {key}", wanted=f"findings with a box: {odd[0]} takes in {words}",
                    hint=f"take it out; to add it, write labels: [{{name: {odd[0]}}}]", at=key,
                )  # fmt: skip

    def _apart(self) -> None:
        removed = None if self.remove == "all" else set(self.remove or ())
        for key, names, others in (
            ("move", self.moved, removed),
            ("resize", self.resized, None if removed is None else removed | set(self.moved)),
        ):
            twice = sorted(names) if others is None and names else sorted(set(names) & (others or set()))
            if twice:
                raise problem(
                    None, found=f"{twice[0]} in {key} and in another edit", wanted="each finding in one edit",
                    hint="name in remove only the findings that are to go", at=key,
                )  # fmt: skip

    @property
    def moved(self) -> tuple[str, ...]:
        """Names of the findings that are moved, empty if none."""
        return self.move.findings if self.move else ()

    @property
    def resized(self) -> tuple[str, ...]:
        """Names of the findings that are resized, empty if none."""
        return self.resize.findings if self.resize else ()

    @property
    def added(self) -> tuple[str, ...] | None:
        """Names to add at places; None means all that an image has places for."""
        return () if self.add is None else None if self.add == "all" else self.add

    @property
    def words(self) -> str:
        """`remove all, move Mass to the left`: for tables and captions."""
        reported = []
        if self.remove is not None:
            reported.append("remove " + ("all findings" if self.remove == "all" else ", ".join(self.remove)))
        if self.move is not None:
            place = " ".join(word for word in (self.move.side, self.move.zone) if word != "any")
            reported.append(f"move {', '.join(self.moved)}" + (f" ({place})" if place else ""))
        if self.resize is not None:
            low, high = self.resize.scale
            reported.append(f"resize {', '.join(self.resized)} ({low:g} to {high:g} times)")
        if self.add is not None:
            reported.append("add " + ("what has places" if self.add == "all" else ", ".join(self.add)))
        return "; ".join(reported)

    def removes(self, name: str) -> bool:
        """Whether the image's existing finding of this name is painted over."""
        removed = self.remove == "all" or name in (self.remove or ())
        return removed or name in self.moved or name in self.resized

    def adds(self, name: str) -> bool:
        """Whether a finding of this name is painted into the image's places."""
        return self.added is None or name in self.added

    @property
    def uses_own(self) -> bool:
        """Whether it needs images with boxes of their own."""
        return self.remove is not None or bool(self.moved or self.resized)

    @property
    def draws(self) -> bool:
        """Whether it draws places, for which organ masks are needed."""
        return self.move is not None


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
