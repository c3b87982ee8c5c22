"""A dataset's films for the evaluation: which shards, which findings they were asked for, one film after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from xreal_synth.errors import DatasetError
from xreal_synth.export.source import Source, open_source, read_shards, shard_table
from xreal_synth.shards.acceptance import GateTally
from xreal_synth.shards.names import record_key
from xreal_synth.storage import open_store
from xreal_synth.types import Sample

if TYPE_CHECKING:
    from xreal_synth.evaluation.dataset_figures import Gate


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """The shards that are read: all, or as many whole ones in a random order as give the films wanted.

    `films` are those that will be read, `size` their side in pixels, `unfinished` the shards that no run has
    finished, in words.
    """

    source: Source
    films: int
    films_in_all: int
    size: int
    asked: frozenset[str]
    unfinished: tuple[str, ...]

    @property
    def control(self) -> str:
        """What made the films follow their masks: xreal, controlnet, none; "images" for edited real films."""
        if self.source.head.real_films:
            return "images"
        sampling = self.source.head.settings.get("sampling")
        return str(sampling.get("control") or "xreal") if isinstance(sampling, dict) else "xreal"

    @property
    def gate(self) -> Gate | None:
        """What the gate did in these shards, None where there was none."""
        from xreal_synth.evaluation.dataset_figures import Gate

        tally = GateTally()
        for record in self.source.records:
            tally.add(record.gate)
        groups = sum(record.groups for record in self.source.records)
        return None if tally.total is None else Gate(tally.total, groups)

    def samples(self) -> Iterator[Sample]:
        """Every film, `films` of them at most; raises DatasetError at the first shard that is damaged."""
        given = 0
        for _, _, films in read_shards(self.source):
            _refuse_damage(self.source)
            for film in films:
                if given == self.films:
                    return
                given += 1
                yield film.sample
        _refuse_damage(self.source)


def choose(uri: str, most: int) -> Chosen:
    """Opens the dataset at a folder or URI; of more than `most` films reads some shards only.

    Raises DatasetError where there is no dataset, no finished shard, a damaged one, or films of several sizes.
    """
    source = open_source(open_store(uri))
    unfinished = _unfinished(source)
    records = source.records
    if source.films > most:
        order = np.random.default_rng(0).permutation(len(records))
        enough = int(np.searchsorted(np.cumsum([records[at].samples for at in order]), most)) + 1
        records = tuple(records[at] for at in sorted(order[:enough]))
    chosen = replace(source, records=records)
    sizes, asked = _sizes_and_findings(chosen)
    return Chosen(
        source=chosen,
        films=min(most, chosen.films),
        films_in_all=source.films,
        size=_one_size(sizes, source.store.uri),
        asked=frozenset(asked),
        unfinished=tuple(unfinished),
    )


def _unfinished(source: Source) -> list[str]:
    """Shards left out because no run has finished them; raises DatasetError where one is damaged instead."""
    told = []
    for skipped in source.skipped:
        if source.store.exists(record_key(skipped.shard)):
            raise _damaged(source, str(skipped))
        told.append(skipped.shard)
    source.skipped.clear()
    return told


def _sizes_and_findings(source: Source) -> tuple[set[tuple[int, int]], set[str]]:
    sizes: set[tuple[int, int]] = set()
    asked: set[str] = set()
    for record in source.records:
        table = shard_table(source, record)
        _refuse_damage(source)
        sizes.update(zip(_column(table, "height"), _column(table, "width"), strict=True))
        for findings in _column(table, "findings"):
            asked.update(finding["name"] for finding in findings)
    return sizes, asked


def _column(table: Any, name: str) -> Sequence[Any]:
    values: list[Any] = table.column(name).to_pylist()
    return values


def _one_size(sizes: set[tuple[int, int]], where: str) -> int:
    if len(sizes) == 1 and len(set(next(iter(sizes)))) == 1:
        return next(iter(sizes))[0]
    told = ", ".join(f"{width} x {height}" for height, width in sorted(sizes)) or "no film"
    raise DatasetError(
        where=where,
        found=f"films of {told}",
        wanted="square films of one size, made by one recipe",
        mend="run xreal-synth verify",
    )


def _refuse_damage(source: Source) -> None:
    if source.skipped:
        raise _damaged(source, str(source.skipped[0]))


def _damaged(source: Source, told: str) -> DatasetError:
    return DatasetError(
        where=source.store.uri,
        found=told,
        wanted="shards that are what their records say: figures of what is left would be of another dataset",
        mend="run xreal-synth verify to see what is wrong, and generate again to make it anew",
    )
