"""How many images a recipe gives, before they are counted."""

from __future__ import annotations

from dataclasses import dataclass

from xreal_synth.recipe.edits import ImagesSource
from xreal_synth.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class ImagesPerGroup:
    """Means over the findings rows: images delivered, and images the models make (the twin always; twice each
    where images are upscaled)."""

    delivered: float
    made: float

    def images(self, groups: int) -> int:
        """Delivered images expected of this many groups."""
        return round(groups * self.delivered)

    def share(self, made: float, groups: int) -> float:
        """Delivered images that `made` images of a shard of `groups` groups stand for, about."""
        return min(made, groups * self.made) * self.delivered / self.made


def images_per_group(recipe: Recipe) -> ImagesPerGroup:
    """A group without findings gives its healthy image, or a sham; any other its variants, its twin and sham if asked
    for."""
    real, pairs = isinstance(recipe.anatomy.source, ImagesSource), recipe.pairs
    total = sum(row.weight for row in recipe.findings)
    delivered = made = 0.0
    for row in recipe.findings:
        share = row.weight / total
        edited = pairs.variants * len(row.kinds) + pairs.sham * row.takes_sham(on_images=real)
        negative = recipe.edits_negative(row)
        edited = edited if row.paints else float(negative)
        delivered += share * (edited + pairs.twin if row.paints or negative else 1)
        made += share * (1 + edited)
        if recipe.output.upscale is not None:
            made += share * (edited + (not real))
    return ImagesPerGroup(delivered=delivered, made=made)
