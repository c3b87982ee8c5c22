"""The findings row of each group of a shard: exact proportions at every prefix, in random order.

Row i of share s_i = w_i / sum(w) is a chain of jobs, one per group; job j may stand only in the slots
that overlap [j/s_i, (j+1)/s_i). Giving every slot its share s_i of row i's job is a fractional matching
of jobs to slots; dependent rounding (random alternating steps around cycles, Gandhi et al. 2006) makes
it a matching that keeps every job in its window, so that in every prefix of length m row i stands
within one group of m*s_i, and leaves the chance of row i at any slot at exactly s_i. All arithmetic is in
integers: weights are taken as the exact fractions that their floats are.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm

import numpy as np

_Edges = dict[int, int]


def row_sequence(weights: Sequence[float], n: int, rng: np.random.Generator) -> list[int]:
    """Rows for slots 0..n-1, uint list of length n.

    Every prefix of length m holds row i strictly within one of m * weights[i] / sum(weights) times;
    each slot shows row i with exactly that chance. Weights are positive and finite.
    """
    assert n >= 0, n
    assert min(weights) > 0, weights
    sequence = RowSequence(weights, n, rng)
    return [sequence.row(slot) for slot in range(n)]


def _integers(weights: Sequence[float]) -> list[int]:
    fractions = [Fraction(weight) for weight in weights]
    common = lcm(*(fraction.denominator for fraction in fractions))
    whole = [fraction.numerator * (common // fraction.denominator) for fraction in fractions]
    divisor = gcd(*whole)
    return [number // divisor for number in whole]


class RowSequence:
    """`row_sequence`, worked out from the left as far as it is asked for.

    `slots[t]` maps open jobs to their mass in slot t, `jobs[j]` is the mirror image. A slot or a job
    holds `total` mass in all. Slot n stands for everything after the horizon: what the last job of each
    row does not do within it.
    """

    def __init__(self, weights: Sequence[float], n: int, rng: np.random.Generator) -> None:
        self.n = n
        self.rng = rng
        self.weights = _integers(weights)
        self.total = sum(self.weights)
        self.room = [0] * len(weights)
        self.job_of = [-1] * len(weights)
        self.slots: list[_Edges] = []
        self.jobs: list[_Edges] = []
        self.row_of: list[int] = []
        self.chosen: list[int] = []
        self.settled = 0
        self.turns: list[int] = []
        self._met = [0] * len(weights)

    def row(self, slot: int) -> int:
        """The row of this slot, 0 <= slot < n."""
        assert 0 <= slot < self.n, slot
        while self.settled <= slot:
            self._lay_to(self.settled)
            while self.slots[self.settled]:
                self._round(self._cycle(self.settled))
            row = self.chosen[self.settled]
            assert row >= 0, "a slot without a row"
            self.turns.append(self._met[row])
            self._met[row] += 1
            self.settled += 1
        return self.chosen[slot]

    def turn(self, slot: int) -> int:
        """How many slots before this one have its row."""
        self.row(slot)
        return self.turns[slot]

    def _lay_to(self, slot: int) -> None:
        while len(self.slots) <= slot:
            self._lay()

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
        while True:
            for end in self.jobs[job]:
                if end != slot:
                    return end
            assert len(self.slots) <= self.n, "a job with a single open edge"
            self._lay()

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
            job = _other(self.slots[slot], came_by)
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


def _other(edges: _Edges, but: int) -> int:
    """A job open in this slot that is not `but`."""
    for end in edges:
        if end != but:
            return end
    raise AssertionError("a slot with a single open edge")
