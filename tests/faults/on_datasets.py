"""Faults while a dataset is repaired or grows."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from tests.doubles.fake_backend import FakeImages
from tests.doubles.processes import strike
from tests.faults.bed import QUICK, Bed, Seen, Watched
from tests.faults.on_storage import cut
from tests.faults.table import fault
from xreal_synth.dataset.head import read_head
from xreal_synth.dataset.names import SHARDS
from xreal_synth.engine.progress import ActorUp, Advanced, Event, RunSummary
from xreal_synth.engine.repair import RepairPlan, carry_out, open_for_repair, plan_repair
from xreal_synth.storage import LocalStore

GROUP = 5
"""Of shard 2, which is among those to be made again."""


@fault("repair", "a dataset damaged in seven ways, an actor killed meanwhile", "only what is broken is made")
def repair(bed: Bed) -> Seen:
    out = _damaged(bed)
    before = {shard: _tar(out, shard).stat().st_ino for shard in (0, 6)}
    plan, watched = _repaired(bed, out, replace(QUICK, **bed.trap(GROUP, strike)))
    seen = bed.seen(watched, out)
    whats = {action.shard: action.what for action in plan.actions}
    wanted = {1: "make", 2: "make", 3: "adopt", 4: "adopt", 5: "make", 7: "make"}
    seen.must(whats == wanted, f"planned {whats}, wanted {wanted}")
    after = {shard: _tar(out, shard).stat().st_ino for shard in (0, 6)}
    seen.must(after == before, "sound shards were touched")
    seen.must(seen.retried in (1, 2), f"{seen.retried} shards retried, wanted the one struck, and one being published")
    return seen


@fault("repair-stopped", "a repair stopped midway; the same command again", "it goes on", 75)
def repair_stopped(bed: Bed) -> Seen:
    out = _damaged(bed)
    stop = threading.Event()
    up: list[Event] = []

    def on_event(event: Event) -> None:
        if isinstance(event, ActorUp):
            up.append(event)
        elif up and isinstance(event, Advanced):
            stop.set()

    _, watched = _repaired(bed, out, FakeImages(sleep_s=1.0), stop=stop, on_event=on_event)
    seen = Seen(watched.exit_code)
    plan, again = _repaired(bed, out, FakeImages())
    seen.must(0 < len(plan.actions) < 6, f"{len(plan.actions)} shards were left to repair, wanted some")
    seen.must(again.exit_code == 0, f"exit code {again.exit_code} of the second repair")
    bed.check(seen, out)
    return seen


@fault("grown", "a recipe grown from 7 groups to 16, an actor killed meanwhile", "whole shards stay")
def grown(bed: Bed) -> Seen:
    out = bed.output()
    first = bed.drive(out, FakeImages(), run=bed.run(anatomies=7))
    before = {shard: _tar(out, shard).stat().st_ino for shard in range(3)}
    plan, watched = _repaired(bed, out, replace(QUICK, **bed.trap(11, strike)), anatomies=16)
    seen = bed.seen(watched, out)
    seen.must(first.exit_code == 0, f"exit code {first.exit_code} of the small run")
    seen.must(plan.shards_to("extend") == (3,), f"to extend: {plan.shards_to('extend')}, wanted (3,)")
    after = {shard: _tar(out, shard).stat().st_ino for shard in range(3)}
    seen.must(after == before, "whole shards were touched")
    return seen


def _damaged(bed: Bed) -> Path:
    """Every way at once: a cut tar, another byte in an image, a table and a record cut, a shard lost without a trace,
    a tar lost, samples.parquet cut."""
    out = bed.output()
    shutil.copytree(bed.whole_folder, out)
    cut(_tar(out, 1))
    content = bytearray(_tar(out, 2).read_bytes())
    content[700] ^= 1
    _tar(out, 2).write_bytes(content)
    cut(out / "tables/chaos-000003.parquet")
    cut(out / "records/chaos-000004.json")
    for part in ("records/chaos-000005.json", "tables/chaos-000005.parquet", "shards/chaos-000005.tar"):
        (out / part).unlink()
    _tar(out, 7).unlink()
    cut(out / "samples.parquet")
    return out


def _tar(out: Path, shard: int) -> Path:
    return out / SHARDS / f"chaos-{shard:06d}.tar"


def _repaired(
    bed: Bed, out: Path, backend: FakeImages, *, anatomies: int | None = None, stop: threading.Event | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> tuple[RepairPlan, Watched]:  # fmt: skip
    """As `xreal-synth repair` does, with fake images."""
    store = LocalStore(out)
    head = read_head(store)
    run = open_for_repair(store, head, anatomies=anatomies, bundle=None, images=None)
    plan = plan_repair(run, store, head)
    watched: list[Watched] = []

    def make(again: frozenset[int], leave: Mapping[int, str]) -> RunSummary:
        watched.append(bed.drive(out, backend, run=run, stop=stop, on_event=on_event, again=again, leave=leave))
        summary = watched[0].summary
        assert summary is not None, "the run has ended"
        return summary

    carry_out(run, store, head, plan, make)
    return plan, watched[0]
