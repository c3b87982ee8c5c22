"""`xreal-synth bench scale`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from xreal_synth.cli.options import JsonOption, console, examples, notes, print_json
from xreal_synth.errors import XrealError

MISSED = 3


def register(group: typer.Typer) -> None:
    group.command(
        epilog=examples(
            "xreal-synth bench scale",
            "xreal-synth bench scale --actors 1 --actors 16 --shard-seconds 10 --json",
        )
    )(scale)


def scale(
    actors: Annotated[
        list[int] | None,
        typer.Option(min=1, max=256, help="Actors of a run; may be repeated.", show_default="1 2 4"),
    ] = None,
    shards: Annotated[int, typer.Option(min=2, max=10_000, help="Shards of each actor.")] = 8,
    shard_seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, help="How long the model sleeps over a shard.")
    ] = 2.0,
    least: Annotated[
        float, typer.Option(min=0, max=1, help="Exit code 3 where a run is less than this share of linear.")
    ] = 0.97,
    as_json: JsonOption = False,
) -> None:
    """Shards per second with 1, 2, 4 actors whose model only sleeps: what the engine itself loses.

    On a Ray of this machine. 1 is linear: so many times one actor's rate as there are actors.
    """
    from xreal_synth.engine.chaos.ray_bed import own_bed
    from xreal_synth.engine.chaos.ray_scale import measure_scale

    counts = sorted(set(actors or [1, 2, 4]))
    if len(counts) < 2:
        raise XrealError(
            found=f"--actors {counts[0]} alone", wanted="two numbers or more", hint="add --actors 1"
        )
    with notes.status(f"running {', '.join(map(str, counts))} actors"), own_bed() as bed:
        rows = measure_scale(
            counts, bed.output(), shards_per_actor=shards, shard_s=shard_seconds, address=bed.cluster.address
        )
    if as_json:
        print_json({"ok": all(row.linear >= least for row in rows), "rows": [asdict(row) for row in rows]})
    else:
        table = Table("actors", "shards", "seconds", "shards/s", "of linear")
        for row in rows:
            table.add_row(
                f"{row.actors}",
                f"{row.shards}",
                f"{row.seconds:.2f}",
                f"{row.shards_per_s:.2f}",
                f"{row.linear:.3f}",
            )
        console.print(table)
    if any(row.linear < least for row in rows):
        raise typer.Exit(MISSED)
