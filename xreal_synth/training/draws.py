"""Draws of a step: the images that it sees, and random numbers that do not depend on how its batch is split; and the
random changes that an image and its organ mask go through together.

A batch may be computed in parts: one after another on one device (loop.accumulate), or at once by several
workers. Every part draws the random numbers of the whole batch from a generator of its own with the step's
seed, and keeps those of its images. Shapes: B batch, S stored side, H = W the side asked for.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from xreal_synth.training.settings import WarpSettings


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


KNOTS = 5
"""Knots a side of the elastic field: bends of a quarter of the image and wider."""


def warped_view(
    images_BSS: Tensor,
    label_map_BSS: Tensor,
    size: int,
    warp: WarpSettings,
    generator: torch.Generator,
    part: BatchPart | None = None,
    regions_BKmm: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """uint8 images and codes [B, S, S] -> image [B, 1, H, W] in [0, 1] and codes [B, H, W], warped alike.

    `part` says which images of a larger batch these are (default: all of it). `regions` are uint8 maps of any
    side, 255 inside, which come back warped alike at their side, in [0, 1]. All is computed where the images are.
    """
    part = part or whole(len(images_BSS))
    theta = _random_affine(part, warp, generator).to(images_BSS.device)
    grid = functional.affine_grid(theta, [part.count, 1, size, size], align_corners=False)
    if warp.elastic > 0:
        grid = grid + _random_bend(part, size, warp.elastic, generator, images_BSS.device)
    image, label_map = _seen(images_BSS, label_map_BSS, grid)
    image = _random_tone(image, part, warp, generator)
    if regions_BKmm is None:
        return image, label_map, None
    small = functional.interpolate(grid.movedim(-1, 1), size=regions_BKmm.shape[-2:], mode="area").movedim(1, -1)
    regions = functional.grid_sample(
        regions_BKmm.float() / 255, small, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return image, label_map, regions


def plain_view(images_BSS: Tensor, label_map_BSS: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """uint8 images and codes [B, S, S] -> image [B, 1, H, W] in [0, 1] and codes [B, H, W], only resized."""
    batch = len(images_BSS)
    grid = functional.affine_grid(torch.eye(2, 3).repeat(batch, 1, 1), [batch, 1, size, size], align_corners=False)
    return _seen(images_BSS, label_map_BSS, grid)


def _seen(images_BSS: Tensor, label_map_BSS: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Images and codes at the grid's places: images smoothly, codes by nearest pixel."""
    sample = partial(functional.grid_sample, grid=grid, padding_mode="border", align_corners=False)
    image = sample(images_BSS.float()[:, None] / 255, mode="bicubic").clamp(0, 1)
    return image, sample(label_map_BSS.float()[:, None], mode="nearest")[:, 0].round().long()


def _random_affine(part: BatchPart, warp: WarpSettings, generator: torch.Generator) -> Tensor:
    """[B, 2, 3] maps from output to input coordinates: rotation, scale, shift within the settings."""
    draw = part.uniform(4, generator=generator) * 2 - 1
    angle = draw[:, 0] * math.radians(warp.rotate_deg)
    scale = torch.exp(draw[:, 1] * math.log1p(warp.scale))
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = draw[:, 2:] * 2 * warp.shift
    rows = [torch.stack([cos, -sin, shift[:, 0]], dim=1), torch.stack([sin, cos, shift[:, 1]], dim=1)]
    return torch.stack(rows, dim=1)


def _random_bend(
    part: BatchPart, size: int, largest: float, generator: torch.Generator, device: torch.device
) -> Tensor:
    """[B, H, W, 2] smooth displacements: KNOTS x KNOTS random ones, cubic between them, twice the share."""
    knots = part.uniform(2, KNOTS, KNOTS, generator=generator) * 2 - 1
    field = functional.interpolate(knots.to(device), size=(size, size), mode="bicubic", align_corners=True)
    return field.movedim(1, -1) * 2 * largest


def _random_tone(image_B1HW: Tensor, part: BatchPart, warp: WarpSettings, generator: torch.Generator) -> Tensor:
    draw = torch.rand(3, part.whole, 1, 1, 1, generator=generator)[:, part.rows].to(image_B1HW.device) * 2 - 1
    image = image_B1HW ** torch.exp(draw[0] * warp.gamma)
    image = (image - 0.5) * torch.exp(draw[1] * warp.contrast) + 0.5 + draw[2] * warp.brightness
    return image.clamp(0, 1)
