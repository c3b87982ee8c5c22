"""How many films a recipe gives, before they are counted."""

from __future__ import annotations

from dataclasses import dataclass

from xreal_synth.recipe.edits import ImagesSource
from xreal_synth.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class FilmsPerGroup:
    """Means over the findings rows: films delivered, and films the models make (the twin always; twice each
    where films are upscaled)."""

    delivered: float
    made: float

    def films(self, groups: int) -> int:
        """Delivered films expected of this many groups."""
        return round(groups * self.delivered)

    def share(self, made: float, groups: int) -> float:
        """Delivered films that `made` films of a shard of `groups` groups stand for, about."""
        return min(made, groups * self.made) * self.delivered / self.made


def films_per_group(recipe: Recipe) -> FilmsPerGroup:
    """A group without findings gives its healthy film; any other its variants, and its twin if asked for."""
    total = sum(row.weight for row in recipe.findings)
    sick = sum(row.weight for row in recipe.findings if row.paints) / total
    variants, twin = recipe.pairs.variants, recipe.pairs.twin
    made = 1 + sick * variants
    if recipe.output.upscale is not None:
        real = isinstance(recipe.anatomy.source, ImagesSource)
        made += sick * variants + (not real)
    return FilmsPerGroup(delivered=1 + sick * (variants - 1 + twin), made=made)
