"""The order of real images over groups: images that the group's row can use, in turn, in constant time.

Row r can use n_r images. Group i shows the image at place i mod n_r of the row's list, in the folder's order
(`listed`) or in a permutation drawn anew for every n_r groups (`shuffled`): a row shows no image twice within
n_r groups that follow one another and begin at a multiple of n_r.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from xreal_synth.errors import Problem, RecipeError
from xreal_synth.findings import NO_FINDING
from xreal_synth.images.folder import ImageFolder, RealImage
from xreal_synth.recipe.edits import ImagesSource
from xreal_synth.recipe.findings import FindingRow
from xreal_synth.recipe.schema import Recipe
from xreal_synth.seeds import stream

_KEPT: Final = 64


class ImageOrder:
    """The images of each findings row, and the image of each group.

    Raises RecipeError, with a problem for every row that no image can serve or that needs organ masks which
    its images do not have.
    """

    def __init__(self, recipe: Recipe, folder: ImageFolder) -> None:
        source = recipe.anatomy.source
        assert isinstance(source, ImagesSource), "images come from a folder of images"
        self._shuffled = source.images.order == "shuffled"
        self.rows = tuple(
            tuple(number for number, image in enumerate(folder.images) if _usable(row, image))
            for row in recipe.findings
        )
        self._permutation = lru_cache(_KEPT)(
            lambda row, turn: stream(recipe.seed, turn, 0, "films", row).permutation(len(self.rows[row]))
        )
        problems = [
            problem
            for i, row in enumerate(recipe.findings)
            for problem in _problems(i, row, [folder.images[number] for number in self.rows[i]])
        ]
        if problems:
            raise RecipeError("recipe", problems)

    def image(self, row: int, index: int) -> int:
        """The number in the folder of a group's image."""
        images = self.rows[row]
        turn, place = divmod(index, len(images))
        return images[int(self._permutation(row, turn)[place]) if self._shuffled else place]


def _usable(row: FindingRow, image: RealImage) -> bool:
    """Whether the image has what the row's edit is about, and is healthy where the row asks for that."""
    if row.images == "healthy" and (NO_FINDING not in image.row.labels or image.own):
        return False
    edit = row.edit
    if edit is None:
        return True
    own = {box.name for box in image.own}
    wanted = edit.uses_own and not any(edit.removes(name) for name in own)
    return not wanted and (edit.add is None or any(edit.adds(place.name) for place in image.places))


def _problems(i: int, row: FindingRow, images: list[RealImage]) -> list[Problem]:
    if not images:
        return [_none_usable(i, row)]
    bare = sum(not image.row.mask for image in images)
    keys = _drawing(row)
    if not bare or not keys:
        return []
    return [
        Problem(
            f"findings[{i}].{key}",
            f"{bare} of {len(images)} images have no organ mask",
            "one for each image: places are drawn in its lungs",
            "make masks with xreal-synth prepare, give a fixed box, or take these images out",
        )
        for key in keys
    ]


def _none_usable(i: int, row: FindingRow) -> Problem:
    if row.edit is None:
        return Problem(
            f"findings[{i}].images", "no image is labelled No Finding and has no box", "one at least",
            "take images: any, or add a labels column to manifest.csv",
        )  # fmt: skip
    healthy = " that is labelled No Finding" if row.images == "healthy" else ""
    return Problem(
        f"findings[{i}].edit", f"no image{healthy} has a box of such a finding", "one at least",
        "give anatomy.source.images.boxes (or places), or name other findings",
    )  # fmt: skip


def _drawing(row: FindingRow) -> list[str]:
    """The row's keys that need an organ mask: all but fixed boxes."""
    keys = [
        f"{path}[{number}]" for path, labels in row.kinds for number, label in enumerate(labels) if label.box is None
    ]
    return [*keys, "edit.move"] if row.edit is not None and row.edit.draws else keys
