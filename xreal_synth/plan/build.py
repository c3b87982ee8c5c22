"""The plan of a recipe: group index -> everything that is drawn for it, in constant time.

Nothing is listed ahead: a recipe of a billion groups plans as fast as one of ten. Every draw comes from a
stream of its own, keyed by seed, index, attempt and purpose, so that no draw depends on another group, on
the order of work or on `samples`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from xreal_synth.anatomy.measure import cardiothoracic_ratio
from xreal_synth.anatomy.sources import AnatomySource
from xreal_synth.errors import PlacementError
from xreal_synth.plan.placement import place
from xreal_synth.plan.prior import Prior
from xreal_synth.plan.proportions import RowSequence
from xreal_synth.recipe.schema import FindingLabel, Recipe
from xreal_synth.seeds import stream
from xreal_synth.types import Mask, MemberSpec, PlacedFinding, SampleSpec, ShardPlan, Split

_KEPT_SEQUENCES: Final = 8
_APART_TRIES: Final = 8
_MOST_COVERED: Final = 0.5


@dataclass(frozen=True, slots=True)
class Geometry:
    """A bundle's picture: `image_size` pixels square, latents `factor` times smaller."""

    image_size: int
    factor: int


class Plan:
    """What is drawn for each group of a recipe."""

    def __init__(self, recipe: Recipe, geometry: Geometry, source: AnatomySource, prior: Prior) -> None:
        self.recipe = recipe
        self.geometry = geometry
        self.source = source
        self.prior = prior
        self._sequences: OrderedDict[int, RowSequence] = OrderedDict()

    @property
    def shard_count(self) -> int:
        return -(-self.recipe.samples // self.recipe.output.shard_size)

    @cached_property
    def attempts(self) -> range:
        """Attempts at a group: the first half share anatomy and boxes, the others draw new ones each."""
        return range(2 * self.recipe.quality.max_attempts)

    def shard(self, k: int) -> ShardPlan:
        """Shard k, 0 <= k < shard_count; the last may be shorter."""
        assert 0 <= k < self.shard_count, k
        start = k * self.recipe.output.shard_size
        stop = min(start + self.recipe.output.shard_size, self.recipe.samples)
        return ShardPlan(self.recipe.name, k, start, stop)

    def row(self, index: int) -> int:
        """The findings row of a group; the same whatever `samples` is."""
        k, slot = divmod(index, self.recipe.output.shard_size)
        sequence = self._sequences.get(k)
        if sequence is None:
            weights = [row.weight for row in self.recipe.findings]
            rng = stream(self.recipe.seed, k, 0, "rows")
            sequence = RowSequence(weights, self.recipe.output.shard_size, rng)
            self._sequences[k] = sequence
            if len(self._sequences) > _KEPT_SEQUENCES:
                self._sequences.popitem(last=False)
        return sequence.row(slot)

    def split(self, index: int) -> Split:
        """The split of a group, by a hash of its index and the seed."""
        shares = self.recipe.split
        if shares.val == 0 and shares.test == 0:
            return "train"
        drawn = stream(self.recipe.seed, index, 0, "split").random()
        return "test" if drawn < shares.test else "val" if drawn < shares.test + shares.val else "train"

    def epoch(self, attempt: int) -> int:
        """Which draw of anatomy and boxes an attempt uses: 0 for the first max_attempts, then its own."""
        assert attempt in self.attempts, attempt
        return 0 if attempt < self.recipe.quality.max_attempts else attempt

    def anatomy(self, index: int, epoch: int) -> tuple[Mask, str]:
        """A group's organ mask uint8 [H, W] and where it came from. Raises AnatomyError."""
        return self.source.draw(stream(self.recipe.seed, index, epoch, "anatomy"), self.geometry.image_size)

    def sample(self, index: int, attempt: int) -> SampleSpec:
        """All that is drawn for a group at this attempt.

        Raises PlacementError where a finding does not fit the anatomy, AnatomyError where the source
        gives no valid one.
        """
        row, epoch = self.row(index), self.epoch(attempt)
        anatomy, anatomy_id = self.anatomy(index, epoch)
        return SampleSpec(
            index=index,
            attempt=attempt,
            row=row,
            split=self.split(index),
            anatomy=anatomy,
            anatomy_id=anatomy_id,
            ctr=cardiothoracic_ratio(anatomy),
            members=tuple(self._members(index, epoch, row, anatomy)),
        )

    def place_row(
        self, row: int, anatomy: Mask, index: int, epoch: int, member: str
    ) -> tuple[PlacedFinding, ...]:
        """A row's findings on an anatomy, for one member.

        Raises PlacementError with `where` = the label's path in the recipe.
        """
        placed: tuple[PlacedFinding, ...] = ()
        for number, label in enumerate(self.recipe.findings[row].labels):
            rng = stream(self.recipe.seed, index, epoch, "boxes", member, number)
            try:
                placed += (self._place_apart(label, anatomy, rng, placed),)
            except PlacementError as error:
                where = f"findings[{row}].labels[{number}]" + (".box" if label.box else "")
                raise PlacementError(
                    found=error.found, wanted=error.wanted, mend=error.mend, where=where
                ) from error
        return placed

    def _members(self, index: int, epoch: int, row: int, anatomy: Mask) -> list[MemberSpec]:
        """The films to deliver: the twin first, if it is asked for or all that the row has."""
        pairs = self.recipe.pairs
        findings = bool(self.recipe.findings[row].labels)
        members = [_member(index, "h", ())] if pairs.twin or not findings else []
        for variant in range(pairs.variants if findings else 0):
            name = f"v{variant}"
            members.append(_member(index, name, self.place_row(row, anatomy, index, epoch, name)))
        return members

    def _place_apart(
        self, label: FindingLabel, anatomy: Mask, rng: np.random.Generator, before: tuple[PlacedFinding, ...]
    ) -> PlacedFinding:
        """Places a label; a drawn box that would cover most of an earlier one's is drawn again.

        The later finding is painted over the earlier, which would else be labelled but not to be seen.
        After a few tries the box that covers least is taken.
        """
        best, least = None, np.inf
        for _ in range(_APART_TRIES if before and label.box is None else 1):
            placed = place(
                label,
                anatomy,
                rng,
                self.prior,
                factor=self.geometry.factor,
                min_overlap=self.recipe.placement.min_overlap,
            )
            covered = max((_covered(earlier, placed) for earlier in before), default=0.0)
            if covered < least:
                best, least = placed, covered
            if covered <= _MOST_COVERED or placed.region != "box":
                break
        assert best is not None
        return best


def _member(index: int, name: str, findings: tuple[PlacedFinding, ...]) -> MemberSpec:
    return MemberSpec(f"{index:010d}-{name}", name, findings)


def _covered(earlier: PlacedFinding, later: PlacedFinding) -> float:
    """Share of the earlier finding's boxes that the later one's cover."""
    if earlier.region != "box" or later.region != "box":
        return 0.0
    area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in earlier.boxes)
    shared = 0
    for a in earlier.boxes:
        for b in later.boxes:
            width = min(a[2], b[2]) - max(a[0], b[0])
            height = min(a[3], b[3]) - max(a[1], b[1])
            shared += max(0, width) * max(0, height)
    return shared / area
