"""`xreal-synth evaluate DATASET`, a finished dataset measured beside real images, and `evaluate compare`, several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer import Argument, Option

from xreal_synth.cli import evaluate_common as common
from xreal_synth.cli.options import JsonOption
from xreal_synth.cli.output import console, print_json, print_table, table_of
from xreal_synth.evaluation.cases import Report
from xreal_synth.evaluation.kept import json_bytes
from xreal_synth.storage import LocalStore

EXAMPLES = {
    "dataset": (
        "xreal-synth evaluate out/quickstart --real images/manifest.csv",
        "xreal-synth evaluate out/quickstart --real images/ --inception pt_inception-2015-12-05-6726825d.pth "
        "--json figures.json",
    ),
    "compare": (
        "xreal-synth evaluate compare out/xreal out/controlnet out/none --real images/ --out runs/compare",
        "xreal-synth evaluate compare out/mini out/my-bundle --real images/ --split val --json",
    ),
}


def dataset(
    dataset: common.GeneratedArgument,
    real: common.RealOption,
    split: common.RealSplitOption = "val",
    beside: common.BesideOption = None,
    count: common.MostOption = common.MOST,
    evaluators: common.EvaluatorsOption = None,
    inception: common.InceptionOption = None,
    threads: common.ThreadsOption = 1,
    json_file: Annotated[
        Path | None,
        Option("--json", metavar="FILE", help="Writes the figures there too; - prints them.", show_default="no"),
    ] = None,
) -> None:
    """A finished dataset's images beside real ones: the paper's figures and more, in all and by finding.

    Writes evaluation.json and evaluation.md into the dataset. Never tune on these figures.
    """
    from xreal_synth.evaluation.dataset import open_bench
    from xreal_synth.evaluation.dataset_record import write

    device, machine = common.machine_of(threads)
    bench, (chosen,) = open_bench([dataset], count, (real, split, beside), evaluators, inception, device, machine)
    with common.bars() as report:
        record = bench.measure(chosen, report)
    if json_file is not None and str(json_file) != "-":
        path = json_file.expanduser().absolute()
        LocalStore(path.parent).replace(path.name, json_bytes(record))
    store = chosen.source.store
    write(store, record)
    if str(json_file) == "-":
        typer.echo(json_bytes(record).decode(), nl=False)
        return
    _show(record)
    console.print(f"{store.uri}/evaluation.json, {store.uri}/evaluation.md")


def _show(record: Mapping[str, Any]) -> None:
    """The tables on the terminal."""
    from xreal_synth.evaluation.dataset_record import figure_of, finding_table, overall, summary

    for line in summary(record):
        console.print(line)
    for key, title in (("rows", "all images"), ("rows_unflagged", "without flagged images")):
        rows = record[key]
        if not rows:
            continue
        figures = [
            (row["name"].partition(" (")[0], figure_of(row), figure_of(row, "real"), row["n"])
            for row in overall(rows)
            if not math.isnan(row["value"]) and not row["name"].startswith("power in eighth")
        ]
        print_table(figures, title, "made", "real", "n")
        console.print(_by_finding(*finding_table(rows)))
    for note in record["notes"]:
        console.print(note)
    console.print("evaluation.md has every figure with its interval, and says what each means")


def _by_finding(header: list[str], cells: list[list[str]]) -> Table:
    """As many figures as have room, without cutting a word."""
    rows = [
        [made[0], *map(_beside, made[1:], real[1:], header[1:])]
        for made, real in zip(cells[::2], cells[1::2], strict=True)
    ]
    shown, room = list[int](), console.width - 1
    for at, column in enumerate(zip(header, *rows, strict=True)):
        room -= max(map(len, column)) + 3
        if room >= 0:
            shown.append(at)
    left = [[row[at] for at in shown] for row in (header, *rows)]
    return table_of(left[1:], *left[0], title="by finding: made, and real in brackets")


def _beside(made: str, real: str, figure: str) -> str:
    """`.66 [.54, .77]` and `.72 [.62, .83]` -> `.66 (.72)`; a distance, which few images make unsure, in full."""
    if "distance" in figure:
        return made
    value, other = (text.partition(" ")[0] for text in (made, real))
    return f"{value} ({other})" if value and other else value or other


def compare(
    datasets: Annotated[list[str], Argument(help="Folders or URIs of datasets.", metavar="DATASET..")],
    real: common.RealOption,
    split: common.RealSplitOption = "val",
    beside: common.BesideOption = None,
    count: common.MostOption = common.MOST,
    evaluators: common.EvaluatorsOption = None,
    inception: common.InceptionOption = None,
    threads: common.ThreadsOption = 1,
    out: Annotated[
        Path | None, Option(help="A folder for compare.md and compare.json.", show_default="not written")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Datasets side by side, as in the paper's Table I: other controls, other bundles, with and without a gate.

    A dataset that was evaluated beside the same images by the same networks is not measured again.
    """
    from xreal_synth.evaluation import dataset_record
    from xreal_synth.evaluation.dataset import open_bench

    device, machine = common.machine_of(threads)
    bench, chosen = open_bench(datasets, count, (real, split, beside), evaluators, inception, device, machine)
    records = []
    with common.bars() as report:
        for one in chosen:
            store = one.source.store
            record = dataset_record.stored(store, bench.identity(one))
            if record is None:
                record = bench.measure(one, _of(report, store.uri))
                dataset_record.write(store, record)
            records.append(record)
    result = dataset_record.compared_json(records)
    if out is not None:
        folder = LocalStore(out)
        folder.replace("compare.md", dataset_record.compared_markdown(records).encode())
        folder.replace("compare.json", json_bytes(result))
    if as_json:
        print_json(result)
        return
    header, cells = dataset_record.compared_table(records)
    names, *rows = zip(*cells, strict=True)
    figures = [(name, *row) for name, row in zip(header[1:], rows, strict=True)]
    print_table(figures, "figure", *names)
    for line in dataset_record.paper_lines():
        console.print(line)
    if out is not None:
        console.print(f"{out / 'compare.md'}, {out / 'compare.json'}")


def _of(report: Report, uri: str) -> Report:
    """The bar of a dataset carries its folder's name; the real images' is shared."""
    name = uri.rpartition("/")[2]
    return lambda what, done, total: report(f"{name}: {what}" if "dataset" in what else what, done, total)
