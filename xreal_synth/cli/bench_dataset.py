"""`xreal-synth bench dataset`."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from xreal_synth.cli.bench_table import OutOption, markdown, show
from xreal_synth.cli.evaluate_common import machine
from xreal_synth.cli.options import JsonOption, bytes_text, console, examples, notes, print_json, seconds_text
from xreal_synth.errors import XrealError

if TYPE_CHECKING:
    from xreal_synth.engine.simulate.steps import StepRow

MISSED = 3
COLUMNS = ("step", "seconds", "CPU seconds", "ms per shard", "peak memory")
_SHARD_BYTES = 48_000
"""On a disk with blocks of 4 kB."""


def register(group: typer.Typer) -> None:
    group.command(
        epilog=examples(
            "xreal-synth bench dataset --shards 2000",
            "xreal-synth bench dataset --shards 100000 --folder /tmp/many --keep --out dataset.md",
        )
    )(dataset)


def dataset(
    shards: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="Shards of one group of films of 8 x 8 pixels.")
    ] = 10_000,
    step: Annotated[
        list[str] | None,
        typer.Option("--step", metavar="NAME", help="What to measure; may be repeated.", show_default="all"),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where; one that this command kept is used again.", show_default="a temporary one"),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leaves the dataset in --folder.")] = False,
    most_memory: Annotated[
        float, typer.Option(min=0.01, help="GB; exit code 3 where a step takes more.")
    ] = 1.0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lists, resumes, merges and verifies a dataset of very many tiny shards: time and memory of each step.

    The shards are valid and as the engine writes them; about 40 kB of disk and 6 ms of a core each. Every step
    runs in a process of its own, on files that this machine has just written. The dataset is removed afterwards.
    """
    from xreal_synth.engine.simulate.dataset import remove_dataset, write_dataset
    from xreal_synth.engine.simulate.steps import chosen_steps, measure_step

    steps = chosen_steps(step or [])
    if keep and folder is None:
        raise XrealError(found="--keep without --folder", wanted="a folder to keep", mend="give --folder")
    place = _place(folder, shards)
    rows: list[StepRow] = []
    try:
        with Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=notes,
        ) as progress:  # fmt: skip
            task = progress.add_task("writing shards", total=shards)
            write_dataset(place, shards, lambda done, total: progress.update(task, completed=done))
        with notes.status("measuring") as status:
            for number, name in enumerate(steps, start=1):
                status.update(f"{number} of {len(steps)}: {name}")
                rows.append(measure_step(name, place, shards))
                if not as_json:
                    notes.print(f"{name}: {seconds_text(rows[-1].seconds)}")
    finally:
        if not keep:
            remove_dataset(place)
    ok = all(row.peak_bytes <= most_memory * 1e9 for row in rows)
    if out is not None:
        out.write_text(_markdown(rows, shards), encoding="utf-8")
    if as_json:
        told = [{**asdict(row), "ms_per_shard": row.ms_per_shard} for row in rows]
        print_json({"ok": ok, "machine": machine("cpu"), "rows": told})
    else:
        _show(rows, shards)
    if not ok:
        raise typer.Exit(MISSED)


def _place(folder: Path | None, shards: int) -> Path:
    """An empty folder, or one of this command's; raises XrealError for another or where it is too small."""
    from xreal_synth.engine.simulate.dataset import simulated_shards

    written = 0 if folder is None else simulated_shards(folder)
    if written is None or written > shards:
        found = "files that this command did not write" if written is None else f"{written} shards"
        raise XrealError(
            where=str(folder), found=found, wanted=f"an empty or new folder, or one with up to {shards} shards",
            mend="give another --folder",
        )  # fmt: skip
    place = Path(tempfile.mkdtemp(prefix="xreal-bench-")) if folder is None else folder
    place.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place).free
    if free < (shards - written) * _SHARD_BYTES:
        raise XrealError(
            where=str(place), found=f"{bytes_text(free)} of room",
            wanted=bytes_text((shards - written) * _SHARD_BYTES), mend="give another --folder or fewer --shards",
        )  # fmt: skip
    return place


def _cells(row: StepRow) -> list[str]:
    return [
        row.step,
        f"{row.seconds:.1f}",
        f"{row.cpu_s:.1f}",
        f"{row.ms_per_shard:.3f}",
        bytes_text(row.peak_bytes),
    ]


def _markdown(rows: list[StepRow], shards: int) -> str:
    lines = [f"{shards:,} shards, {machine('cpu')}.", ""]
    return "\n".join([*lines, *markdown(COLUMNS, map(_cells, rows)), ""])


def _show(rows: list[StepRow], shards: int) -> None:
    console.print(f"{shards:,} shards, {machine('cpu')}")
    show(COLUMNS, map(_cells, rows))
