"""Options of the ways to evaluate a dataset, and its finished shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from xreal_synth.cli.options import notes

if TYPE_CHECKING:
    from xreal_synth.dataset.source import Source

GeneratedArgument = Annotated[
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
        help="Real images: a manifest.csv, or the folder or URI that holds it.",
        show_default=False,
    ),
]


@contextmanager
def made_source(dataset: str) -> Iterator[Source]:
    """The finished shards of a dataset; what is left out of them is told at the end."""
    from xreal_synth.dataset.source import open_source
    from xreal_synth.storage import open_store

    source = open_source(open_store(dataset))
    yield source
    for skipped in source.skipped:
        notes.print(str(skipped), soft_wrap=True)
