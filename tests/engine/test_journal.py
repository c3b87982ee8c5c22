"""A run's log: what is in it, when it begins, on disks and object stores that fail; and how `status` reads it."""

from __future__ import annotations

import dataclasses
import json
import re
import resource
from pathlib import Path

import pytest

from xreal_synth.cli.main import main
from xreal_synth.dataset.status import last_lines, run_logs
from xreal_synth.engine import journal as journal_module
from xreal_synth.engine.account import Account
from xreal_synth.engine.journal import PART_BYTES, Journal, journal
from xreal_synth.engine.ledger import Totals
from xreal_synth.engine.log import line_of_logged
from xreal_synth.engine.progress import (
    EVENTS,
    ActorLost,
    ActorUp,
    Advanced,
    Event,
    Events,
    MicroBatchFound,
    RunEnded,
    RunSummary,
    ShardAdopted,
    ShardDone,
    ShardRetried,
    Warned,
)
from xreal_synth.engine.worker import environment
from xreal_synth.errors import StorageError
from xreal_synth.run.setup import claim
from xreal_synth.storage import LocalStore, RemoteStore, Store

NOW = 1_900_000_000.25
UP = ActorUp("a0", "node", 1.5)
DONE = ShardDone(3, 7, 1, 2.5, 1, 6, 2, 0, {"pixels": 1}, 4096, {"make_s": 2.5}, "a0@node:7")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def lines(store: Store) -> list[dict[str, object]]:
    (log,) = run_logs(store)
    return [json.loads(line) for key in log for line in store.read_bytes(key).splitlines()]


def ended(store: Store, message: str = "") -> RunSummary:
    return RunSummary(0, store.uri, 6, 6, 12, 12, 1, 0, 12, 3.0, 4.0, {}, message=message)


def break_off(log: Journal, event: Event, error: BaseException) -> None:
    with log:
        log.on_event(event)
        raise error


@pytest.fixture
def claimed(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "set")
    store.put_if_absent("dataset.json", b"{}")
    return store


def test_a_run_is_reported_from_first_to_last_line(tmp_path, open_fault_run, fake):
    run, store = open_fault_run(), LocalStore(tmp_path)
    heard = []
    with journal(run, store, heard.append) as log:
        log.on_event(ShardAdopted(0))
        assert list(tmp_path.iterdir()) == [], "a place that was not claimed stays empty"
        claim(run, store, environment(fake(run)))
        events = [ShardAdopted(0), UP, MicroBatchFound(4, ((4, 1.0, 0.25),)), DONE, ActorLost("a0", None, "gone")]
        for event in events[1:]:
            log.on_event(event)
        account = Account(run, store, Totals(), lambda event: None)
        log.on_event(RunEnded(account.summary(None, {}, {1: "not begun"}, stopped=True)))
    assert heard == [], "nothing went wrong"
    first, *middle, last = lines(store)
    (path,) = (tmp_path / "logs").iterdir()
    assert re.fullmatch(r"\d{8}T\d{9}Z-.+-\d+\.jsonl", path.name)
    assert {line["run"] for line in (first, *middle, last)} == {path.stem}
    assert (first["event"], first["format"], first["digest"], first["groups"], first["shards"]) == (
        "run_opened", 1, run.digest, 12, 6,
    )  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(first["at"]))
    assert [line["event"] for line in middle] == [
        "shard_adopted", "actor_up", "micro_batch_found", "shard_done", "actor_lost",
    ]  # fmt: skip
    assert middle[3].items() >= {"shard": 3, "refused": {"pixels": 1}, "timings": {"make_s": 2.5}}.items()
    assert (last["event"], last["exit_code"], last["failed"], last["unwritten"]) == ("run_ended", 75, 1, 0)
    assert last["failures"] == [{"shard": 1, "reason": "not begun", "quarantined": False}]
    assert last["events"] == {
        "shard_adopted": 1, "actor_up": 1, "micro_batch_found": 1, "shard_done": 1, "actor_lost": 1,
    }  # fmt: skip


def test_a_run_that_cannot_start_or_has_nothing_to_do_leaves_no_log(tmp_path, claimed):
    with pytest.raises(StorageError):
        break_off(Journal(claimed, {}, lambda event: None), Warned("before"), StorageError(found="nothing starts"))
    with Journal(claimed, {}, lambda event: None) as log:
        log.on_event(RunEnded(ended(claimed)))
    assert run_logs(claimed) == []
    with Journal(LocalStore(tmp_path / "unclaimed"), {}, lambda event: None) as log:
        log.on_event(Warned("before"))
        log.on_event(RunEnded(ended(claimed)))
    assert not (tmp_path / "unclaimed").exists()
    with Journal(claimed, {}, lambda event: None) as log:
        log.on_event(ShardAdopted(1))
        log.on_event(RunEnded(ended(claimed)))
    assert [line["event"] for line in lines(claimed)] == ["run_opened", "shard_adopted", "run_ended"]


