"""The plan of a recipe: group index -> everything that is drawn for it, in constant time.

Nothing is listed ahead: a recipe of a billion groups plans as fast as one of ten. Every draw comes from a
stream of its own, keyed by seed, index, attempt and purpose, so that no draw depends on another group, on
the order of work or on `anatomies`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from xreal_synth.anatomy.regions import region_mask
from xreal_synth.anatomy.sources import AnatomySource, BankSource
from xreal_synth.errors import AnatomyError, PlacementError, XrealError
from xreal_synth.findings import HEART_FINDING
from xreal_synth.images.folder import ImageFolder
from xreal_synth.planning.chest import Chest, Ground
from xreal_synth.planning.own_boxes import edited, source_of
from xreal_synth.planning.placement import place_apart
from xreal_synth.planning.prior import Prior
from xreal_synth.planning.proportions import ImageOrder, Sequences
from xreal_synth.recipe.schema import Recipe
from xreal_synth.seeds import stream
from xreal_synth.types import (
    GreyImage,
    MemberSpec,
    PlacedFinding,
    Role,
    SampleSpec,
    ShardPlan,
    SourceImage,
    Split,
    sample_key,
)


@dataclass(frozen=True, slots=True)
class Geometry:
    """A bundle's picture: `image_size` pixels square, latents `factor` times smaller; images are delivered at
    `delivered_size` (their own size if it is 0)."""

    image_size: int
    factor: int
    delivered_size: int = 0


class Plan:
    """The plan of a recipe: what is drawn for each group.

    A source of real images gives each group one image, which stays the same in all attempts at it. Raises
    RecipeError if a findings row cannot use any of them.
    """

    def __init__(self, recipe: Recipe, geometry: Geometry, source: AnatomySource | ImageFolder, prior: Prior) -> None:
        self.recipe = recipe
        self.geometry = geometry
        self.source = source
        self.prior = prior
        self._images = ImageOrder(recipe, source) if isinstance(source, ImageFolder) else None
        self._sequences = Sequences(recipe)

    @property
    def on_images(self) -> bool:
        """Whether real images are edited."""
        return self._images is not None

    @property
    def fits_hearts(self) -> bool:
        """Whether hearts are drawn by what a row shows: those of the bank are, a user's own masks are left."""
        return isinstance(self.source, BankSource)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing of the source, and no mistake."""
        return self.source.notes if isinstance(self.source, ImageFolder) else ()

    @property
    def shard_count(self) -> int:
        """Shards of the dataset; the last may have fewer groups."""
        return -(-self.recipe.anatomies // self.recipe.output.shard_size)

    @cached_property
    def attempts(self) -> range:
        """Attempts at a group: the first half share anatomy and boxes, the others draw new ones each."""
        return range(2 * self.recipe.quality.max_attempts)

    def shard(self, k: int) -> ShardPlan:
        """Shard k, 0 <= k < shard_count; the last may be shorter."""
        assert 0 <= k < self.shard_count, k
        start = k * self.recipe.output.shard_size
        stop = min(start + self.recipe.output.shard_size, self.recipe.anatomies)
        return ShardPlan(self.recipe.name, k, start, stop)

    def row(self, index: int) -> int:
        """The findings row of a group; the same whatever `anatomies` is."""
        return self._sequences.row(index)

    def sham(self, index: int) -> bool:
        """Whether a group delivers a sham; the same whatever `anatomies` is."""
        return self._sequences.sham(index)

    def split(self, index: int) -> Split:
        """The split of a group, by a hash of its index and the seed; of a real image, by one of its patient."""
        shares = self.recipe.split
        if shares.val == 0 and shares.test == 0:
            return "train"
        if isinstance(self.source, ImageFolder):
            patient = self.source.images[self._image(index, self.row(index))].patient
            drawn = stream(self.recipe.seed, 0, 0, "split", patient).random()
        else:
            drawn = stream(self.recipe.seed, index, 0, "split").random()
        return "test" if drawn < shares.test else "val" if drawn < shares.test + shares.val else "train"

    def epoch(self, attempt: int) -> int:
        """Which draw of anatomy and boxes an attempt uses: 0 for the first max_attempts, then its own."""
        assert attempt in self.attempts, attempt
        return 0 if attempt < self.recipe.quality.max_attempts else attempt

    def chest(self, index: int, epoch: int, row: int) -> Chest:
        """What a group's findings are placed on, as a group of that row. Raises AnatomyError, for a real image
        PlacementError.

        Of real images the row decides which one it is, of anatomies from the bank the heart's size; masks are the
        same for every row.
        """
        size = self.geometry.image_size
        if not isinstance(self.source, ImageFolder):
            rng = stream(self.recipe.seed, index, epoch, "anatomy")
            if isinstance(self.source, BankSource):
                shown = self.recipe.findings[row].names if self.recipe.anatomy.by_finding else ()
                large = self.large_heart(row)
                return Chest(*self.source.draw(rng, size, large_heart=large, findings=shown))
            return Chest(*self.source.draw(rng, size))
        number = self._image(index, row)
        with _unplaced(AnatomyError):
            image, mask = self.source.images[number], self.source.mask(number, size)
        bare = np.zeros((size, size), dtype=np.uint8)
        return Chest(bare if mask is None else mask, image.id, mask is not None, image, number)

    def large_heart(self, row: int) -> bool:
        """Whether a row's anatomies show a heart of Cardiomegaly: one of its images is asked to."""
        return HEART_FINDING in self.recipe.findings[row].names

    def sample(self, index: int, attempt: int) -> SampleSpec:
        """All that is drawn for a group at this attempt.

        Raises PlacementError where a finding does not fit the anatomy or a real image cannot be used,
        AnatomyError where the source gives no valid anatomy.
        """
        row, epoch = self.row(index), self.epoch(attempt)
        chest = self.chest(index, epoch, row)
        image, large = self._pixels(chest)
        members = tuple(self._members(index, epoch, row, chest))
        placed = dict.fromkeys(one for member in members for one in (*member.findings, *member.sham))
        return SampleSpec(
            index=index,
            attempt=attempt,
            row=row,
            split=self.split(index),
            anatomy=chest.anatomy,
            anatomy_id=chest.id,
            ctr=chest.ctr,
            members=members,
            image=image,
            large=large,
            regions={one: region_mask(one, chest.anatomy) for one in placed},
        )

    def source_image(self, chest: Chest, row: int | None = None) -> SourceImage | None:
        """What is recorded of a real image; with a row, as the row's edit leaves it."""
        if chest.image is None:
            return None
        edit = None if row is None else self.recipe.findings[row].edit
        return source_of(chest.image, edit, factor=self.geometry.factor, size=self.geometry.image_size)

    def place_row(self, row: int, chest: Chest, index: int, epoch: int, variant: int) -> tuple[PlacedFinding, ...]:
        """A row's findings on a chest, for one variant, in the order in which they are painted.

        A row with several kinds of variants has them in turn. Raises PlacementError with `where` = the label's
        path in the recipe.
        """
        member, kinds = Role.variant.member(variant), self.recipe.findings[row].kinds
        path, labels = kinds[variant % len(kinds)]
        placement = self.recipe.placement
        ground = Ground(chest, self.prior, self.geometry.factor, placement.min_overlap)

        def draw(*what: str | int) -> np.random.Generator:
            return stream(self.recipe.seed, index, epoch, "boxes", member, *what)

        placed: tuple[PlacedFinding, ...] = ()
        edit, source = self.recipe.findings[row].edit, self.source_image(chest, row)
        if edit is not None and source is not None:
            with _unplaced(PlacementError, f"findings[{row}].edit"):
                placed = edited(edit, source, ground, draw)
        for number, label in enumerate(labels):
            with _unplaced(PlacementError, f"findings[{row}].{path}[{number}]" + (".box" if label.box else "")):
                placed += (place_apart(label, ground, draw(number), placed, placement.overlap or "avoid"),)
        return placed

    def _negative(self, index: int, epoch: int, chest: Chest) -> tuple[PlacedFinding, ...]:
        """Where a group without findings is painted on: as the first variant of another row would be, which is drawn by
        the rows' weights."""
        rows = self.recipe.findings
        weights = np.array([row.weight * self.recipe.takes_sham(row) for row in rows], float)
        drawn = stream(self.recipe.seed, index, epoch, "negatives").random() * weights.sum()
        row = int(np.searchsorted(weights.cumsum(), drawn, side="right"))
        return self.place_row(row, chest, index, epoch, 0)

    def _image(self, index: int, row: int) -> int:
        assert self._images is not None, "only real images have numbers"
        return self._images.image(row, index)

    def _pixels(self, chest: Chest) -> tuple[GreyImage | None, GreyImage | None]:
        """A real image at the size at which it is edited, and at that of delivery where it is another."""
        if not isinstance(self.source, ImageFolder):
            return None, None
        size, large = self.geometry.image_size, self.geometry.delivered_size
        with _unplaced(AnatomyError):
            image = self.source.image(chest.number, size)
            return image, None if large in (0, size) else self.source.image(chest.number, large)

    def _members(self, index: int, epoch: int, row: int, chest: Chest) -> list[MemberSpec]:
        """The images to deliver: the twin first, if it is asked for or all that the row has, the sham last."""
        pairs, asked = self.recipe.pairs, self.recipe.findings[row]
        as_it_is, edited_negative = self.source_image(chest), self.recipe.edits_negative(asked)

        def member(
            name: str, source: SourceImage | None, findings: tuple[PlacedFinding, ...] = (),
            sham: tuple[PlacedFinding, ...] = (),
        ) -> MemberSpec:  # fmt: skip
            return MemberSpec(sample_key(index, name), name, findings, source, sham)

        untouched = pairs.twin or not (asked.paints or edited_negative)
        members = [member(Role.healthy.member(), as_it_is)] if untouched else []
        if edited_negative:
            members.append(member(Role.sham.member(), as_it_is, sham=self._negative(index, epoch, chest)))
        for variant in range(pairs.variants * len(asked.kinds) if asked.paints else 0):
            placed = self.place_row(row, chest, index, epoch, variant)
            members.append(member(Role.variant.member(variant), self.source_image(chest, row), placed))
        if self.sham(index):
            first = next(one.findings for one in members if one.name == Role.variant.member())
            members.append(member(Role.sham.member(), as_it_is, sham=first))
        return members


@contextmanager
def _unplaced(kind: type[XrealError], where: str = "") -> Iterator[None]:
    """An error of this kind as a PlacementError, at that path of the recipe."""
    try:
        yield
    except kind as error:
        raise PlacementError(
            found=error.found, wanted=error.wanted, hint=error.hint, where=where or error.where
        ) from error
