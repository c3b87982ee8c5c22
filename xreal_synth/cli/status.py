"""`xreal-synth status DATASET`."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Annotated

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typer import Option

from xreal_synth.cli.options import DatasetArgument, JsonOption
from xreal_synth.cli.output import console, note, print_json, seconds_text, table_of
from xreal_synth.dataset.names import DATASET
from xreal_synth.dataset.status import DatasetStatus, Line, State, StatusReader, last_lines, run_logs
from xreal_synth.engine.log import line_of_logged
from xreal_synth.storage import Store, open_store

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
        bool, Option("--watch", "-w", help="Waits for the run, and looks again until it has ended (Ctrl-C leaves).")
    ] = False,
    every: Annotated[float, Option(min=1.0, max=3600.0, help="Seconds between two looks of --watch.")] = 5.0,
    events: Annotated[
        int, Option(min=0, max=10_000, metavar="N", help="Also shows the last N events of the last run.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """How far a dataset is: shards, images, rate, time left. Reads the dataset alone, from anywhere.

    It needs no Ray and no cluster: the shards' records, progress.json and the run's log tell.

    With --json, --watch prints one object per look.
    """
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
                if as_json:
                    print_json(status_fields(found) | ({} if reported is None else {"events": reported}))
                elif live is not None:
                    live.update(Group(*_shown(found, reported)), refresh=True)
                else:
                    for part in _shown(found, reported):
                        console.print(part, soft_wrap=isinstance(part, Text))
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
    if not count:
        return None
    logs = run_logs(store)
    return last_lines(store, logs[-1], count) if logs else []


def _shown(found: DatasetStatus, events: list[Line] | None) -> list[Table | Text]:
    if events is None:
        return [_table(found)]
    lines = "\n".join(map(line_of_logged, events)) or "no run has left a log here"
    return [_table(found), Text(lines, overflow="fold")]


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
    return table_of(facts, title=f"{found.name}: {_SAID[found.state]}", title_justify="left")


def _of(done: int, total: int | None, *, expected: bool = False) -> str:
    if total is None:
        return f"{done:,} (of how many, nothing here tells)"
    return f"{done:,} of {'about ' if expected and total != done else ''}{total:,}"


def _moment(at: float | None) -> str | None:
    return None if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
