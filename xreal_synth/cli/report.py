"""`xreal-synth report DATASET`."""

from __future__ import annotations

import typer

from xreal_synth.cli.options import console, examples
from xreal_synth.cli.verify import DatasetArgument


def register(app: typer.Typer) -> None:
    app.command(epilog=examples("xreal-synth report out/quickstart", "xreal-synth report /data/big"))(report)


def report(dataset: DatasetArgument) -> None:
    """Rebuilds samples.parquet, rejected.parquet, index.json, the card and the contact sheet."""
    from xreal_synth.report.build import build
    from xreal_synth.storage import open_store

    with console.status("reading shards"):
        built = build(open_store(dataset))
    for path in built.paths:
        console.print(path, markup=False, soft_wrap=True)
