"""`xreal-synth evaluate bundle`, its main figures over a grid of settings (`choices`), and `anatomy`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Column
from typer import Option

from xreal_synth.cli import evaluate_common as common
from xreal_synth.cli.options import JsonOption
from xreal_synth.cli.output import console, print_json, print_table

if TYPE_CHECKING:
    from xreal_synth.evaluation.anatomy import AnatomyFigures
    from xreal_synth.evaluation.bundle import BundleFigures
    from xreal_synth.evaluation.request import PreparedRequest

EXAMPLES = {
    "bundle": (
        "xreal-synth evaluate bundle --data images/ --images runs/images --sheet mini-vs-real.png",
        "xreal-synth evaluate bundle --data images/ -n 16 --set mode=reference --set steps=50 --json",
    ),
    "anatomy": (
        "xreal-synth evaluate anatomy --data images/ -n 64",
        "xreal-synth evaluate anatomy --data images/ -n 16 --set mode=reference --set steps=50 --sheet sheet.png",
    ),
    "choices": (
        "xreal-synth evaluate choices --data images/ -n 16 --grid hold=0.3,0.5,0.7 --grid guidance=2,4,7 "
        "--out runs/choices",
        "xreal-synth evaluate choices --data images/ --grid bundle=xreal-mini,my-bundle --grid steps=25,50 "
        "--cross --out runs/bundles",
    ),
}


def bundle(
    data: common.DataOption,
    bundle: common.BundleOption = "xreal-mini",
    count: Annotated[int | None, Option("-n", min=3, help="Images.", show_default="all of the split")] = None,
    split: common.SplitOption = "val",
    train_split: common.TrainSplitOption = "train",
    seed: common.SeedOption = 0,
    overrides: common.SamplingSetOption = None,
    images: common.ImagesOption = None,
    evaluators: common.EvaluatorsOption = None,
    precision: common.PrecisionOption = "auto",
    micro_batch: common.MicroBatchOption = 4,
    threads: common.ThreadsOption = 1,
    sheet: Annotated[
        Path | None, Option(help="Draws 16 generated images beside 16 real ones.", show_default="no")
    ] = None,
    spectrum: Annotated[
        Path | None, Option(help="Draws power over real images by frequency.", show_default="no")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Every real image of a split made again from its mask and findings, and judged, beside what real images reach."""
    from xreal_synth.evaluation.bundle import measure_bundle, measure_real
    from xreal_synth.evaluation.evaluators import load_evaluators
    from xreal_synth.evaluation.measurements import draw_spectra
    from xreal_synth.evaluation.request import Request, images_for, prepare
    from xreal_synth.evaluation.sheet import made_beside_real

    device, machine = common.machine_of(threads)
    request = Request(bundle, data, split, count, seed, common.sampling_from(overrides), precision, micro_batch)
    prepared = prepare(request)
    loaded = load_evaluators(evaluators, device)
    with common.image_folder(images) as folder, common.bars() as report:
        made = images_for(prepared, Path(folder), report)
        real = measure_real(prepared, loaded, train_split, report)
        figures = measure_bundle(prepared, loaded, real, made, report)
        if sheet is not None:
            made_beside_real(prepared, made, sheet)
        if spectrum is not None:
            draw_spectra({prepared.info.name: figures.rings, "training images": figures.rings_training}, spectrum)
    where = f"{machine}, {prepared.precision}, micro-batch {micro_batch}"
    if as_json:
        hashes = {"bundle_hash": prepared.info.content_hash, "evaluators": loaded.sha256}
        print_json(_reported(prepared, where, hashes, figures))
        return
    console.print(f"{prepared.info.name}: {json.dumps(asdict(prepared.settings))}")
    console.print(where)
    _show(figures)


def _reported(
    prepared: PreparedRequest, where: str, hashes: dict[str, str], figures: BundleFigures | AnatomyFigures
) -> Any:
    about = {"machine": where, "sampling": asdict(prepared.settings)}
    return {"bundle": prepared.info.name, **hashes, **about, **asdict(figures)}


