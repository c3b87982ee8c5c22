"""The choice of a source's images, and their splits; everything else is counted with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from xreal_synth.errors import TrainingError
from xreal_synth.images.manifest import SEPARATE_SPLITS, RowFault, splits_of_patients
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


def choose(found: FoundImages, choice: Choice) -> list[FoundImage]:
    """The images to prepare with their splits, in the source's order; adds to `found` what is refused or left out, and
    why, and leaves it the images that would be prepared without a limit.

    Raises TrainingError if official splits are asked of a source without.
    """
    if choice.splits == OFFICIAL and found.images and not any(image.split for image in found.images):
        raise TrainingError(
            found="--splits official, and this source gives no splits",
            wanted="shares, or the source's split lists beside its tables",
            hint="e.g. --splits 0.8/0.2; for a folder name the column with --split-column",
        )
    kept = []
    for image in _distinct(found):
        if reason := _left_out(image, choice):
            found.left_out[reason] += 1
        else:
            kept.append(image)
    if isinstance(choice.splits, Shares):
        found.images = [replace(image, split=split_of(image.patient, choice.splits)) for image in kept]
    else:
        found.images = list(_official(kept, found))
    return found.images[: choice.limit]


def _distinct(found: FoundImages) -> list[FoundImage]:
    """The images with a key each. Rows of one image that agree are one; of those that do not, none is taken."""
    rows: dict[tuple[str, ...], list[FoundImage]] = {}
    for image in found.images:
        rows.setdefault(image.files, []).append(image)
    kept = []
    for images in rows.values():
        if any(image != images[0] for image in images):
            reason = f"its {len(images)} rows do not say the same"
            found.refuse(images[0].name, RowFault.CONTRADICTION, reason)
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


def _official(images: Sequence[FoundImage], found: FoundImages) -> Iterator[FoundImage]:
    images = [replace(image, split=_NAMES.get(image.split, image.split)) for image in images]
    splits = splits_of_patients((image.patient, image.split) for image in images)
    for image in images:
        if image.split not in SEPARATE_SPLITS:
            reason = f"split is {image.split!r}, wanted one of {', '.join(SEPARATE_SPLITS)}"
            found.refuse(image.name, RowFault.BAD_VALUE, reason)
        elif len(own := splits[image.patient]) > 1:
            reason = f"patient {image.patient} is in two splits: {', '.join(sorted(own))}"
            found.refuse(image.name, RowFault.TWO_SPLITS, reason)
        else:
            yield image
