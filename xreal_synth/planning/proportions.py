"""Findings rows, shams and real images of groups: exact proportions, in random order, in constant time.

Row i of share s_i = w_i / sum(w) is a chain of jobs, one per group; job j may stand only in the slots
that overlap [j/s_i, (j+1)/s_i). Giving every slot its share s_i of row i's job is a fractional matching
of jobs to slots; dependent rounding (random alternating steps around cycles, Gandhi et al. 2006) makes
it a matching that keeps every job in its window, so that in every prefix of a shard, of length m, row i stands
within one group of m*s_i, and leaves the chance of row i at any slot at exactly s_i. All arithmetic is in
integers: weights are taken as the exact fractions that their floats are.

A shard's rows are one such sequence; which groups of a row have a sham is another, in the order in which they come.

Row r can use n_r of the real images. Group i shows the image at place i mod n_r of the row's list, in the folder's
order (`listed`) or in a permutation drawn anew for every n_r groups (`shuffled`): a row shows no image twice within
n_r groups that follow one another and begin at a multiple of n_r.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm
from typing import Final

import numpy as np

from xreal_synth.errors import Problem, RecipeError
from xreal_synth.findings import NO_FINDING
from xreal_synth.images.folder import ImageFolder, RealImage
from xreal_synth.recipe.findings import FindingRow, ImagesSource
from xreal_synth.recipe.schema import Recipe
from xreal_synth.seeds import stream

_KEPT_SHARDS: Final = 8
_KEPT_TURNS: Final = 64

_Edges = dict[int, int]


class Sequences:
    """The rows and the shams of a recipe's groups."""

    def __init__(self, recipe: Recipe) -> None:
        self._size = recipe.output.shard_size
        shams = [recipe.sham_share(row) for row in recipe.findings]
        weights = [row.weight for row in recipe.findings]

        def rows(k: int) -> RowSequence:
            return RowSequence(weights, self._size, stream(recipe.seed, k, 0, "rows"))

        def shams_of(k: int, row: int) -> RowSequence:
            rng = stream(recipe.seed, k, 0, "shams", row)
            return RowSequence([shams[row], 1 - shams[row]], self._size, rng)

        self._shares = shams
        self._rows = lru_cache(_KEPT_SHARDS)(rows)
        self._shams = lru_cache(_KEPT_SHARDS * len(weights))(shams_of)

    def row(self, index: int) -> int:
        """The findings row of a group."""
        k, slot = divmod(index, self._size)
        return self._rows(k).row(slot)

    def sham(self, index: int) -> bool:
        """Whether a group has a sham."""
        k, slot = divmod(index, self._size)
        row = self._rows(k).row(slot)
        if self._shares[row] in (0.0, 1.0):
            return self._shares[row] == 1.0
        return self._shams(k, row).row(self._rows(k).turns[slot]) == 0