def _show(figures: BundleFigures) -> None:
    from xreal_synth.evaluation.bundle import NOTES, table_of_figures

    reached = f"reached ({figures.images} images)"
    print_table(table_of_figures(figures), "figure", reached, "beside")
    for note in NOTES:
        console.print(note)
    for name, rings in (("made", figures.rings), ("training images", figures.rings_training)):
        words = " ".join(f"{ratio:.2f}" for ratio in rings)
        console.print(f"power over real images by eighths of the frequencies, {name}: {words}")
    _show_seconds(figures, "an image (stage B: a finding)")
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
        Option(metavar="KEY=VALUE,VALUE", help="Values of a key of `sampling`, or of `bundle`; may be repeated."),
    ],
    out: Annotated[Path, Option(help="A folder a cell, and the table; run again to go on.")],
    bundle: common.BundleOption = "xreal-mini",
    count: Annotated[int, Option("-n", min=3, help="Images a cell.")] = 16,
    split: common.SplitOption = "val",
    train_split: common.TrainSplitOption = "train",
    seed: common.SeedOption = 0,
    overrides: common.SamplingSetOption = None,
    cross: Annotated[bool, Option("--cross", help="Every combination, not one setting at a time.")] = False,
    evaluators: common.EvaluatorsOption = None,
    precision: common.PrecisionOption = "auto",
    micro_batch: common.MicroBatchOption = 4,
    threads: common.ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """What a setting changes: `evaluate bundle` on each cell of a grid, as one table."""
    from xreal_synth.evaluation.choices import COLUMNS, NOTE, REAL, cells_of, evaluate_choices, table_rows
    from xreal_synth.evaluation.evaluators import load_evaluators
    from xreal_synth.evaluation.request import Request

    device, _ = common.machine_of(threads)
    base = Request(bundle, data, split, count, seed, common.sampling_from(overrides), precision, micro_batch)
    cells = cells_of(base, common.grid_from(grid), cross=cross)
    loaded = load_evaluators(evaluators, device)
    with common.bars() as report:
        rows = evaluate_choices(cells, loaded, train_split, out, report)
    if as_json:
        own = [{key: row[key] for key in ("cell", *COLUMNS)} for row in rows if row["cell"] != REAL]
        print_json(own)
        return
    header = (Column("choice", no_wrap=True), *(Column(name, justify="right") for name in COLUMNS))
    print_table(table_rows(rows), *header)
    console.print(NOTE)
    console.print(f"{out / 'choices.md'}, {out / 'choices.json'}")


def anatomy(
    data: common.DataOption,
    bundle: common.BundleOption = "xreal-mini",
    count: Annotated[int, Option("-n", min=2, help="Images.")] = 64,
    split: common.SplitOption = "val",
    seed: common.SeedOption = 0,
    overrides: common.SamplingSetOption = None,
    precision: common.PrecisionOption = "auto",
    micro_batch: common.MicroBatchOption = 4,
    threads: common.ThreadsOption = 1,
    images: common.ImagesOption = None,
    sheet: Annotated[Path | None, Option(help="Also draws real images beside made ones.", show_default="no")] = None,
    as_json: JsonOption = False,
) -> None:
    """Images made from real images' masks: Dice per organ, MS-SSIM to the real image, seconds per stage."""
    from xreal_synth.evaluation.anatomy import measure_anatomy
    from xreal_synth.evaluation.request import Request, images_for, prepare
    from xreal_synth.evaluation.sheet import side_by_side
    from xreal_synth.models.load import load_network

    device, machine = common.machine_of(threads)
    given = common.sampling_from(overrides)
    request = Request(bundle, data, split, count, seed, given, precision, micro_batch, most_findings=1)
    prepared = prepare(request)
    segmenter: Any = load_network(prepared.info, "segmenter").eval().to(device)
    with common.image_folder(images) as folder:
        with common.bars() as report:
            made = images_for(prepared, Path(folder), report)
        figures = measure_anatomy(segmenter, prepared, made)
        if sheet is not None:
            side_by_side(prepared, made, sheet)
    where = f"{machine}, {prepared.precision}, micro-batch {micro_batch}"
    if as_json:
        print_json(_reported(prepared, where, {}, figures))
        return
    console.print(f"{prepared.info.name}: {json.dumps(asdict(prepared.settings))}")
    console.print(f"{where}; mean [95% bootstrap interval]")
    rows: list[tuple[Any, ...]] = [
        (f"Dice {organ}", figures.dice[organ], figures.dice_variant[organ], figures.dice_real[organ])
        for organ in figures.dice
    ]
    rows += [
        ("MS-SSIM to the real image", figures.ms_ssim, figures.ms_ssim_variant, 1),
        ("high frequencies, made / real", figures.sharpness, "", 1),
        ("change inside the region, grey levels", "", figures.change_inside, ""),
        ("change outside the region, grey levels", "", figures.change_outside, ""),
    ]
    columns = f"healthy twin ({figures.images})", f"with finding ({figures.variants})", "real image"
    print_table(rows, "figure", *columns)
    _show_seconds(figures, "per image")


def _show_seconds(figures: BundleFigures | AnatomyFigures, of: str) -> None:
    for clock, spent in (("seconds", figures.seconds), ("core seconds", figures.core_seconds)):
        if spent:
            console.print(f"{clock} {of}: " + ", ".join(f"{stage} {taken:.3f}" for stage, taken in spent.items()))
