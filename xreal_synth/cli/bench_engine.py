"""`xreal-synth bench engine`."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xreal_synth.cli.bench_table import OutOption, markdown, show
from xreal_synth.cli.evaluate_common import BundleOption, Precision, PrecisionOption, machine
from xreal_synth.cli.options import JsonOption, console, examples, notes, print_json

if TYPE_CHECKING:
    from xreal_synth.engine.speed.start_up import StartUp
    from xreal_synth.engine.speed.ways import Task, WayFigures

MISSED = 3
COLUMNS = ("way", "films/s", "x bare", "CPU ms/film", "x bare (CPU)", "not in the model", "gate", "waiting")
START = ("until the first film", "seconds")
TOLD = {"bare": "bare loop", "worker": "worker, no Ray", "engine": "engine on Ray"}


def register(group: typer.Typer) -> None:
    group.command(
        epilog=examples(
            "xreal-synth bench engine",
            "xreal-synth bench engine --sleep 0.1 --groups 64 --quality standard --out engine.md",
        )
    )(engine)


def engine(
    bundle: BundleOption = "xreal-mini",
    groups: Annotated[int, typer.Option(min=1, max=100_000, help="Anatomies of a shard.")] = 16,
    shards: Annotated[int, typer.Option(min=1, max=1000, help="Shards of each actor.")] = 2,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Groups together.", show_default="8, on a GPU found")
    ] = None,
    actors: Annotated[int, typer.Option(min=1, max=64, help="Actors of the engine on Ray.")] = 1,
    quality: Annotated[str, typer.Option(help="The gate's profile: none, standard, strict.")] = "none",
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Sampling steps.", show_default="the bundle's")
    ] = None,
    precision: PrecisionOption = Precision.auto,
    sleep: Annotated[
        float | None,
        typer.Option(min=0, max=60, help="Instead of the bundle a model that sleeps so long over a film."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Passes of each; the fastest counts.")] = 2,
    starts: Annotated[
        int, typer.Option(min=0, max=100, help="Starts from the command; the fastest counts.")
    ] = 2,
    most: Annotated[
        float,
        typer.Option(min=0, max=1, help="Exit code 3 where more of an actor's time is not in the model."),
    ] = 0.03,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """How much of an actor's time the engine takes, against a bare loop over the same model, in one run.

    The same groups are made in three ways, in turn: by the sampler alone, planned beforehand; by the engine's
    worker, which plans, encodes and publishes; by the whole engine on a Ray of this machine. Then what the first
    film waits for. `not in the model` is the share of wall time in neither the sampler nor the gate. CPU seconds
    count every thread: where all cores are busy, theirs is the ratio that holds.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # before numpy loads, as Ray has it in an actor of one CPU
    from xreal_synth.engine.resources import Resources, actor_shape, cpu_count
    from xreal_synth.engine.speed.ways import WAYS, Task, WaysBench, figures

    gpus = _gpus() if sleep is None else 0
    settings: dict[str, object] = {"quality.profile": quality, "compute.precision": precision.value}
    if steps is not None:
        settings["sampling.steps"] = steps
    if micro_batch is not None or not gpus:
        settings["compute.micro_batch"] = micro_batch or 8
    task = Task(bundle, groups, shards, settings)
    run = task.run()
    shape = actor_shape(run.recipe.compute, Resources(cpu_count(), gpus))
    with notes.status("loading the model") as status:
        bench = WaysBench(task, _model(task, sleep), shape, actors)
        done = [0]

        def told(what: str) -> None:
            done[0] += 1
            status.update(f"{done[0]} of {repeats * len(WAYS) + starts} passes, the last {what}")

        status.update(f"{repeats * len(WAYS)} passes of {groups * shards} groups")
        rows = figures(bench.measure(repeats, on_pass=lambda way: told(TOLD[way])))
        start = _start(task, bench.backend.micro_batch, sleep, starts, told)
    networks = f"{run.bundle.name}, {bench.backend.precision}"
    about = {
        "model": networks if sleep is None else f"a sleep of {sleep:g} s a film",
        "machine": f"{machine(shape.device)}, {_load()}",
        "groups": f"{groups * shards} in {shards} shards, {bench.backend.micro_batch} together, gate {quality}",
        "passes": f"{repeats} of each way in turn, the fastest counts",
    }  # fmt: skip
    missed = [row for row in rows if row.way != "bare" and row.outside > most]
    if out is not None:
        out.write_text(_markdown(about, rows, start), encoding="utf-8")
    if as_json:
        print_json(
            {
                **about, "ok": not missed, "rows": [asdict(row) for row in rows],
                "start_up": None if start is None else {**start.named(), "first film": start.first_film},
            }
        )  # fmt: skip
    else:
        _show(about, rows, start)
    if missed:
        raise typer.Exit(MISSED)


def _model(task: Task, sleep: float | None) -> Any:
    from xreal_synth.engine.backend import Networks
    from xreal_synth.engine.speed.ways import sleeping

    return Networks() if sleep is None else sleeping(task.run(), sleep)


def _start(task: Task, micro_batch: int, sleep: float | None, starts: int, told: Any) -> StartUp | None:
    from xreal_synth.engine.speed.start_up import measure_start

    measured = []
    for _ in range(starts):
        measured.append(measure_start(task.text(1, micro_batch), sleep))
        told("start")
    return min(measured, key=lambda one: one.first_film, default=None)


def _gpus() -> int:
    import torch

    return int(torch.cuda.is_available())


def _load() -> str:
    from xreal_synth.engine.resources import cpu_count

    if not hasattr(os, "getloadavg"):
        return f"{cpu_count()} cores"
    return f"{cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"


def _cells(row: WayFigures) -> list[str]:
    speed = [
        f"{row.films_per_s:.3g}",
        f"{row.wall:.3f}",
        f"{1000 * row.cpu_s_per_film:.1f}",
        f"{row.cpu:.3f}",
    ]
    shares = [f"{share:.1%}" for share in (row.outside, row.gate, row.waiting)]
    return [TOLD[row.way], *speed, *(shares if row.way != "bare" else ["", "", ""])]


def _start_cells(start: StartUp) -> list[list[str]]:
    parts = {**start.named(), "first film": start.first_film}
    return [[part, f"{seconds:.1f}"] for part, seconds in parts.items()]


def _markdown(about: dict[str, str], rows: list[WayFigures], start: StartUp | None) -> str:
    lines = [f"{', '.join(f'{key}: {value}' for key, value in about.items())}.", ""]
    lines += markdown(COLUMNS, map(_cells, rows))
    if start is not None:
        lines += ["", *markdown(START, _start_cells(start))]
    return "\n".join([*lines, ""])


def _show(about: dict[str, str], rows: list[WayFigures], start: StartUp | None) -> None:
    for key, value in about.items():
        console.print(f"{key}: {value}")
    show(COLUMNS, map(_cells, rows))
    if start is not None:
        show(START, _start_cells(start))
