"""`xreal-synth evaluate DATASET`: a finished dataset measured beside real images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from xreal_synth.cli.evaluate_common import EvaluatorsOption, ThreadsOption, bars, machine
from xreal_synth.cli.evaluate_measure import (
    MOST,
    BesideOption,
    InceptionOption,
    MostOption,
    RealSplitOption,
)
from xreal_synth.cli.generated_images import GeneratedArgument, RealOption
from xreal_synth.cli.options import console, examples

NAME = "dataset"


def register(group: typer.Typer) -> None:
    group.command(
        NAME,
        epilog=examples(
            "xreal-synth evaluate out/quickstart --real images/manifest.csv",
            "xreal-synth evaluate out/quickstart --real images/ --inception pt_inception-2015-12-05-6726825d.pth "
            "--json figures.json",
        ),
    )(dataset)


def dataset(
    dataset: GeneratedArgument,
    real: RealOption,
    split: RealSplitOption = "val",
    beside: BesideOption = None,
    count: MostOption = MOST,
    evaluators: EvaluatorsOption = None,
    inception: InceptionOption = None,
    threads: ThreadsOption = 1,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Writes the figures there too; - prints them.", show_default="no"
        ),
    ] = None,
) -> None:
    """A finished dataset's images beside real ones: the paper's figures and more, in all and by finding.

    Writes evaluation.json and evaluation.md into the dataset. Never tune on these figures.
    """
    from xreal_synth.evaluation.dataset import open_bench, open_datasets
    from xreal_synth.evaluation.dataset_record import write
    from xreal_synth.evaluation.kept import json_bytes
    from xreal_synth.storage import LocalStore

    (chosen,) = open_datasets([dataset], count)
    bench = open_bench(real, split, beside, evaluators, inception, threads, machine)
    bench.check(chosen)
    with bars() as report:
        record = bench.measure(chosen, count, report)
    if json_file is not None and str(json_file) != "-":
        path = json_file.expanduser().absolute()
        LocalStore(path.parent).replace(path.name, json_bytes(record))
    store = chosen.source.store
    write(store, record)
    if str(json_file) == "-":
        typer.echo(json_bytes(record).decode(), nl=False)
        return
    show(record)
    console.print(f"{store.uri}/evaluation.json, {store.uri}/evaluation.md")


def show(record: Mapping[str, Any]) -> None:
    """The tables on the terminal."""
    import math

    from xreal_synth.evaluation.dataset_record import NOTES, figure_of, finding_table, overall, summary

    for line in summary(record):
        console.print(line)
    for key, title in (("rows", "all images"), ("rows_unflagged", "without flagged images")):
        rows = record[key]
        if not rows:
            continue
        table = Table(title, "made", "real", "n")
        for row in overall(rows):
            if not math.isnan(row["value"]):
                table.add_row(row["name"], figure_of(row), figure_of(row, "real"), str(row["n"]))
        console.print(table)
        header, cells = finding_table(rows)
        table = Table(*header, title="by finding: made, and real in brackets (intervals: evaluation.md)")
        for made, real in zip(cells[::2], cells[1::2], strict=True):
            table.add_row(made[0], *map(_beside, made[1:], real[1:]))
        console.print(table)
    for note in (*record["notes"], *NOTES):
        console.print(note)


def _beside(made: str, real: str) -> str:
    """`.66 [.54, .77]` and `.72 [.62, .83]` -> `.66 (.72)`."""
    value, other = (text.partition(" ")[0] for text in (made, real))
    return f"{value} ({other})" if value and other else value or other
