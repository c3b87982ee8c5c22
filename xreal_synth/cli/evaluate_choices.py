"""`xreal-synth evaluate choices`: the main figures over a grid of settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from xreal_synth.cli.evaluate_common import (
    BundleOption,
    DataOption,
    EvaluatorsOption,
    MicroBatchOption,
    Precision,
    PrecisionOption,
    SamplingSetOption,
    SeedOption,
    SplitOption,
    ThreadsOption,
    TrainSplitOption,
    bars,
    grid_from,
    sampling_from,
)
from xreal_synth.cli.options import JsonOption, console, examples, print_json


def register(group: typer.Typer) -> None:
    group.command(
        epilog=examples(
            "xreal-synth evaluate choices --data images/ -n 16 --grid hold=0.3,0.5,0.7 --grid guidance=2,4,7 "
            "--out runs/choices",
            "xreal-synth evaluate choices --data images/ --grid bundle=xreal-mini,my-bundle --grid steps=25,50 "
            "--cross --out runs/bundles",
        )
    )(choices)


def choices(
    data: DataOption,
    grid: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE,VALUE",
            help="Values of a key of `sampling`, or of `bundle`; may be repeated.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="A folder a cell, and the table; run again to go on.", show_default=False)
    ],
    bundle: BundleOption = "xreal-mini",
    count: Annotated[int, typer.Option("-n", min=3, help="Images a cell.")] = 16,
    split: SplitOption = "val",
    train_split: TrainSplitOption = "train",
    seed: SeedOption = 0,
    overrides: SamplingSetOption = None,
    cross: Annotated[
        bool, typer.Option("--cross", help="Every combination, not one setting at a time.")
    ] = False,
    evaluators: EvaluatorsOption = None,
    precision: PrecisionOption = Precision.auto,
    micro_batch: MicroBatchOption = 4,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """What a setting changes: `evaluate bundle` on each cell of a grid, as one table."""
    import torch

    from xreal_synth.evaluation.choices import (
        COLUMNS,
        NOTE,
        cells_of,
        evaluate_choices,
        table_rows,
        write_table,
    )
    from xreal_synth.evaluation.evaluators import load_evaluators
    from xreal_synth.evaluation.kept import null_for_nan
    from xreal_synth.evaluation.request import Request

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = Request(bundle, data, split, count, seed, sampling_from(overrides), precision.value, micro_batch)
    cells = cells_of(base, grid_from(grid), cross=cross)
    loaded = load_evaluators(evaluators, device)
    rows = []
    with bars() as report:
        for row in evaluate_choices(cells, loaded, train_split, out, report):
            rows.append(row)
            write_table(rows, out)
    if as_json:
        print_json(null_for_nan([{"cell": row.cell.name, **row.main()} for row in rows]))
        return
    table = Table(Column("choice", no_wrap=True), *(Column(name, justify="right") for name in COLUMNS))
    for cells_of_row in table_rows(rows):
        table.add_row(*cells_of_row)
    console.print(table)
    console.print(NOTE)
    console.print(f"{out / 'choices.md'}, {out / 'choices.json'}")
