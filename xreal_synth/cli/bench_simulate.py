"""`xreal-synth bench simulate`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from xreal_synth.cli.bench_table import OutOption, markdown, show
from xreal_synth.cli.evaluate_common import machine
from xreal_synth.cli.options import JsonOption, bytes_text, console, examples, notes, print_json, seconds_text

if TYPE_CHECKING:
    from xreal_synth.engine.simulate.run import SimulationRow
    from xreal_synth.engine.simulate.world import ShardTimes, World

MISSED = 3
COLUMNS = (
    "actors", "shards", "virtual time", "driver CPU per shard", "driver's share of a core", "peak memory",
    "waiting for the driver", "lost to failures", "starting, ending", "actors lost", "given up", "lost",
    "doubled",
)  # fmt: skip


def register(group: typer.Typer) -> None:
    group.command(
        epilog=examples(
            "xreal-synth bench simulate --actors 8 --actors 512 --shards 20000",
            "xreal-synth bench simulate --actors 4096 --shards 1000000 --shard-times out/quickstart "
            "--node-losses 0.2 --out table.md",
        )
    )(simulate)


def simulate(
    actors: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=100_000, help="Actors of a run; may be repeated.", show_default="8 64 512 4096"
        ),
    ] = None,
    shards: Annotated[int, typer.Option(min=2, max=100_000_000, help="Shards of each run.")] = 100_000,
    shard_seconds: Annotated[
        float | None, typer.Option(min=0.01, max=1e6, help="A shard's mean.", show_default="120, or measured")
    ] = None,
    spread: Annotated[
        float, typer.Option(min=0, max=3, help="Standard deviation of a shard's log seconds.")
    ] = 0.2,
    shard_times: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET", help="Draws seconds from this dataset's records.", show_default="log-normal"
        ),
    ] = None,
    death_rate: Annotated[float, typer.Option(min=0, help="Deaths per actor hour.")] = 0.01,
    node_losses: Annotated[
        float, typer.Option(min=0, help="Preemptions per node hour; others come 5 minutes later.")
    ] = 0.05,
    per_node: Annotated[int, typer.Option(min=1, help="Actors on a node.")] = 8,
    storage_errors: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of shards that the storage does not take at first.")
    ] = 1e-3,
    hangs: Annotated[
        float, typer.Option(min=0, max=0.1, help="Share of shards at which an actor hangs.")
    ] = 1e-5,
    poison: Annotated[int, typer.Option(min=0, max=1000, help="Shards that always raise an exception.")] = 2,
    killers: Annotated[int, typer.Option(min=0, max=1000, help="Shards that always end their actor.")] = 1,
    answer_us: Annotated[
        float, typer.Option(min=0, max=1e6, help="Virtual microseconds the driver spends on an answer.")
    ] = 1000.0,
    seed: Annotated[int, typer.Option(min=0, help="Of all chances.")] = 1,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Runs the driver against thousands of simulated actors that fail: what it costs, and what is lost.

    Driver, schedule, account, progress note and log are those of a real run; actors, nodes and storage are events in
    virtual time, without Ray and without films. Each row runs in a process of its own. Exit code 3 if a shard was
    lost or made twice.
    """
    from xreal_synth.engine.simulate.world import World

    times = _times(shard_times, shard_seconds, spread)
    rows: list[SimulationRow] = []
    for count in actors or [8, 64, 512, 4096]:
        world = World(
            count, times, per_node=per_node, deaths=death_rate, node_losses=node_losses,
            storage_errors=storage_errors, hangs=hangs, poison=poison, killers=killers,
            answer_s=answer_us / 1e6, seed=seed,
        )  # fmt: skip
        rows.append(_row(world, shards))
    ok = not any(row.lost or row.doubled for row in rows)
    if out is not None:
        out.write_text(_markdown(rows, times), encoding="utf-8")
    if as_json:
        told = [
            {**asdict(row), "driver_us": row.driver_us, "core": row.core, "shards_per_s": row.shards_per_s}
            for row in rows
        ]
        print_json({"ok": ok, "machine": machine("cpu"), "shard_times": _words(times), "rows": told})
    else:
        _show(rows, times)
    if not ok:
        raise typer.Exit(MISSED)


def _row(world: World, shards: int) -> SimulationRow:
    from xreal_synth.engine.simulate.run import simulate_apart

    with Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=notes,
    ) as progress:  # fmt: skip
        task = progress.add_task(f"{world.actors} actors", total=shards)
        row = simulate_apart(world, shards, lambda done, total: progress.update(task, completed=done))
        progress.update(task, completed=shards)
    return row


def _times(dataset: str | None, mean_s: float | None, spread: float) -> ShardTimes:
    from xreal_synth.engine.simulate.world import ShardTimes
    from xreal_synth.storage import open_store

    if dataset is not None:
        return ShardTimes.of_dataset(open_store(dataset), mean_s)
    return ShardTimes(120.0 if mean_s is None else mean_s, spread)


def _words(times: ShardTimes) -> str:
    if times.measured:
        return (
            f"drawn from {len(times.measured)} measured shards, scaled to a mean of {times.mean_s:.3g} s, spread of "
            f"the logarithm {times.spread:.2g}"
        )
    return f"log-normal, mean {times.mean_s:.3g} s, spread of the logarithm {times.spread:.2g}"


def _cells(row: SimulationRow) -> list[str]:
    return [
        f"{row.actors:,}",
        f"{row.shards:,}",
        seconds_text(row.virtual_s),
        f"{row.driver_us:.0f} us",
        f"{row.core:.3%}",
        bytes_text(row.peak_bytes),
        f"{row.idle:.3%}",
        f"{row.failures:.2%}",
        f"{row.start + row.tail:.2%}",
        f"{row.happened.get('gone', 0) + row.happened.get('hung', 0):,}",
        str(row.quarantined),
        str(row.lost),
        str(row.doubled),
    ]


def _markdown(rows: list[SimulationRow], times: ShardTimes) -> str:
    lines = [f"Shard times: {_words(times)}. Machine: {machine('cpu')}.", ""]
    return "\n".join([*lines, *markdown(COLUMNS, map(_cells, rows)), ""])


def _show(rows: list[SimulationRow], times: ShardTimes) -> None:
    console.print(f"shard times: {_words(times)}; {machine('cpu')}")
    show(COLUMNS, map(_cells, rows))
