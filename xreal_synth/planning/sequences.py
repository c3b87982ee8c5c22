"""Rows and shams of groups: exact shares within every shard, in constant time.

A shard's rows are one RowSequence; the groups of a row are told apart by another, in the order in which they
come. So in every prefix of a shard each row is within one group of its share, and the shams of each row within
one of `pairs.sham` of its groups.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from xreal_synth.planning.proportions import RowSequence
from xreal_synth.recipe.edits import ImagesSource
from xreal_synth.recipe.schema import Recipe
from xreal_synth.seeds import stream

_KEPT_SHARDS: Final = 8


class Sequences:
    """The rows and the shams of a recipe's groups."""

    def __init__(self, recipe: Recipe) -> None:
        self._seed, self._size = recipe.seed, recipe.output.shard_size
        self._weights = [row.weight for row in recipe.findings]
        on_images = isinstance(recipe.anatomy.source, ImagesSource)
        share = recipe.pairs.sham
        self._shares = [share if row.takes_sham(on_images=on_images) else 0.0 for row in recipe.findings]
        self._rows = _Kept(_KEPT_SHARDS)
        self._shams = _Kept(_KEPT_SHARDS * len(recipe.findings))

    def row(self, index: int) -> int:
        """The findings row of a group."""
        k, slot = divmod(index, self._size)
        return self._sequence(k).row(slot)

    def sham(self, index: int) -> bool:
        """Whether a group has a sham."""
        k, slot = divmod(index, self._size)
        rows = self._sequence(k)
        row = rows.row(slot)
        share = self._shares[row]
        if share in (0.0, 1.0):
            return share == 1.0

        def make() -> RowSequence:
            return RowSequence([share, 1 - share], self._size, stream(self._seed, k, 0, "shams", row))

        return self._shams.get((k, row), make).row(rows.turn(slot)) == 0

    def _sequence(self, k: int) -> RowSequence:
        def make() -> RowSequence:
            return RowSequence(self._weights, self._size, stream(self._seed, k, 0, "rows"))

        return self._rows.get((k,), make)


class _Kept:
    """The sequences used last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[tuple[int, ...], RowSequence] = OrderedDict()

    def get(self, key: tuple[int, ...], make: Callable[[], RowSequence]) -> RowSequence:
        found = self._held.get(key)
        if found is None:
            found = self._held[key] = make()
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        return found
