"""What the studio makes: a chest from the bank or from files, images on it, and recipe rows that say the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from xreal_synth.anatomy.label_map import read_mask, resize_mask
from xreal_synth.anatomy.validate import validate_mask
from xreal_synth.errors import AnatomyError
from xreal_synth.from_recipe import BARE, Finding, recipe_yaml
from xreal_synth.generated import GeneratedImage
from xreal_synth.images.files import decode_image
from xreal_synth.images.folder import padded, resize_image
from xreal_synth.images.manifest import BadImage
from xreal_synth.models.describe import describe
from xreal_synth.opening import MAX_IMAGE, UnreadableError, read_file
from xreal_synth.pipeline import Pipeline
from xreal_synth.recipe.load import recipe_from_text
from xreal_synth.recipe.schema import Recipe
from xreal_synth.run.quality import open_quality
from xreal_synth.types import GreyImage, Mask

BANK: Final = "from the bank"
OWN_MASK: Final = "own organ mask"
OWN_IMAGE: Final = "own image"
KINDS: Final = (BANK, OWN_MASK, OWN_IMAGE)
AS_DRAWN: Final = 1.0
"""The factor of heart or lungs that leaves them as images with the findings have them."""
_SHADES: Final = np.array([14, 58, 58, 96, 96], np.uint8)
"""Grey levels of organ codes."""


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """A chest to paint on.

    `label_map` uint8 [H, W] is what images follow, None of a real image without one; `file` is that real image.
    `seed` says that the bank draws `label_map` for that seed, `augment` what a recipe changes the bank's by. `grey` and
    `organs`, uint8 [S, S], are for looking at it: the real image or shaded organs, and organ codes, zeros where there
    are none.
    """

    label_map: Mask | None
    grey: GreyImage
    organs: Mask
    file: Path | None = None
    seed: int | None = None
    augment: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """An image with the seconds that it took and the recipe rows that ask for the same."""

    image: GeneratedImage
    seconds: float
    rows: str


class Studio:
    """A pipeline and what its bundle knows. Raises as `Pipeline`."""

    def __init__(self, bundle: str) -> None:
        self.info = describe(bundle)
        self.pipeline = Pipeline(bundle)

    def canvas(
        self, findings: Sequence[Finding | str], kind: str, seed: int, heart: float, mask: str | None,
        image: str | None, lungs: float = AS_DRAWN,
    ) -> Canvas:  # fmt: skip
        """The chest that is asked for, of KINDS: the bank's of a seed with factors for heart and lungs, as images with
        these findings have it, or that of uploaded files, given by path. Raises AnatomyError, RecipeError."""
        size = self.info.image_size
        if kind == BANK:
            scales = {"heart_scale": heart, "lungs_scale": lungs}
            given = {key: scale for key, scale in scales.items() if scale != AS_DRAWN}
            drawn = self.pipeline.sample_anatomy(seed, findings=findings, **given)
            augment = {key: [scale, scale] for key, scale in given.items()}
            return Canvas(drawn, _SHADES[drawn], drawn, seed=None if given else seed, augment=augment)
        needed = mask if kind == OWN_MASK else image
        if needed is None:
            raise AnatomyError(found="no chest yet", wanted=f"an uploaded file for {kind!r}")
        label_map, organs = None, np.zeros((size, size), np.uint8)
        if mask is not None:
            label_map = read_mask(Path(mask))
            organs = resize_mask(label_map if kind == OWN_MASK else padded(label_map), size)
            validate_mask(organs, Path(mask).name)
        if kind == OWN_MASK:
            return Canvas(label_map, _SHADES[organs], organs)
        assert image is not None
        return Canvas(label_map, resize_image(padded(_grey(Path(image))), size), organs, file=Path(image))

    def make(
        self, canvas: Canvas, findings: Sequence[Finding], *, seed: int, guidance: float, steps: int, profile: str,
        on_share: Callable[[float], None],
    ) -> Made:  # fmt: skip
        """An image of this very chest, with its healthy counterfactual; `on_share` is told the share that is made.

        The gate judges it by `profile` and refuses nothing. Raises as `Pipeline`.
        """
        began, rows = time.perf_counter(), recipe_rows(findings, canvas.augment)
        parts = 1 + bool(findings)  # the healthy image, then the one with findings
        given: dict[str, Any] = {
            "seed": seed, "guidance": guidance, "steps": steps,
            "quality": self._gate(rows, profile), "callback": lambda done, _: on_share(done / parts),
        }  # fmt: skip
        if canvas.file is not None:
            image = self.pipeline.edit(canvas.file, canvas.label_map, add=findings, **given)
        else:
            of_bank = canvas.seed == seed
            given |= {"findings": findings, "counterfactual": True}
            image = self.pipeline(anatomy=None if of_bank else canvas.label_map, **given)
            if of_bank and image.sample.meta.attempt:  # no place on this chest at first: on another one
                image = self.pipeline(anatomy=canvas.label_map, **given)
        return Made(image, time.perf_counter() - began, rows)

    def _gate(self, rows: str, profile: str) -> dict[str, Any]:
        """A recipe's `quality` of this profile with its checks for these rows warning only."""
        recipe = _checked(rows, quality={"profile": profile})
        names = [check.name for check in open_quality(recipe, self.info).checks]
        return {"profile": profile, "checks": {name: {"action": "warn"} for name in names}}


def recipe_rows(findings: Sequence[Finding], augment: Mapping[str, Sequence[float]] | None = None) -> str:
    """YAML of a recipe's `findings` with one row for these, and of the `anatomy` that is changed so, as the schema
    takes it. Raises RecipeError."""
    rows: dict[str, Any] = {"findings": [{"weight": 1, "labels": [one.label for one in findings]}]}
    if augment:
        rows["anatomy"] = {"augment": augment}
    text = yaml.safe_dump(rows, sort_keys=False, default_flow_style=None, allow_unicode=True)
    _checked(text)
    return text


def _checked(rows: str, **sections: Any) -> Recipe:
    """The recipe that has these rows."""
    return recipe_from_text(recipe_yaml({**BARE, "bundle": "any", "anatomies": 1, **sections}) + rows, "rows")


def _grey(path: Path) -> GreyImage:
    """An uploaded image, uint8 [H, W]."""
    try:
        return decode_image(read_file(path, MAX_IMAGE))
    except (BadImage, OSError, UnreadableError) as error:
        found = error.reason if isinstance(error, BadImage) else str(error)
        raise AnatomyError(
            where=path.name, found=found, wanted="a grey PNG, JPEG or TIFF of 8 bits",
            hint="xreal-synth prepare makes them of DICOM and deeper images",
        ) from error  # fmt: skip
