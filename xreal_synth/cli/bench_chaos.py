"""`xreal-synth bench chaos`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from xreal_synth.cli.options import JsonOption, console, examples, notes, print_json

if TYPE_CHECKING:
    from xreal_synth.engine.chaos.table import Row

FAILED = 3
COLUMNS = ("fault", "seen after", "retried", "exit", "bytes equal", "took", "")


def register(group: typer.Typer) -> None:
    group.command(
        epilog=examples(
            "xreal-synth bench chaos", "xreal-synth bench chaos --only node-killed --only disk-full --json"
        )
    )(chaos)


def chaos(
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="A fault; may be repeated.", show_default="all"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Does to a run what clusters do: kills actors, nodes and drivers, fills disks, cuts files, poisons shards.

    On a real Ray of this machine with nodes of its own and phantom films, started and ended here. Every fault is
    real. After each the dataset must be whole, byte for byte that of an undisturbed run, and the exit code as
    documented. Exit code 3 if a row failed.
    """
    from xreal_synth.engine.chaos.ray_bed import own_bed
    from xreal_synth.engine.chaos.table import chosen, tried

    faults = chosen(only or [])
    rows: list[Row] = []
    with notes.status("starting Ray") as status, own_bed() as bed:
        for number, one in enumerate(faults, start=1):
            status.update(f"{number} of {len(faults)}: {one.name}")
            rows.append(tried(one, bed))
            if not as_json:
                notes.print(_line(rows[-1]), soft_wrap=True)
    if as_json:
        print_json(
            {"ok": all(row.ok for row in rows), "rows": [{**asdict(row), "ok": row.ok} for row in rows]}
        )
    else:
        _show(rows)
    if not all(row.ok for row in rows):
        raise typer.Exit(FAILED)


def _line(row: Row) -> str:
    came = f"as documented: {row.follows}" if row.ok else f"FAILED: {'; '.join(row.wrong)}"
    return f"{row.name} ({row.done}) {came}"


def _show(rows: list[Row]) -> None:
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(
            row.name,
            "" if row.detected_s is None else f"{row.detected_s:.1f} s",
            str(row.retried),
            f"{row.exit_code}"
            if row.exit_code == row.wanted_code
            else f"{row.exit_code}, not {row.wanted_code}",
            "yes" if row.bytes_equal else "NO",
            f"{row.seconds:.1f} s",
            "ok" if row.ok else "FAILED",
        )
    console.print(table)
    console.print(
        "Seen after: from the fault to the driver's first word of it. Exit: the code of the run that met the fault; "
        "where that is not 0, the same command was run again without the fault and made the dataset whole.",
        soft_wrap=True,
    )
