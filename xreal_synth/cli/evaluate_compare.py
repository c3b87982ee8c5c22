"""`xreal-synth evaluate compare`: datasets side by side, as in the paper's Table I."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from xreal_synth.cli.generated_images import RealOption
from xreal_synth.cli.options import JsonOption, console, examples, print_json

if TYPE_CHECKING:
    from xreal_synth.evaluation.request import Report


def register(group: typer.Typer) -> None:
    group.command(
        epilog=examples(
            "xreal-synth evaluate compare out/xreal out/controlnet out/none --real images/ --out runs/compare",
            "xreal-synth evaluate compare out/mini out/my-bundle --real images/ --split val --json",
        )
    )(compare)


def compare(
    datasets: Annotated[
        list[str],
        typer.Argument(help="Folders or URIs of datasets.", metavar="DATASET..", show_default=False),
    ],
    real: RealOption,
    split: RealSplitOption = "val",
    beside: BesideOption = None,
    count: MostOption = MOST,
    evaluators: EvaluatorsOption = None,
    inception: InceptionOption = None,
    threads: ThreadsOption = 1,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for compare.md and compare.json.", show_default="not written"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Datasets side by side, as in the paper's Table I: other controls, other bundles, with and without a gate.

    A dataset that was evaluated beside the same images by the same networks is not measured again.
    """
    from xreal_synth.evaluation import compare as table
    from xreal_synth.evaluation.dataset import open_bench, open_datasets
    from xreal_synth.evaluation.dataset_record import stored, write
    from xreal_synth.evaluation.kept import json_bytes, null_for_nan
    from xreal_synth.storage import LocalStore

    chosen = open_datasets(datasets, count)
    bench = open_bench(real, split, beside, evaluators, inception, threads, machine)
    for one in chosen:
        bench.check(one)
    records = []
    with bars() as report:
        for one in chosen:
            store = one.source.store
            record = stored(store, bench.identity(one, count))
            if record is None:
                record = bench.measure(one, count, _of(report, store.uri))
                write(store, record)
            records.append(record)
    result = table.as_json(records)
    if out is not None:
        folder = LocalStore(out)
        folder.replace("compare.md", table.markdown(records).encode())
        folder.replace("compare.json", json_bytes(result))
    if as_json:
        print_json(null_for_nan(result))
        return
    header, cells = table.table(records)
    shown = Table("figure", *(row[0] for row in cells))
    for at, name in enumerate(header[1:], start=1):
        shown.add_row(name, *(row[at] for row in cells))
    console.print(shown)
    for line in table.paper_lines():
        console.print(line)
    if out is not None:
        console.print(f"{out / 'compare.md'}, {out / 'compare.json'}")


def _of(report: Report, uri: str) -> Report:
    """The bar of a dataset carries its folder's name; the real images' is shared."""
    name = uri.rpartition("/")[2]
    return lambda what, done, total: report(f"{name}: {what}" if "dataset" in what else what, done, total)
