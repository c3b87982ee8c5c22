"""`xreal-synth status DATASET`."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from xreal_synth.cli.options import JsonOption, console, facts_table, note, print_json, seconds_text
from xreal_synth.cli.verify import DatasetArgument

if TYPE_CHECKING:
    from xreal_synth.dataset.status import DatasetStatus, Line, State
    from xreal_synth.storage import Store

SHOWN_FAILURES = 10

_SAID: dict[State, str] = {
    "running": "running",
    "complete": "complete",
    "partial": "partial: the last run ended with shards missing",
    "stopped": "stopped: the same command goes on",
    "silent": "silent: the last run neither goes on nor has said how it ended; the same command goes on",
}

EXAMPLES = ("xreal-synth status out/quickstart", "xreal-synth status s3://bucket/datasets/mine --watch --events 10")


def status(
    dataset: DatasetArgument,
    watch: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Waits for the run, and looks again until it has ended (Ctrl-C leaves)."),
    ] = False,
    every: Annotated[float, typer.Option(min=1.0, max=3600.0, help="Seconds between two looks of --watch.")] = 5.0,
    events: Annotated[
        int, typer.Option(min=0, max=10_000, metavar="N", help="Also shows the last N events of the last run.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """How far a dataset is: shards, images, rate, time left. Reads the dataset alone, from anywhere.

    It needs no Ray and no cluster: the shards' records, progress.json and the run's log tell.

    With --json, --watch prints one object per look.
    """
    from xreal_synth.dataset.names import DATASET
    from xreal_synth.dataset.status import StatusReader
    from xreal_synth.storage import open_store

    store = open_store(dataset)
    reader = StatusReader(store)
    live = Live(console=console) if watch and console.is_terminal and not as_json else None
    try:
        if watch and not store.exists(DATASET):
            note(f"{store.uri}: no {DATASET} here yet: waiting for it")
            while not store.exists(DATASET):
                time.sleep(every)
        with live or nullcontext():
            while True:
                found, reported = reader.read(), _last_events(store, events)
                if live is not None:
                    live.update(_shown(found, reported), refresh=True)
                else:
                    _print(found, reported, as_json)
                if not watch or found.state != "running":
                    return
                time.sleep(every)
    except KeyboardInterrupt:
        if not watch:
            raise
        note("not watching any more; the run goes on")


def status_fields(found: DatasetStatus) -> dict[str, object]:
    """A status for scripts."""
    return {
        "uri": found.uri,
        "name": found.name,
        "state": found.state,
        "exit_code": found.exit_code,
        "shards": {"done": found.shards_done, "total": found.shards_total},
        "groups": {"done": found.groups_done, "total": found.groups_total},
        "images": {"done": found.images, "expected": found.images_total},
        "rejected": found.rejected,
        "dropped": found.dropped,
        "actors": found.actors,
        "images_per_s": found.images_per_s and round(found.images_per_s, 3),
        "eta_s": found.eta_s and round(found.eta_s, 0),
        "last_activity": _moment(found.last_activity),
        "quarantined": [{"shard": k, "reason": reason} for k, reason in sorted(found.quarantined.items())],
        "damaged": [{"shard": k, "reason": reason} for k, reason in sorted(found.damaged.items())],
        "message": found.message,
    }


def _last_events(store: Store, count: int) -> list[Line] | None:
    """The last events of the last run that left a log, the oldest first; None where none were asked for."""
    from xreal_synth.dataset.status import last_lines, run_logs

    if not count:
        return None
    logs = run_logs(store)
    return last_lines(store, logs[-1], count) if logs else []


def _print(found: DatasetStatus, events: list[Line] | None, as_json: bool) -> None:
    if as_json:
        print_json(status_fields(found) | ({} if events is None else {"events": events}))
    else:
        console.print(_table(found))
        if events is not None:
            console.print(_lines(events), soft_wrap=True)


def _shown(found: DatasetStatus, events: list[Line] | None) -> Group:
    return Group(_table(found)) if events is None else Group(_table(found), _lines(events))


def _lines(events: list[Line]) -> Text:
    from xreal_synth.engine.log import line_of_logged

    return Text("\n".join(map(line_of_logged, events)) or "no run has left a log here", overflow="fold")


def _table(found: DatasetStatus) -> Table:
    facts = [
        ("shards", _of(found.shards_done, found.shards_total)),
        ("anatomies", _of(found.groups_done, found.groups_total)),
        ("images", _of(found.images, found.images_total, expected=True)),
    ]
    if found.rejected:
        facts += [("rejected attempts", f"{found.rejected:,}, {found.dropped:,} groups dropped")]
    if found.images_per_s is not None:
        when = f", {found.actors} actors" if found.state == "running" else " when last at work"
        facts += [("rate", f"{found.images_per_s:.2f} images/s{when}")]
    if found.eta_s is not None:
        facts += [("left", seconds_text(found.eta_s))]
    if found.last_activity is not None:
        ago = seconds_text(max(time.time() - found.last_activity, 0.0))
        facts += [("last activity", f"{_moment(found.last_activity)} ({ago} ago)")]
    for title, shards in (("given up", found.quarantined), ("damaged record", found.damaged)):
        shown = sorted(shards.items())[:SHOWN_FAILURES]
        facts += [(f"{title}: shard {shard}", reason.partition("\n")[0]) for shard, reason in shown]
        if len(shards) > SHOWN_FAILURES:
            facts += [(title, f"and {len(shards) - SHOWN_FAILURES} more (--json lists all)")]
    facts += [("at", found.uri)]
    return facts_table(facts, title=f"{found.name}: {_SAID[found.state]}", title_justify="left")


def _of(done: int, total: int | None, *, expected: bool = False) -> str:
    if total is None:
        return f"{done:,} (of how many, nothing here tells)"
    return f"{done:,} of {'about ' if expected and total != done else ''}{total:,}"


def _moment(at: float | None) -> str | None:
    return None if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
