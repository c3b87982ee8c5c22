"""The choice of a source's images, and their splits by patient; everything else is counted with its reason.

A hash of the patient decides the split, so that adding images moves nobody.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from xreal_synth.errors import TrainingError
from xreal_synth.images.manifest import SEPARATE_SPLITS, RowFault, splits_of_patients
from xreal_synth.prepare.found import FRONTAL, FoundImage, FoundImages, hashed_key

_NAMES = {"valid": "val", "validate": "val", "validation": "val"}


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of the patients in train, val and test; they sum to 1."""

    train: float = 0.8
    val: float = 0.2
    test: float = 0.0

    def __str__(self) -> str:
        parts = (self.train, self.val, self.test) if self.test else (self.train, self.val)
        return "/".join(f"{share:g}" for share in parts)


@dataclass(frozen=True, slots=True)
class Choice:
    """Limits on which images are taken.

    `splits` are shares by hash of the patient, or "official" for the source's own. Images of patients younger than
    `min_age` are left out where the age is known; so are images without a view, unless `any_view`. `limit` takes
    the first images only.
    """

    splits: Shares | Literal["official"] = field(default_factory=Shares)
    min_age: int = 18
    any_view: bool = False
    limit: int | None = None


def choose(found: FoundImages, choice: Choice) -> list[FoundImage]:
    """The images to prepare with their splits, in the source's order; adds to `found` what is refused or left out, and
    why, and leaves it the images that would be prepared without a limit.

    Raises TrainingError if official splits are asked of a source without.
    """
    if choice.splits == "official" and found.images and not any(image.split for image in found.images):
        raise TrainingError(
            found="--splits official, and this source gives no splits",
            wanted="shares, or the source's split lists beside its tables",
            hint="e.g. --splits 0.8/0.2; for a folder name the column with --split-column",
        )
    kept = []
    for image in _distinct(found):
        if reason := left_out(image.view, image.age, choice, frontal=image.frontal):
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


def left_out(view: str, age: str, choice: Choice, *, frontal: bool) -> str:
    """Why an image of this view, of a patient of this age, is left out; "" for one that is taken.

    Without a view it is taken where it is `frontal` or any view will do, without an age always.
    """
    if view not in FRONTAL and (view or not (frontal or choice.any_view)):
        return f"view {view}" if view else "view not given"
    return f"younger than {choice.min_age}" if age and int(age) < choice.min_age else ""


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


def parse_shares(text: str) -> Shares:
    """`0.8/0.2` or `0.7/0.1/0.2` (train/val/test); raises TrainingError."""
    try:
        train, val, *test = map(float, text.split("/"))
        shares = Shares(train, val, *(test or [0.0]))
    except (ValueError, TypeError):
        shares = Shares(-1, -1, -1)
    parts = (shares.train, shares.val, shares.test)
    if min(parts) < 0 or min(shares.train, shares.val) == 0 or abs(sum(parts) - 1) > 1e-6:
        raise TrainingError(
            found=f"--splits {text}",
            wanted="shares of train and val, or of train, val and test, that sum to 1, or `official`",
            hint="e.g. --splits 0.8/0.2",
        )
    return shares


def split_of(patient: str, shares: Shares) -> str:
    """The split of this patient: the same in every run, whatever other images there are."""
    digest = hashlib.sha256(f"xreal-synth/patient-split/1\x1f{patient}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < shares.train:
        return "train"
    return "val" if place < shares.train + shares.val else "test"
