"""`status`: what records and the run's note tell, at set times; and that it needs neither torch nor Ray."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from tests.doubles.shards import run_shard
from xreal_synth.dataset.names import PROGRESS, record_key
from xreal_synth.dataset.record import record_bytes
from xreal_synth.dataset.seal import sealed
from xreal_synth.dataset.status import RunNote, StatusReader, read_note, write_note
from xreal_synth.engine.account import Account
from xreal_synth.engine.journal import NoteKeeper
from xreal_synth.engine.ledger import Totals
from xreal_synth.engine.progress import ActorUp, Advanced, Event, RunEnded, Warned
from xreal_synth.engine.worker import environment
from xreal_synth.run.setup import claim
from xreal_synth.storage import LocalStore, RemoteStore, Store

NOW = 1_900_000_000.0
MAKE_S = 10.0


@pytest.fixture
def begun(tmp_path, open_fault_run, fake):
    """Four of six shards of two groups, written 10 s apart by two actors, the last just now."""
    run, store = open_fault_run(), LocalStore(tmp_path / "set")
    backend = fake(run)
    claim(run, store, environment(backend))
    images = 0
    for k in range(4):
        record = run_shard(run, backend, run.plan.shard(k), store)
        record = dataclasses.replace(record, actor=f"a{k % 2}", timings={"make_s": MAKE_S})
        store.replace(record_key(f"fault-{k:06d}"), record_bytes(record))
        os.utime(store.local_path / record_key(f"fault-{k:06d}"), (NOW - 10 * (3 - k),) * 2)
        images += record.samples
    return store, images


def note(exit_code: int | None, at: float = NOW, message: str = "") -> RunNote:
    return RunNote(at, exit_code, groups=12, shards=6, actors=2, message=message)


def test_a_run_that_goes_on(begun):
    store, images = begun
    write_note(store, note(None))
    found = StatusReader(store).read(NOW)
    assert (found.state, found.exit_code, found.actors) == ("running", None, 2)
    assert (found.shards_done, found.shards_total) == (4, 6)
    assert (found.groups_done, found.groups_total) == (8, 12)
    assert (found.images, found.images_total) == (images, images + round(images * 0.5))
    last_two = sum(record_samples(store, k) for k in (2, 3))
    assert found.images_per_s == pytest.approx(last_two / MAKE_S)
    assert found.eta_s == pytest.approx((found.images_total - images) / found.images_per_s)
    assert found.last_activity == NOW


def record_samples(store: LocalStore, shard: int) -> int:
    return json.loads(store.read_bytes(record_key(f"fault-{shard:06d}")))["samples"]


@pytest.mark.parametrize(
    ("written", "later", "state"),
    [
        (note(None), 30, "running"),
        (note(None), 300, "silent"),
        (note(75, message="stopped"), 30, "stopped"),
        (note(3), 3000, "partial"),
        (None, 20, "silent"),
        (note(75, at=NOW - 500), 10, "stopped"),
    ],
)
def test_states(begun, written, later, state):
    store, _ = begun
    if written is not None:
        write_note(store, written)
    found = StatusReader(store).read(NOW + later)
    assert found.state == state
    assert found.groups_total == 12
    assert (found.eta_s is not None) == (state == "running")


def test_an_actor_that_left_does_not_count(begun):
    store, _ = begun
    for k in (0, 2):
        os.utime(store.local_path / record_key(f"fault-{k:06d}"), (NOW - 1000,) * 2)
    assert StatusReader(store).read(NOW).images_per_s == pytest.approx(record_samples(store, 3) / MAKE_S)


def test_what_failed_is_listed_until_it_is_made(begun, fake, open_fault_run):
    store, _ = begun
    store.replace("quarantine/fault-000004.json", sealed({"shard": 4, "reason": "out of memory"}))
    store.replace("quarantine/fault-000001.json", sealed({"shard": 1, "reason": "made since"}))
    store.replace("quarantine/other-000009.json", sealed({"shard": 9, "reason": "another dataset's"}))
    key = record_key("fault-000002")
    store.replace(key, store.read_bytes(key).replace(b'"samples": ', b'"samples": 1'))
    reader = StatusReader(store)
    found = reader.read(NOW)
    assert found.quarantined == {4: "out of memory"}
    assert list(found.damaged) == [2]
    assert found.shards_done == 3
    run = open_fault_run()
    store.delete(key)
    for shard in (2, 4):
        run_shard(run, fake(run), run.plan.shard(shard), store, replacing=True)
    found = reader.read(NOW)
    assert (found.quarantined, found.damaged, found.shards_done) == ({}, {}, 5)


def test_an_unchanged_record_is_read_once(begun, monkeypatch):
    store, _ = begun
    reader = StatusReader(store)
    before = reader.read(NOW)
    read: list[str] = []
    original = LocalStore.read_bytes
    monkeypatch.setattr(LocalStore, "read_bytes", lambda self, key: read.append(key) or original(self, key))
    assert reader.read(NOW) == before
    assert read
    assert not [key for key in read if key.startswith("records/")]


def test_a_remote_store_tells_times(tmp_path):
    store: Store = RemoteStore(f"memory://{tmp_path}/times")
    store.put_if_absent("records/a-000000.json", b"x")
    ((size, written),) = store.stats("records").values()
    assert size == 1
    assert 1_700_000_000 < written < 4_000_000_000
    assert store.stats("nowhere") == {}


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def test_the_note_follows_the_run(tmp_path, open_fault_run, fake):
    run, store, clock = open_fault_run(), LocalStore(tmp_path), Clock()
    heard: list[Event] = []
    keeper = NoteKeeper(store, 12, 6, heard.append, every_s=15, clock=clock)
    summary = Account(run, store, Totals(), heard.append).summary(None, {}, {0: ""}, stopped=True)
    keeper.on_event(Advanced(0, 12, 0.0, None, 1))
    keeper.on_event(RunEnded(summary))
    assert list(tmp_path.iterdir()) == [], "a place that was not claimed stays empty"

    claim(run, store, environment(fake(run)))
    keeper.on_event(ActorUp("a0", "n", 1.0))
    assert read_note(store) == RunNote(NOW, None, 12, 6, 1)
    clock.now += 14
    keeper.on_event(Advanced(1, 12, 0.5, None, 3))
    assert read_note(store).at == NOW
    clock.now += 1
    keeper.on_event(Advanced(1, 12, 0.5, None, 3))
    assert (read_note(store).at, read_note(store).actors) == (NOW + 15, 3)
    keeper.on_event(RunEnded(summary))
    assert (read_note(store).exit_code, read_note(store).actors) == (75, 0)
    assert heard == [], "nothing went wrong"


def test_a_run_that_is_broken_off_has_stopped(tmp_path, open_fault_run, fake):
    """As by a second Ctrl-C: nobody would say any more how it ended."""
    run, store = open_fault_run(), LocalStore(tmp_path)
    claim(run, store, environment(fake(run)))
    with suppress(KeyboardInterrupt), NoteKeeper(store, 12, 6, [].append) as keeper:
        keeper.on_event(ActorUp("a0", "n", 1.0))
        assert StatusReader(store).read().state == "running"
        raise KeyboardInterrupt
    found = StatusReader(store).read()
    assert (found.state, found.actors) == ("stopped", 0)
    assert "run the same command again" in found.message


def test_a_note_that_cannot_be_written_is_reported_once(tmp_path, open_fault_run, fake):
    run, store, heard = open_fault_run(), LocalStore(tmp_path), []
    claim(run, store, environment(fake(run)))
    (tmp_path / PROGRESS).mkdir()
    keeper = NoteKeeper(store, 12, 6, heard.append, every_s=0)
    for _ in range(3):
        keeper.on_event(ActorUp("a0", "n", 1.0))
    assert sum(isinstance(event, Warned) for event in heard) == 1


def test_status_needs_neither_torch_nor_ray(begun):
    store, images = begun
    write_note(store, note(3))
    code = (
        "import sys\nfrom xreal_synth.cli.main import app\n"
        f"try:\n    app(['status', {store.uri!r}, '--json'])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'ray', 'diffusers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    assert (reported["state"], reported["images"]["done"], reported["shards"]) == (
        "partial",
        images,
        {"done": 4, "total": 6},
    )


def test_watch_waits_for_the_dataset(begun, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from xreal_synth.cli.main import app

    store, _ = begun
    write_note(store, note(0))
    there = tmp_path / "there"
    monkeypatch.setattr(time, "sleep", lambda seconds: shutil.copytree(store.local_path, there))
    done = CliRunner().invoke(app, ["status", str(there), "--watch"])
    assert done.exit_code == 0, done.output
    assert "no dataset.json here yet: waiting" in done.output
    assert "fault: complete" in done.output


def test_watch_looks_until_the_run_has_ended(begun, monkeypatch):
    from typer.testing import CliRunner

    from xreal_synth.cli.main import app

    store, _ = begun
    write_note(store, dataclasses.replace(note(None), at=time.time()))
    measurements: list[float] = []

    def pause(seconds: float) -> None:
        measurements.append(seconds)
        if len(measurements) == 2:
            write_note(store, dataclasses.replace(note(75), at=time.time()))

    monkeypatch.setattr(time, "sleep", pause)
    for key in store.list("records"):
        os.utime(store.local_path / key, (time.time() - 30,) * 2)
    done = CliRunner().invoke(app, ["status", store.uri, "--watch", "--every", "2"])
    assert done.exit_code == 0, done.output
    assert measurements == [2.0, 2.0]
    assert done.output.count("fault: running") == 2
    assert "stopped: the same command goes on" in done.output


def test_a_copy_is_what_it_was_copied_from(begun):
    store, _ = begun
    for written, state in ((note(0), "complete"), (note(3), "partial"), (note(75), "stopped"), (None, "silent")):
        store.delete("progress.json")
        if written is not None:
            write_note(store, written)
        for at in (NOW - 10_000, NOW, NOW + 10_000):
            for path in store.local_path.rglob("*"):
                os.utime(path, (at, at))
            assert StatusReader(store).read(NOW).state == state