class RowSequence:
    """Rows of slots 0..n-1, worked out from the left as far as they are asked for.

    Every prefix of length m holds row i strictly within one of m * weights[i] / sum(weights) times; each slot shows
    row i with exactly that chance. Weights are positive and finite. `turns[t]` is how many slots before t have its
    row, once `row(t)` was asked for.

    `slots[t]` maps open jobs to their mass in slot t, `jobs[j]` is the mirror image. A slot or a job
    holds `total` mass in all. Slot n stands for everything after the horizon: what the last job of each
    row does not do within it.
    """

    def __init__(self, weights: Sequence[float], n: int, rng: np.random.Generator) -> None:
        assert min(weights) > 0, weights
        exact = [Fraction(weight) for weight in weights]
        common = lcm(*(weight.denominator for weight in exact))
        whole = [int(weight * common) for weight in exact]
        self.weights = [weight // gcd(*whole) for weight in whole]
        self.n = n
        self.rng = rng
        self.total = sum(self.weights)
        self.room = [0] * len(weights)
        self.job_of = [-1] * len(weights)
        self.slots: list[_Edges] = []
        self.jobs: list[_Edges] = []
        self.row_of: list[int] = []
        self.chosen: list[int] = []
        self.turns: list[int] = []
        self._met = [0] * len(weights)

    def row(self, slot: int) -> int:
        """The row of this slot, 0 <= slot < n."""
        assert 0 <= slot < self.n, slot
        while (settled := len(self.turns)) <= slot:
            if settled == len(self.slots):
                self._lay()
            while self.slots[settled]:
                self._round(self._cycle(settled))
            row = self.chosen[settled]
            assert row >= 0, "a slot without a row"
            self.turns.append(self._met[row])
            self._met[row] += 1
        return self.chosen[slot]

    def _lay(self) -> None:
        """Opens the next slot: `weight` mass of each row's current job, or of two where one ends."""
        slot = len(self.slots)
        self.slots.append({})
        self.chosen.append(-1)
        for row, weight in enumerate(self.weights):
            left = weight if slot < self.n else self.room[row]
            while left:
                if self.room[row] == 0:
                    self.job_of[row] = len(self.jobs)
                    self.jobs.append({})
                    self.row_of.append(row)
                    self.room[row] = self.total
                mass = min(left, self.room[row])
                self._put(self.job_of[row], slot, mass)
                self.room[row] -= mass
                left -= mass

    def _put(self, job: int, slot: int, mass: int) -> None:
        """Sets an edge's mass, and settles it when it is all or nothing."""
        if 0 < mass < self.total:
            self.slots[slot][job] = mass
            self.jobs[job][slot] = mass
            return
        self.slots[slot].pop(job, None)
        self.jobs[job].pop(slot, None)
        if mass:
            self.chosen[slot] = self.row_of[job]

    def _beyond(self, job: int, slot: int) -> int:
        """Another slot in which the job is open, the nearest first; opens slots until there is one."""
        while (end := next((end for end in self.jobs[job] if end != slot), None)) is None:
            assert len(self.slots) <= self.n, "a job with a single open edge"
            self._lay()
        return end

    def _cycle(self, start: int) -> list[tuple[int, int]]:
        """A cycle of open edges as (job, slot) pairs; neighbours alternate between sharing job and slot.

        Every node with an open edge has two or more, since slot and job masses are whole, so a walk that
        never turns back must meet itself.
        """
        path: list[tuple[int, int]] = []
        slots_seen = {start: 0}
        jobs_seen: dict[int, int] = {}
        slot, came_by = start, -1
        while True:
            job = next(end for end in self.slots[slot] if end != came_by)
            path.append((job, slot))
            if job in jobs_seen:
                return path[jobs_seen[job] :]
            slot, came_by = self._beyond(job, slot), job
            jobs_seen[job] = len(path)
            path.append((job, slot))
            if slot in slots_seen:
                return path[slots_seen[slot] :]
            slots_seen[slot] = len(path)

    def _round(self, cycle: list[tuple[int, int]]) -> None:
        """Moves mass around a cycle, up on every second edge, until one edge is all or nothing."""
        ups = [(job, slot, self.jobs[job][slot]) for job, slot in cycle[0::2]]
        downs = [(job, slot, self.jobs[job][slot]) for job, slot in cycle[1::2]]
        rise = min(min(self.total - mass for *_, mass in ups), min(mass for *_, mass in downs))
        fall = min(min(mass for *_, mass in ups), min(self.total - mass for *_, mass in downs))
        change = rise if self.rng.random() < fall / (rise + fall) else -fall
        for job, slot, mass in ups:
            self._put(job, slot, mass + change)
        for job, slot, mass in downs:
            self._put(job, slot, mass - change)


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
        self._permutation = lru_cache(_KEPT_TURNS)(
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


def _problems(i: int, row: FindingRow, images: list[RealImage]) -> Iterator[Problem]:
    """What keeps a row from being made of its images: there are none, or what is drawn needs organ masks."""
    if not images and row.edit is None:
        yield Problem(
            f"findings[{i}].images", "no image is labelled No Finding and has no box", "one at least",
            "take images: any, or add a labels column to manifest.csv",
        )  # fmt: skip
    elif not images:
        healthy = " that is labelled No Finding" if row.images == "healthy" else ""
        yield Problem(
            f"findings[{i}].edit", f"no image{healthy} has a box of such a finding", "one at least",
            "give anatomy.source.images.boxes (or places), or name other findings",
        )  # fmt: skip
    bare = sum(not image.row.mask for image in images)
    drawn = [f"{path}[{n}]" for path, labels in row.kinds for n, label in enumerate(labels) if label.box is None]
    moved = ["edit.move"] if row.edit is not None and row.edit.draws else []
    for key in (*drawn, *moved) if bare else ():
        yield Problem(
            f"findings[{i}].{key}", f"{bare} of {len(images)} images have no organ mask",
            "one for each image: places are drawn in its lungs",
            "make masks with xreal-synth prepare, give a fixed box, or take these images out",
        )  # fmt: skip
