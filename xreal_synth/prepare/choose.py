"""The choice of a source's images, and their splits; everything else is counted with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from xreal_synth.errors import TrainingError
from xreal_synth.images.manifest import SEPARATE_SPLITS, RowFault
from xreal_synth.prepare.found import FRONTAL, FoundImage, FoundImages, hashed_key
from xreal_synth.prepare.splits import Shares, split_of

OFFICIAL: Final = "official"
NO_VIEW: Final = "view not given"
_NAMES = {"valid": "val", "validate": "val", "validation": "val"}

SplitRule = Shares | Literal["official"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Limits on which images are taken.

    `splits` are shares by hash of the patient, or "official" for the source's own. Images of patients younger than
    `min_age` are left out where the age is known; so are images without a view, unless `any_view`. `limit` takes
    the first images only.
    """

    splits: SplitRule = field(default_factory=Shares)
    min_age: int = 18
    any_view: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class ChosenImage:
    """An image to prepare and its split."""

    image: FoundImage
    split: str


def choose(found: FoundImages, choice: Choice) -> list[ChosenImage]:
    """The images to prepare, in the source's order; adds to `found` what is refused or left out, and why, and leaves
    it the images that would be prepared without a limit.

    Raises TrainingError if official splits are asked of a source without.
    """
    official = choice.splits == OFFICIAL
    if official and found.images and not any(image.split for image in found.images):
        raise TrainingError(
            found="--splits official, and this source gives no splits",
            wanted="shares, or the source's split lists beside its tables",
            hint="e.g. --splits 0.8/0.2; for a folder name the column with --split-column",
        )
    found.images = _distinct(found)
    kept = []
    for image in found.images:
        reason = _left_out(image, choice)
        if reason:
            found.left_out[reason] += 1
        else:
            kept.append(image)
    chosen = _official(kept, found) if official else _shared(kept, choice.splits)
    found.images = [one.image for one in chosen]
    return chosen[: choice.limit]


def _distinct(found: FoundImages) -> list[FoundImage]:
    """The images with a key each. Rows of one image that agree are one; of those that do not, none is taken."""
    rows: dict[tuple[str, ...], list[FoundImage]] = {}
    for image in found.images:
        rows.setdefault(image.files, []).append(image)
    kept = []
    for images in rows.values():
        if any(image != images[0] for image in images):
            found.refuse(
                images[0].name, RowFault.CONTRADICTION, f"its {len(images)} rows do not say the same"
            )
        else:
            kept.append(images[0])
    keys = Counter(image.key.casefold() for image in kept)
    return [
        replace(image, key=hashed_key(image.key, image.name)) if keys[image.key.casefold()] > 1 else image
        for image in kept
    ]


def not_frontal(view: str) -> str:
    """Why an image of this view is left out; "" for a frontal image."""
    if view in FRONTAL:
        return ""
    return f"view {view}" if view else NO_VIEW


def _left_out(image: FoundImage, choice: Choice) -> str:
    reason = not_frontal(image.view)
    if reason and not ((choice.any_view or image.frontal) and not image.view):
        return reason
    return too_young(image.age, choice.min_age)


def too_young(age: str, least: int) -> str:
    """Why an image of a patient of this age is left out; "" for one old enough, or of unknown age."""
    return f"younger than {least}" if age and int(age) < least else ""


def _shared(images: Sequence[FoundImage], splits: SplitRule) -> list[ChosenImage]:
    assert isinstance(splits, Shares)
    return [ChosenImage(image, split_of(image.patient, splits)) for image in images]


def _official(images: Sequence[FoundImage], found: FoundImages) -> list[ChosenImage]:
    splits: dict[str, set[str]] = {}
    for image in images:
        splits.setdefault(image.patient, set()).add(_NAMES.get(image.split, image.split))
    chosen = []
    for image in images:
        split = _NAMES.get(image.split, image.split)
        if split not in SEPARATE_SPLITS:
            found.refuse(
                image.name,
                RowFault.BAD_VALUE,
                f"split is {split!r}, wanted one of {', '.join(SEPARATE_SPLITS)}",
            )
        elif len(own := splits[image.patient] & set(SEPARATE_SPLITS)) > 1:
            found.refuse(
                image.name,
                RowFault.TWO_SPLITS,
                f"patient {image.patient} is in two splits: {', '.join(sorted(own))}",
            )
        else:
            chosen.append(ChosenImage(image, split))
    return chosen
