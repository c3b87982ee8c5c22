"""Which films a step sees, and random numbers that do not depend on how its batch is split.

A batch may be computed in parts: one after another on one device (loop.accumulate), or at once by several
workers. Every part draws the random numbers of the whole batch from a generator of its own with the step's
seed, and keeps those of its films.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """Films `first` to `first + count` of a batch of `whole` films."""

    first: int
    count: int
    whole: int

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + self.count)

    @property
    def share(self) -> float:
        """Its weight in a mean over the batch's films."""
        return self.count / self.whole

    def uniform(self, *shape: int, generator: torch.Generator) -> Tensor:
        """[count, *shape] in [0, 1)."""
        return torch.rand(self.whole, *shape, generator=generator)[self.rows]

    def normal(self, *shape: int, generator: torch.Generator) -> Tensor:
        """[count, *shape], standard normal."""
        return torch.randn(self.whole, *shape, generator=generator)[self.rows]

    def integers(self, below: int, *shape: int, generator: torch.Generator) -> Tensor:
        """[count, *shape] int64 in 0..below-1."""
        return torch.randint(below, (self.whole, *shape), generator=generator)[self.rows]


def whole(films: int) -> Part:
    """A batch that is not split."""
    return Part(0, films, films)


def split(films: int, parts: int) -> list[Part]:
    """A batch in `parts` runs of films, as even as may be; none is empty, so there may be fewer."""
    small, more = divmod(films, parts)
    counts = [small + (n < more) for n in range(min(parts, films))]
    return [Part(sum(counts[:n]), count, films) for n, count in enumerate(counts)]


def weighted_draw(weights: Tensor, batch: int, seed: int, step: int) -> Tensor:
    """Which images step `step` sees [batch]: each drawn with a chance in proportion to its weight [N]."""
    return torch.multinomial(weights, batch, replacement=True, generator=generator_for(seed, "order", step))


def generator_for(seed: int, purpose: str, step: int) -> torch.Generator:
    """A generator of its own for each purpose and step."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def film_order(films: int, batch: int, seed: int, step: int) -> Tensor:
    """Which films step `step` sees [batch]: every film once per pass, each pass in an order of its own."""
    places = range(step * batch, (step + 1) * batch)
    passes = sorted({place // films for place in places})
    orders = {n: torch.randperm(films, generator=generator_for(seed, "order", n)) for n in passes}
    return torch.stack([orders[place // films][place % films] for place in places])
