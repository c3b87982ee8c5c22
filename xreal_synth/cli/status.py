"""`xreal-synth status DATASET`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.table import Table

from xreal_synth.cli.options import JsonOption, console, examples, notes, print_json, seconds_text
from xreal_synth.cli.verify import DatasetArgument

if TYPE_CHECKING:
    from xreal_synth.shards.status import DatasetStatus, State

SHOWN_FAILURES = 10

_SAID: dict[State, str] = {
    "running": "running",
    "complete": "complete",
    "partial": "partial: the last run ended with shards missing",
    "stopped": "stopped: the same command goes on",
    "silent": "silent: the last run neither goes on nor has said how it ended; the same command goes on",
}


def register(app: typer.Typer) -> None:
    app.command(
        epilog=examples(
            "xreal-synth status out/quickstart",
            "xreal-synth status s3://bucket/datasets/out/pneumonia-balance --watch",
        )
    )(status)


def status(
    dataset: DatasetArgument,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Looks again until the run has ended (Ctrl-C leaves).")
    ] = False,
    every: Annotated[
        float, typer.Option(min=1.0, max=3600.0, help="Seconds between two looks of --watch.")
    ] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """How far a dataset is: shards, films, rate, time left. Reads the dataset alone, from anywhere.

    It needs no Ray and no cluster: the shards' records and progress.json tell. With --json, --watch prints one
    object per look.
    """
    from xreal_synth.shards.status import StatusReader
    from xreal_synth.storage import open_store

    reader = StatusReader(open_store(dataset))
    found = reader.read()
    if not watch:
        _print(found, as_json)
        return
    live = None if as_json or not console.is_terminal else Live(_table(found), console=console)
    try:
        if live is not None:
            live.start()
        else:
            _print(found, as_json)
        while found.state == "running":
            time.sleep(every)
            found = reader.read()
            if live is not None:
                live.update(_table(found), refresh=True)
            else:
                _print(found, as_json)
    except KeyboardInterrupt:
        notes.print("not watching any more; the run goes on", markup=False)
    finally:
        if live is not None:
            live.stop()


def status_fields(found: DatasetStatus) -> dict[str, object]:
    """A status for scripts."""
    return {
        "uri": found.uri,
        "name": found.name,
        "state": found.state,
        "exit_code": found.exit_code,
        "shards": {"done": found.shards_done, "total": found.shards_total},
        "groups": {"done": found.groups_done, "total": found.groups_total},
        "films": {"done": found.films, "expected": found.films_total},
        "rejected": found.rejected,
        "dropped": found.dropped,
        "actors": found.actors,
        "images_per_s": _rounded(found.images_per_s, 3),
        "eta_s": _rounded(found.eta_s, 0),
        "last_activity": _moment(found.last_activity),
        "quarantined": [{"shard": k, "reason": reason} for k, reason in sorted(found.quarantined.items())],
        "damaged": [{"shard": k, "reason": reason} for k, reason in sorted(found.damaged.items())],
        "message": found.message,
    }


def _print(found: DatasetStatus, as_json: bool) -> None:
    if as_json:
        print_json(status_fields(found))
    else:
        console.print(_table(found))


def _table(found: DatasetStatus) -> Table:
    table = Table(title=f"{found.name}: {_SAID[found.state]}", title_justify="left", show_header=False)
    table.add_row("shards", _of(found.shards_done, found.shards_total))
    table.add_row("anatomies", _of(found.groups_done, found.groups_total))
    table.add_row("films", _of(found.films, found.films_total, expected=True))
    if found.rejected:
        table.add_row("rejected attempts", f"{found.rejected:,}, {found.dropped:,} groups dropped")
    if found.images_per_s is not None:
        when = f", {found.actors} actors" if found.state == "running" else " when last at work"
        table.add_row("rate", f"{found.images_per_s:.2f} images/s{when}")
    if found.eta_s is not None:
        table.add_row("left", seconds_text(found.eta_s))
    if found.last_activity is not None:
        ago = seconds_text(max(time.time() - found.last_activity, 0.0))
        table.add_row("last activity", f"{_moment(found.last_activity)} ({ago} ago)")
    for title, shards in (("given up", found.quarantined), ("damaged record", found.damaged)):
        for shard, reason in sorted(shards.items())[:SHOWN_FAILURES]:
            table.add_row(f"{title}: shard {shard}", _plain(reason.splitlines()[0] if reason else ""))
        if len(shards) > SHOWN_FAILURES:
            table.add_row(title, f"and {len(shards) - SHOWN_FAILURES} more (--json lists all)")
    table.add_row("at", _plain(found.uri))
    return table


def _of(done: int, total: int | None, *, expected: bool = False) -> str:
    if total is None:
        return f"{done:,} (of how many, nothing here tells)"
    return f"{done:,} of {'about ' if expected and total != done else ''}{total:,}"


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _moment(at: float | None) -> str | None:
    return None if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
