"""Which findings row each group of a shard shows: exact proportions at every prefix, in random order.

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
    assert weights and all(weight > 0 for weight in weights), weights
    whole = _integers(weights)
    if len(whole) == 1:
        return [0] * n
    return _Rounding(whole, n, rng).rows()


def _integers(weights: Sequence[float]) -> list[int]:
    fractions = [Fraction(weight) for weight in weights]
    common = lcm(*(fraction.denominator for fraction in fractions))
    whole = [fraction.numerator * (common // fraction.denominator) for fraction in fractions]
    divisor = gcd(*whole)
    return [number // divisor for number in whole]


class _Rounding:
    """Rounds the fractional matching of jobs to slots.

    `slots[t]` maps open jobs to their mass in slot t, `jobs[j]` is the mirror image. A slot or a job
    holds `total` mass in all. Slot n stands for everything after the horizon: what the last job of each
    row does not do within it.
    """

    def __init__(self, weights: Sequence[int], n: int, rng: np.random.Generator) -> None:
        self.total = sum(weights)
        self.n = n
        self.rng = rng
        self.slots: list[_Edges] = [{} for _ in range(n + 1)]
        self.jobs: list[_Edges] = []
        self.row_of: list[int] = []
        self.chosen = [-1] * n
        for row, weight in enumerate(weights):
            self._lay(row, weight)

    def _lay(self, row: int, weight: int) -> None:
        """Spreads a row's jobs over the slots, `weight` mass to each."""
        room = 0
        for slot in range(self.n):
            left = weight
            while left:
                if room == 0:
                    self.jobs.append({})
                    self.row_of.append(row)
                    room = self.total
                mass = min(left, room)
                self._put(len(self.jobs) - 1, slot, mass)
                room -= mass
                left -= mass
        if room:
            self._put(len(self.jobs) - 1, self.n, room)

    def _put(self, job: int, slot: int, mass: int) -> None:
        """Sets an edge's mass, and settles it when it is all or nothing."""
        if 0 < mass < self.total:
            self.slots[slot][job] = mass
            self.jobs[job][slot] = mass
            return
        self.slots[slot].pop(job, None)
        self.jobs[job].pop(slot, None)
        if mass and slot < self.n:
            self.chosen[slot] = self.row_of[job]

    def rows(self) -> list[int]:
        for slot in range(self.n):
            while self.slots[slot]:
                self._round(self._cycle(slot))
        assert -1 not in self.chosen, "a slot without a row"
        return self.chosen

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
            slot, came_by = _other(self.jobs[job], slot), job
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
    """An end of one of these edges that is not `but`."""
    for end in edges:
        if end != but:
            return end
    raise AssertionError("a node with a single open edge")