def test_an_exception_is_the_last_line(claimed):
    with pytest.raises(KeyboardInterrupt):
        break_off(Journal(claimed, {}, lambda event: None), UP, KeyboardInterrupt())
    assert (lines(claimed)[-1]["event"], lines(claimed)[-1]["error"]) == ("run_failed", "KeyboardInterrupt")


def test_progress_is_reported_once_a_minute_and_a_log_has_an_end(claimed, monkeypatch):
    monkeypatch.setattr(journal_module, "LIMIT_BYTES", 2000)
    clock = Clock()
    with Journal(claimed, {}, lambda event: None, clock) as log:
        log.on_event(UP)
        for _ in range(240):
            log.on_event(Advanced(1, 12, 0.5, None, 3))
            clock.now += 0.5
        log.on_event(ActorLost("a0", 1, "x" * 9000))
        for shard in range(20):
            log.on_event(ShardRetried(shard, 1, "y" * 100))
        log.on_event(RunEnded(ended(claimed)))
    reported = lines(claimed)
    assert [line["event"] for line in reported].count("advanced") == 2
    assert [line["event"] for line in reported].count("actor_lost") == 0, "it alone is larger than what is left"
    size = sum(path.stat().st_size for path in (claimed.local_path / "logs").iterdir())
    assert size < 2000 + len(json.dumps(reported[-1])) + 1
    written = [line["event"] for line in reported].count("shard_retried")
    assert 0 < written < 20
    assert reported[-1]["unwritten"] == 1 + 20 - written
    assert reported[-1]["events"]["advanced"] == 240


