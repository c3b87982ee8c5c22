"""Faults on a real Ray, with fake images: nothing lost, nothing doubled, bytes as of an undisturbed run."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tests.doubles.fake_backend import FakeImages
from tests.doubles.shards import run_shard
from xreal_synth.dataset.verify import verify
from xreal_synth.engine.progress import Advanced, RunStarted, ShardDone, ShardQuarantined, ShardRetried, Stopping
from xreal_synth.engine.ray_driver import generate
from xreal_synth.engine.schedule import Limits
from xreal_synth.engine.worker import environment
from xreal_synth.run.setup import claim
from xreal_synth.storage import LocalStore

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("joined_ray")]

LIMITS = Limits(tick_s=0.1, drain_s=60)


def go(folder, run, backend=None, limits=LIMITS, on_event=None):
    """A run's summary and events."""
    events = []

    def note(event):
        events.append(event)
        if on_event is not None:
            on_event(event)

    summary = generate(run, LocalStore(folder), backend=backend or FakeImages(), on_event=note, limits=limits)
    return summary, events


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


@pytest.mark.parametrize("actors", [1, 2])
def test_actor_count_changes_no_byte(actors, tmp_path, open_fault_run, expected, tar_hashes):
    run = open_fault_run(compute__actors=actors)
    summary, events = go(tmp_path, run)
    assert summary.exit_code == 0
    assert (summary.shards_done, summary.groups, summary.dropped) == (6, 12, 0)
    assert sorted(event.shard for event in of(ShardDone, events)) == list(range(6))
    assert of(RunStarted, events)[0].actors == actors
    assert tar_hashes(tmp_path) == expected
    assert verify(LocalStore(tmp_path)).problems == ()
    again, events = go(tmp_path, run)
    assert again.exit_code == 0
    assert again.generated_images == 0
    assert of(ShardDone, events) == []


def test_poison_is_quarantined_after_three_tries_and_a_mistake_at_once(
    tmp_path, open_fault_run, expected, tar_hashes, fake
):
    run = open_fault_run(compute__actors=2)
    summary, events = go(tmp_path, run, FakeImages(poison=frozenset({3}), mistake=frozenset({6})))
    assert summary.exit_code == 3
    assert summary.quarantined == (1, 3)
    own = [event.shard for event in of(ShardRetried, events) if event.failures]
    assert own == [1, 1], "shards that were together with one that fails are made again, and it alone"
    assert {event.shard for event in of(ShardQuarantined, events)} == {1, 3}
    kept = (tmp_path / "quarantine" / "fault-000001.json").read_text()
    assert "group 3 is poison" in kept
    assert "Traceback" in kept
    good = {name: sha for name, sha in expected.items() if name not in ("fault-000001.tar", "fault-000003.tar")}
    assert tar_hashes(tmp_path) == good
    mended, _ = go(tmp_path, run)
    assert mended.exit_code == 0
    assert tar_hashes(tmp_path) == expected
    assert list((tmp_path / "quarantine").iterdir()) == []


def test_sigterm_drains_and_the_next_run_goes_on(tmp_path, open_fault_run, expected, tar_hashes):
    run = open_fault_run(compute__actors=1)
    marks, out = tmp_path / "marks", tmp_path / "out"
    marks.mkdir()

    def stop_in_the_midst() -> None:
        while not (marks / "at-5").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    def on_event(event):
        if isinstance(event, ShardDone) and event.done == 1:
            threading.Thread(target=stop_in_the_midst, daemon=True).start()
        if isinstance(event, Stopping):
            (marks / "go").touch()

    before = signal.getsignal(signal.SIGTERM)
    backend = FakeImages(sleep_s=0.5, held=frozenset({5}), hold=str(marks))
    summary, events = go(out, run, backend, on_event=on_event)
    assert summary.exit_code == 75
    assert [event.in_flight for event in of(Stopping, events)] == [2], "the gate's verdicts come one shard later"
    assert summary.shards_done == 3
    assert len(list((out / "records").iterdir())) == 3
    assert any(0 < event.images_done < event.images_total for event in of(Advanced, events))
    assert signal.getsignal(signal.SIGTERM) == before
    summary, events = go(out, run)
    assert summary.exit_code == 0
    assert of(RunStarted, events)[0].shards_done == 3
    assert tar_hashes(out) == expected


def test_groups_that_wait_are_decided_though_another_run_makes_all_that_is_left(
    tmp_path, open_fault_run, expected, tar_hashes, fake
):
    run = open_fault_run(compute__actors=1)
    marks, out = tmp_path / "marks", tmp_path / "out"
    marks.mkdir()

    def make_the_rest() -> None:
        while not (marks / "at-5").exists():
            time.sleep(0.01)
        for shard in range(3, 6):
            run_shard(run, fake(run), run.plan.shard(shard), LocalStore(out))
        (marks / "go").touch()

    other = threading.Thread(target=make_the_rest, daemon=True)
    other.start()
    backend = FakeImages(held=frozenset({5}), hold=str(marks))
    summary, events = go(out, run, backend, Limits(tick_s=0.1, hang_s=20))
    other.join()
    assert summary.exit_code == 0
    assert of(ShardRetried, events) == [], "its actor was never asked for the groups that it had left"
    assert sorted(event.shard for event in of(ShardDone, events)) == list(range(6))
    assert tar_hashes(out) == expected


def test_unwritable_place_ends_partial_and_goes_on_once_mended(tmp_path, open_fault_run, expected, tar_hashes, fake):
    run = open_fault_run(compute__actors=1)
    claim(run, LocalStore(tmp_path), environment(fake(run)))
    (tmp_path / "tables").write_text("a file where a folder must be")
    summary, _ = go(tmp_path, run, limits=Limits(tick_s=0.1, fruitless=3))
    assert summary.exit_code == 3
    assert summary.quarantined == ()
    assert [failure.shard for failure in summary.failures] == list(range(6))
    assert any("tables/" in failure.reason for failure in summary.failures)
    (tmp_path / "tables").unlink()
    summary, _ = go(tmp_path, run)
    assert summary.exit_code == 0
    assert tar_hashes(tmp_path) == expected
