"""`xreal-synth evaluate bundle`, and `evaluate choices`, its main figures over a grid of settings."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from xreal_synth.cli import evaluate_common as common
from xreal_synth.cli.options import JsonOption, console, print_json

if TYPE_CHECKING:
    from xreal_synth.evaluation.bundle import BundleFigures

EXAMPLES = {
    "bundle": (
        "xreal-synth evaluate bundle --data images/ --images runs/images --sheet mini-vs-real.png",
        "xreal-synth evaluate bundle --data images/ -n 16 --set mode=reference --set steps=50 --json",
    ),
    "choices": (
        (
            "xreal-synth evaluate choices --data images/ -n 16 --grid hold=0.3,0.5,0.7 --grid guidance=2,4,7 "
            "--out runs/choices"
        ),
        (
            "xreal-synth evaluate choices --data images/ --grid bundle=xreal-mini,my-bundle --grid steps=25,50 "
            "--cross --out runs/bundles"
        ),
    ),
}


def bundle(
    data: common.DataOption,
    bundle: common.BundleOption = "xreal-mini",
    count: Annotated[
        int | None, typer.Option("-n", min=3, help="Images.", show_default="all of the split")
    ] = None,
    split: common.SplitOption = "val",
    train_split: common.TrainSplitOption = "train",
    seed: common.SeedOption = 0,
    overrides: common.SamplingSetOption = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Keeps the generated images; run again to go on, or to measure without sampling.",
            show_default="a temporary folder",
        ),
    ] = None,
    evaluators: common.EvaluatorsOption = None,
    precision: common.PrecisionOption = common.Precision.auto,
    micro_batch: common.MicroBatchOption = 4,
    threads: common.ThreadsOption = 1,
    sheet: Annotated[
        Path | None, typer.Option(help="Draws 16 generated images beside 16 real ones.", show_default="no")
    ] = None,
    spectrum: Annotated[
        Path | None, typer.Option(help="Draws power over real images by frequency.", show_default="no")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Every real image of a split made again from its mask and findings, and judged, beside what real images reach."""
    import torch

    from xreal_synth.evaluation.evaluators import load_evaluators
    from xreal_synth.evaluation.kept import null_for_nan
    from xreal_synth.evaluation.request import Request, figures_for, images_for, prepare, real_images

    torch.set_num_threads(threads)
    request = Request(
        bundle, data, split, count, seed, common.sampling_from(overrides), precision.value, micro_batch
    )
    prepared = prepare(request)
    loaded = load_evaluators(evaluators, prepared.device)
    with common.image_folder(images) as folder, common.bars() as report:
        made = images_for(prepared, folder, report)
        real = real_images(prepared, loaded, train_split, report)
        figures = figures_for(prepared, loaded, real, made, report)
        if sheet is not None:
            from xreal_synth.evaluation.sheet import made_beside_real

            title = f"made by {prepared.info.name} (synthetic; for research, not for diagnosis)"
            made_beside_real(prepared.cases, prepared.reader, made, sheet, title=title)
        if spectrum is not None:
            from xreal_synth.evaluation.fidelity import draw_spectra

            draw_spectra(
                {prepared.info.name: figures.rings, "training images": figures.rings_training}, spectrum
            )
    where = f"{common.machine(prepared.device)}, {threads} thread(s), {prepared.precision}, micro-batch {micro_batch}"
    settings = asdict(prepared.settings)
    if as_json:
        print_json(null_for_nan(
            {
                "bundle": prepared.info.name, "bundle_hash": prepared.info.content_hash,
                "evaluators": loaded.sha256, "machine": where, "sampling": settings,
                **asdict(figures),
            }
        ))  # fmt: skip
        return
    console.print(f"{prepared.info.name}: {json.dumps(settings)}")
    console.print(where)
    _show(figures)


def _show(figures: BundleFigures) -> None:
    from xreal_synth.evaluation.bundle_table import NOTES, table_of_figures

    table = Table("figure", f"reached ({figures.images} images)", "beside")
    for row in table_of_figures(figures):
        table.add_row(*row)
    console.print(table)
    for note in NOTES:
        console.print(note)
    for name, rings in (("made", figures.rings), ("training images", figures.rings_training)):
        words = " ".join(f"{ratio:.2f}" for ratio in rings)
        console.print(f"power over real images by eighths of the frequencies, {name}: {words}")
    for clock, spent in (("seconds", figures.seconds), ("core seconds", figures.core_seconds)):
        if spent:
            stages = ", ".join(f"{stage} {taken:.3f}" for stage, taken in spent.items())
            console.print(f"{clock} an image (stage B: a finding): {stages}")
    for metric, copies in figures.copies.items():
        for image, training in copies.flagged:
            console.print(f"like a training image, by {metric}: made for {image}, nearest {training}")
    if figures.unplaced or figures.faulty:
        console.print(
            f"{figures.unplaced} findings found no place on their mask; {figures.faulty} images could not be used"
        )


def choices(
    data: common.DataOption,
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
    bundle: common.BundleOption = "xreal-mini",
    count: Annotated[int, typer.Option("-n", min=3, help="Images a cell.")] = 16,
    split: common.SplitOption = "val",
    train_split: common.TrainSplitOption = "train",
    seed: common.SeedOption = 0,
    overrides: common.SamplingSetOption = None,
    cross: Annotated[
        bool, typer.Option("--cross", help="Every combination, not one setting at a time.")
    ] = False,
    evaluators: common.EvaluatorsOption = None,
    precision: common.PrecisionOption = common.Precision.auto,
    micro_batch: common.MicroBatchOption = 4,
    threads: common.ThreadsOption = 1,
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
    base = Request(
        bundle, data, split, count, seed, common.sampling_from(overrides), precision.value, micro_batch
    )
    cells = cells_of(base, common.grid_from(grid), cross=cross)
    loaded = load_evaluators(evaluators, device)
    rows = []
    with common.bars() as report:
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
