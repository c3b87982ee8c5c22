"""Draws of a step: the images that it sees, and random numbers that do not depend on how its batch is split.

A batch may be computed in parts: one after another on one device (loop.accumulate), or at once by several
workers. Every part draws the random numbers of the whole batch from a generator of its own with the step's
seed, and keeps those of its images.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class BatchPart:
    """Images `first` to `first + count` of a batch of `whole` images."""

    first: int
    count: int
    whole: int

    @property
    def rows(self) -> slice:
        """The part's places in the batch."""
        return slice(self.first, self.first + self.count)

    @property
    def share(self) -> float:
        """Its weight in a mean over the batch's images."""
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


def whole(images: int) -> BatchPart:
    """A batch that is not split."""
    return BatchPart(0, images, images)


def split(images: int, parts: int) -> list[BatchPart]:
    """A batch in `parts` runs of images, as even as may be; none is empty, so there may be fewer."""
    small, more = divmod(images, parts)
    counts = [small + (n < more) for n in range(min(parts, images))]
    return [BatchPart(sum(counts[:n]), count, images) for n, count in enumerate(counts)]


def weighted_draw(weights: Tensor, batch: int, seed: int, step: int) -> Tensor:
    """Which images step `step` sees [batch]: each drawn with a chance in proportion to its weight [N]."""
    return torch.multinomial(weights, batch, replacement=True, generator=generator_for(seed, "order", step))


def generator_for(seed: int, purpose: str, step: int) -> torch.Generator:
    """A generator of its own for each purpose and step."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def image_order(images: int, batch: int, seed: int, step: int) -> Tensor:
    """Which images step `step` sees [batch]: every image once per pass, each pass in an order of its own."""
    places = range(step * batch, (step + 1) * batch)
    passes = sorted({place // images for place in places})
    orders = {n: torch.randperm(images, generator=generator_for(seed, "order", n)) for n in passes}
    return torch.stack([orders[place // images][place % images] for place in places])
