"""The films of a source one after another, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from xreal_synth.errors import DatasetError
from xreal_synth.export.source import Source, read_shards
from xreal_synth.shards.summary import Tally
from xreal_synth.shards.tar import TarSample
from xreal_synth.types import ShardRecord

OnFilm = Callable[[int, int], None]
"""Called with films done and films in all."""


@dataclass(slots=True)
class Counted:
    """What has been exported: films, films by split, and the tally of their tables."""

    films: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    def shard(self, record: ShardRecord, table: Any) -> None:
        self.tally.count(record)
        self.tally.add(table)

    def film(self, split: str) -> None:
        self.films += 1
        self.splits[split] = self.splits.get(split, 0) + 1


def each_film(source: Source, counted: Counted, on_film: OnFilm) -> Iterator[TarSample]:
    """Every film of every sound shard; raises DatasetError if there turns out to be none."""
    for record, table, films in read_shards(source):
        counted.shard(record, table)
        for film in films:
            yield film
            counted.film(film.sample.split)
            on_film(counted.films, source.films)
    if not counted.films:
        none = "all are excluded (excluded.csv)" if source.excluded else "every group was dropped"
        reason = str(source.skipped[0]) if source.skipped else none
        raise DatasetError(
            where=source.store.uri,
            found=f"no film to export: {reason}",
            mend="run xreal-synth verify to see what is wrong",
        )
