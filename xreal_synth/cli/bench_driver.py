"""`xreal-synth bench driver`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from xreal_synth.cli.bench_table import OutOption, markdown, show
from xreal_synth.cli.evaluate_common import machine
from xreal_synth.cli.options import JsonOption, console, examples, notes, print_json

if TYPE_CHECKING:
    from xreal_synth.engine.simulate.ray_played import PlayedRow

COLUMNS = (
    "actors", "a shard", "shards", "shards/s", "actors busy", "driver's thread per shard",
    "driver's process per shard", "full at",
)  # fmt: skip


def register(group: typer.Typer) -> None:
    group.command(
        epilog=examples(
            "xreal-synth bench driver",
            "xreal-synth bench driver --actors 4096 --shard-seconds 20 --hosts 4 --json",
        )
    )(driver)


def driver(
    actors: Annotated[
        list[int] | None,
        typer.Option(min=1, max=20_000, help="Actors; may be repeated.", show_default="8 64 512"),
    ] = None,
    shard_seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="How long a shard takes.")] = 5.0,
    rounds: Annotated[int, typer.Option(min=3, max=1000, help="Shards of each actor.")] = 5,
    hosts: Annotated[int, typer.Option(min=1, max=64, help="Processes that play the actors.")] = 2,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """What the driver and Ray's calls take of a core, with thousands of actors that only sleep.

    On a Ray of this machine. A few processes play the actors: calls, answers, heartbeats and records are a run's own,
    the actors' processes are not there. The first and the last shard of each actor are left out.
    """
    from xreal_synth.engine.chaos.ray_bed import own_bed
    from xreal_synth.engine.simulate.ray_played import measure_played

    rows: list[PlayedRow] = []
    with notes.status("starting Ray") as status, own_bed():
        for count in actors or [8, 64, 512]:

            def told(done: int, total: int, count: int = count) -> None:
                status.update(f"{count} actors: shard {done} of {total}")

            rows.append(measure_played(count, shard_seconds, rounds, hosts, told))
    if out is not None:
        out.write_text(_markdown(rows), encoding="utf-8")
    if as_json:
        print_json({"machine": machine("cpu"), "rows": [_fields(row) for row in rows]})
        return
    console.print(machine("cpu"))
    show(COLUMNS, map(_cells, rows))


def _fields(row: PlayedRow) -> dict[str, object]:
    return {**asdict(row), "shards_per_s": row.shards_per_s, "limit_per_s": row.limit_per_s}


def _cells(row: PlayedRow) -> list[str]:
    return [
        f"{row.actors:,}",
        f"{row.shard_s:g} s",
        f"{row.shards:,}",
        f"{row.shards_per_s:.1f}",
        f"{row.busy:.1%}",
        f"{row.loop_us:.0f} us",
        f"{row.process_us:.0f} us",
        f"{row.limit_per_s:.0f} shards/s",
    ]


def _markdown(rows: list[PlayedRow]) -> str:
    return "\n".join([f"Machine: {machine('cpu')}.", "", *markdown(COLUMNS, map(_cells, rows)), ""])