def test_neither_credentials_nor_endless_texts(claimed, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")
    reason = "at https://me:pass-word@host/x?X-Amz-Signature=abc123&n=1 Authorization: Bearer tok.en very-secret-value"
    with Journal(claimed, {}, lambda event: None) as log:
        log.on_event(UP)
        log.on_event(ShardRetried(1, 1, reason + "z" * 9000))
    reported = str(lines(claimed)[-1]["reason"])
    assert reported.startswith("at https://***@host/x?X-Amz-Signature=***&n=1 Authorization: Bearer *** ***zzz")
    assert len(reported) < 4100


def test_a_disk_that_fails_is_reported_once_and_lines_stay_whole(claimed):
    (claimed.local_path / "logs").write_text("a file where a folder must be")
    heard = []
    with Journal(claimed, {}, heard.append) as log:
        log.on_event(UP)
        log.on_event(DONE)
        (claimed.local_path / "logs").unlink()
        log.on_event(DONE)
        log.on_event(RunEnded(ended(claimed)))
    (warned,) = heard
    assert "log cannot be written" in warned.message
    assert [line["event"] for line in lines(claimed)] == ["shard_done", "run_ended"]
    assert lines(claimed)[-1]["unwritten"] == 3


def test_what_a_listener_says_comes_to_all_itself_too(claimed):
    (claimed.local_path / "logs").write_text("a file where a folder must be")
    heard: list[Event] = []
    events = Events([heard.append])
    with Journal(claimed, {}, events) as log:
        events.append(log.on_event)
        events(UP)
        (claimed.local_path / "logs").unlink()
        events(RunEnded(ended(claimed)))
    assert [type(event) for event in heard] == [ActorUp, Warned, RunEnded]
    assert lines(claimed)[-1]["events"] == {"actor_up": 1, "warned": 1}


def test_a_line_that_a_full_disk_cuts_off_stays_alone(claimed):
    heard: list[Event] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(claimed, {}, heard.append) as log:
        log.on_event(UP)
        (path,) = (claimed.local_path / "logs").iterdir()
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, hard))
        try:
            log.on_event(DONE)
            log.on_event(DONE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.on_event(DONE)
        log.on_event(RunEnded(ended(claimed)))
    assert [type(event) for event in heard] == [Warned]
    (found,) = run_logs(claimed)
    reported = last_lines(claimed, found, 99)
    assert [line["event"] for line in reported] == ["run_opened", "actor_up", "shard_done", "run_ended"]
    assert reported[-1]["unwritten"] == 2


def test_object_storage_gets_parts_of_bounded_size_seldom(tmp_path, monkeypatch):
    store = RemoteStore(f"memory://{tmp_path}/set")
    store.put_if_absent("dataset.json", b"{}")
    writes: list[tuple[str, int]] = []
    replace = RemoteStore.replace
    monkeypatch.setattr(
        RemoteStore, "replace", lambda self, key, data: writes.append((key, len(data))) or replace(self, key, data)
    )
    clock = Clock()
    with Journal(store, {}, lambda event: None, clock) as log:
        log.on_event(UP)
        assert len(writes) == 1, "the beginning is there at once"
        for _ in range(1500):
            log.on_event(DONE)
            clock.now += 0.1
        log.on_event(RunEnded(ended(store)))
    (found,) = run_logs(store)
    assert [key.rsplit(".", 2)[1] for key in found] == ["0000", "0001"]
    assert len(writes) <= 150 / 30 + 2
    assert max(size for _, size in writes) < PART_BYTES + 301 * 400
    reported = lines(store)
    assert len(reported) == 1 + 1 + 1500 + 1
    assert last_lines(store, found, 700) == reported[-700:]
    assert last_lines(store, found, 9999) == reported


def test_object_storage_that_fails_holds_up_nothing_for_ever(tmp_path, monkeypatch):
    store = RemoteStore(f"memory://{tmp_path}/set")
    store.put_if_absent("dataset.json", b"{}")
    monkeypatch.setattr(journal_module, "HELD", 500)
    clock, heard, tries = Clock(), [], []

    def fail(self, key, data):
        tries.append(key)
        raise StorageError(found="the service is away")

    with monkeypatch.context() as away:
        away.setattr(RemoteStore, "replace", fail)
        log = Journal(store, {}, heard.append, clock)
        log.on_event(UP)
        for _ in range(500 + 98):
            log.on_event(DONE)
            clock.now += 0.001
    assert len(tries) == 1
    clock.now += 31
    log.on_event(Advanced(1, 12, 0.5, None, 3))
    log.on_event(RunEnded(ended(store)))
    assert [type(event) for event in heard] == [Warned]
    reported = lines(store)
    assert len(reported) == 500 + 1
    assert reported[-1]["unwritten"] == 100 + 1, "the opening, the actor and 498 shards were kept"


def test_the_last_lines_of_a_file_with_broken_ones(tmp_path):
    store = LocalStore(tmp_path)
    good = [json.dumps({"at": f"t{k}", "run": "r", "event": "warned", "message": "m" * (k % 500)}) for k in range(900)]
    text = "\n".join((*good[:450], '{"at": "cut o', *good[450:], '{"at": "t", "event'))
    store.put_if_absent("logs/20301122T010203004Z-host-1.jsonl", text.encode())
    store.put_if_absent("logs/20301122T010203003Z-host-1.jsonl", b"")
    store.put_if_absent("logs/notes.txt", b"not ours")
    log = run_logs(store)[-1]
    assert [json.dumps(line) for line in last_lines(store, log, 600)] == good[-600:]
    assert last_lines(store, run_logs(store)[0], 5) == []


def test_every_event_reads_as_it_was_said(claimed):
    assert set(EVENTS) >= {"run_started", "shard_done", "micro_batch_found", "stopping"}
    with Journal(claimed, {"package": "1", "ray": "2", "host": "h", "digest": "d" * 64}, lambda event: None) as log:
        for event in (UP, DONE, ActorLost("a0", 3, "gone"), MicroBatchFound(4, ((4, 1.0, 0.25),))):
            log.on_event(event)
        log.on_event(RunEnded(ended(claimed, "all well")))
    said = [line_of_logged(line)[21:] for line in lines(claimed)]
    assert said == [
        "run of xreal-synth 1 with Ray 2 on h, digest dddddddddddd",
        "actor a0 up on node after 1.5 s",
        "shard 3 done: 7 images, 1 rejected in 2.5 s (1 of 6)",
        "actor a0 lost with shard 3: gone",
        "micro-batch 4 from now on (tried 4: 1.00 images/s, 25% of memory)",
        "ended with exit code 0: 12 images in 3 s, 6 of 6 shards done; all well",
    ]
    other = {"at": "2030-01-02T03:04:05.678Z", "run": "r", "event": "moon_rose", "height": 3}
    assert line_of_logged(other) == "2030-01-02 03:04:05  moon_rose: height 3"
    assert line_of_logged({**other, "event": "shard_done"}) == "2030-01-02 03:04:05  shard_done: height 3"


def test_the_schema_is_documented_as_it_is(claimed):
    text = (Path(__file__).parents[2] / "cluster" / "README.md").read_text()
    start = text.index("**The log of a run**")
    named = set(re.findall(r"`(\w+)`", text[start : text.index("```sh", start)]))
    assert named >= EVENTS.keys()
    assert named >= {field.name for kind in EVENTS.values() for field in dataclasses.fields(kind)}
    with Journal(claimed, {}, lambda event: None) as log:
        log.on_event(UP)
        log.on_event(RunEnded(ended(claimed)))
    assert named >= {line["event"] for line in lines(claimed)}


def test_status_shows_the_last_events(tmp_path, open_fault_run, fake, monkeypatch, capsys):
    run, store = open_fault_run(), LocalStore(tmp_path / "set")
    claim(run, store, environment(fake(run)))

    def status(*more: str) -> str:
        monkeypatch.setattr("sys.argv", ["xreal-synth", "status", store.uri, *more])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        return capsys.readouterr().out

    assert "no run has left a log" in status("--events", "3")
    with journal(run, store, lambda event: None) as log:
        for event in (UP, DONE, DONE):
            log.on_event(event)
    said = status("--events", "2")
    assert said.count("shard 3 done: 7 images, 1 rejected in 2.5 s (1 of 6)") == 2
    assert "actor a0 up" not in said
    assert "done: 7" not in status()
    reported = json.loads(status("--json", "--events", "4"))["events"]
    assert [line["event"] for line in reported] == ["run_opened", "actor_up", "shard_done", "shard_done"]
