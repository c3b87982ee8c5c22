"""`xreal-synth evaluate bundle`: the table of goals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from xreal_synth.cli.evaluate_common import (
    BundleOption,
    DataOption,
    JudgesOption,
    MicroBatchOption,
    Precision,
    PrecisionOption,
    SamplingSetOption,
    SeedOption,
    SplitOption,
    ThreadsOption,
    TrainSplitOption,
    bars,
    film_folder,
    machine,
    sampling_from,
)
from xreal_synth.cli.options import JsonOption, console, examples, print_json

if TYPE_CHECKING:
    from xreal_synth.evaluation.bundle import BundleFigures
    from xreal_synth.evaluation.goals import Goal


def register(group: typer.Typer) -> None:
    group.command(
        epilog=examples(
            "xreal-synth evaluate bundle --data films/ --films runs/goals --sheet mini-vs-real.png",
            "xreal-synth evaluate bundle --data films/ -n 16 --set mode=reference --set steps=50 --json",
        )
    )(bundle)


def bundle(
    data: DataOption,
    bundle: BundleOption = "xreal-mini",
    count: Annotated[
        int | None, typer.Option("-n", min=3, help="Films.", show_default="all of the split")
    ] = None,
    split: SplitOption = "val",
    train_split: TrainSplitOption = "train",
    seed: SeedOption = 0,
    overrides: SamplingSetOption = None,
    films: Annotated[
        Path | None,
        typer.Option(
            help="Keeps the made films; run again to go on, or to measure without sampling.",
            show_default="a temporary folder",
        ),
    ] = None,
    judges: JudgesOption = None,
    precision: PrecisionOption = Precision.auto,
    micro_batch: MicroBatchOption = 4,
    threads: ThreadsOption = 1,
    sheet: Annotated[
        Path | None, typer.Option(help="Draws 16 made films beside 16 real ones.", show_default="no")
    ] = None,
    spectrum: Annotated[
        Path | None, typer.Option(help="Draws power over real films by frequency.", show_default="no")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Every real film of a split made again from its mask and findings, and judged: the table of goals."""
    import torch

    from xreal_synth.evaluation.goals import table_of_goals
    from xreal_synth.evaluation.judging import load_judges
    from xreal_synth.evaluation.nulls import null_for_nan
    from xreal_synth.evaluation.request import Request, prepare
    from xreal_synth.evaluation.run import figures_for, films_for, real_films

    torch.set_num_threads(threads)
    request = Request(
        bundle, data, split, count, seed, sampling_from(overrides), precision.value, micro_batch
    )
    prepared = prepare(request)
    judging = load_judges(judges, prepared.device)
    with film_folder(films) as folder, bars() as report:
        made = films_for(prepared, folder, report)
        real = real_films(prepared, judging, train_split, report)
        figures = figures_for(prepared, judging, real, made, report)
        if sheet is not None:
            from xreal_synth.evaluation.sheet import made_beside_real

            title = f"made by {prepared.info.name} (synthetic; for research, not for diagnosis)"
            made_beside_real(prepared.cases, prepared.reader, made, sheet, title=title)
        if spectrum is not None:
            from xreal_synth.evaluation.spectrum import draw_spectra

            draw_spectra(
                {prepared.info.name: figures.rings, "training films": figures.rings_training}, spectrum
            )
    goals = table_of_goals(figures, prepared.settings)
    where = (
        f"{machine(prepared.device)}, {threads} thread(s), {prepared.precision}, micro-batch {micro_batch}"
    )
    settings = asdict(prepared.settings)
    if as_json:
        print_json(null_for_nan(
            {
                "bundle": prepared.info.name, "bundle_hash": prepared.info.content_hash,
                "judges": judging.sha256, "machine": where, "sampling": settings,
                "goals": [asdict(goal) for goal in goals], **asdict(figures),
            }
        ))  # fmt: skip
        return
    console.print(f"{prepared.info.name}: {json.dumps(settings)}")
    console.print(where)
    _show(figures, goals)


def _show(figures: BundleFigures, goals: Sequence[Goal]) -> None:
    from xreal_synth.evaluation.goals import NOTES

    table = Table("figure", "goal", f"reached ({figures.films} films)", "beside", "met")
    for goal in goals:
        met = {True: "yes", False: "no", None: ""}[goal.met]
        table.add_row(goal.figure, goal.goal, goal.reached, goal.beside, met)
    console.print(table)
    for note in NOTES:
        console.print(note)
    for name, rings in (("made", figures.rings), ("training films", figures.rings_training)):
        words = " ".join(f"{ratio:.2f}" for ratio in rings)
        console.print(f"power over real films by eighths of the frequencies, {name}: {words}")
    for clock, spent in (("seconds", figures.seconds), ("core seconds", figures.core_seconds)):
        if spent:
            stages = ", ".join(f"{stage} {taken:.3f}" for stage, taken in spent.items())
            console.print(f"{clock} a film (stage B: a finding): {stages}")
    for metric, copies in figures.copies.items():
        for film, training in copies.flagged:
            console.print(f"like a training film, by {metric}: made for {film}, nearest {training}")
    if figures.unplaced or figures.faulty:
        console.print(
            f"{figures.unplaced} findings found no place on their mask; {figures.faulty} films could not be used"
        )
