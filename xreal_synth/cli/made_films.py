"""What is read for an evaluation of a dataset: its films, and the real ones of a manifest beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from xreal_synth.cli.options import notes
from xreal_synth.errors import DatasetError, TrainingError

if TYPE_CHECKING:
    from xreal_synth.evaluation.run import Report
    from xreal_synth.export.source import Source
    from xreal_synth.shards.tar import TarSample
    from xreal_synth.storage import Store
    from xreal_synth.types import Film

MadeArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATASET", help="A dataset that was generated: folder or URI.", show_default=False
    ),
]
RealOption = Annotated[
    str,
    typer.Option(
        "--real",
        metavar="MANIFEST",
        help="Real films: a manifest.csv, or the folder or URI that holds it.",
        show_default=False,
    ),
]


def open_real(manifest: str) -> Store:
    """The folder of a manifest.csv; raises TrainingError for another file."""
    from xreal_synth.anatomy.manifest import MANIFEST
    from xreal_synth.storage import open_store

    folder, _, name = manifest.rpartition("/")
    if name == MANIFEST:
        return open_store(folder or ".")
    if name.endswith(".csv"):
        raise TrainingError(
            found=manifest, wanted=f"a file named {MANIFEST}, or its folder", mend=f"name the file {MANIFEST}"
        )
    return open_store(manifest)


@contextmanager
def made_source(dataset: str) -> Iterator[Source]:
    """The finished shards of a dataset; what is left out of them is told at the end."""
    from xreal_synth.export.source import open_source
    from xreal_synth.storage import open_store

    source = open_source(open_store(dataset))
    yield source
    for skipped in source.skipped:
        notes.print(str(skipped), soft_wrap=True)


def check_synthetic(source: Source, why: str) -> None:
    """Raises DatasetError for a dataset of real films, as they are or edited; `why` says what would be wrong."""
    if source.head.real_films:
        raise DatasetError(
            where=source.store.uri,
            found="a dataset of real films, as they are or edited",
            wanted=f"films made from organ masks: {why}",
            mend="give a dataset made with anatomy.source: bank or masks",
        )


def films_named(source: Source, keys: set[str], report: Report, what: str) -> dict[str, Film]:
    """The films of these keys, from the shards that hold them; raises DatasetError where one is not to be had."""
    from xreal_synth.shards.names import parse_key

    shards = {parse_key(key, key)[0] // source.head.shard_samples for key in keys}
    records = tuple(record for record in source.records if record.shard in shards)
    part = replace(source, records=records, skipped=[])
    found = {
        read.sample.meta.key: read.sample.film
        for read in made_films(part, report, what)
        if read.sample.meta.key in keys
    }
    lost = sorted(keys - found.keys())
    if lost:
        raise DatasetError(
            where=source.store.uri,
            found=str(part.skipped[0]) if part.skipped else f"no film {lost[0]}",
            wanted="shards that are what their records say",
            mend="run xreal-synth verify",
        )
    return found


def made_films(source: Source, report: Report, what: str = "reading made films") -> Iterator[TarSample]:
    """Every film of the shards, one in memory at a time."""
    from xreal_synth.export.films import Counted, each_film

    yield from each_film(source, Counted(), lambda done, total: report(what, 1, total))
