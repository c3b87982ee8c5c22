"""Stores in bad weather: every operation is tried again, what is missing is not waited for."""

from __future__ import annotations

import pytest

from tests.faults.storm import storm_uri
from xreal_synth.errors import StorageError
from xreal_synth.report.build import try_build
from xreal_synth.storage import LocalStore, RetryingStore, open_store, retrying


def test_every_operation_survives_a_storage_that_fails_every_third_time(tmp_path):
    waits = []
    store = RetryingStore(open_store(storm_uri(tmp_path, errors=3)), waits.append)
    assert store.put_if_absent("a/b", b"one")
    assert not store.put_if_absent("a/b", b"two")
    store.replace("a/c", b"three")
    for _ in range(2):
        assert store.exists("a/b")
        assert not store.exists("a/x")
        assert store.size("a/b") == 3
        assert store.size("a/x") is None
        assert store.read_bytes("a/b") == b"one"
        assert store.read_range("a/c", 1, 3) == b"hr"
        assert b"".join(store.chunks("a/c")) == b"three"
        assert store.list("a") == ["a/b", "a/c"]
    store.delete("a/b")
    assert store.list("a") == ["a/c"]
    assert len(waits) > 5


def test_a_busy_server_s_refusal_is_not_taken_for_an_absent_file(tmp_path):
    store = open_store(storm_uri(tmp_path, errors=1))
    with pytest.raises(OSError, match="Slow Down"):
        store.exists("a")


def test_what_stays_broken_or_is_missing_is_reported(tmp_path):
    waits = []
    down = RetryingStore(open_store(storm_uri(tmp_path, errors=1)), waits.append)
    with pytest.raises(OSError, match="Slow Down"):
        down.list("a")
    assert waits == pytest.approx([0.2, 0.4, 0.8])
    waits.clear()
    with pytest.raises(StorageError, match="cannot read"):
        RetryingStore(open_store(storm_uri(tmp_path)), waits.append).read_bytes("missing")
    assert waits == []


def test_local_store_is_as_it_is(tmp_path):
    store = LocalStore(tmp_path)
    assert retrying(store) is store


def test_a_report_that_cannot_be_written_is_reported_with_the_hint(whole_dataset, tmp_path, open_fault_run):
    """The whole dataset's card, into a place that takes no file."""
    import shutil

    from xreal_synth.dataset.finish import finish
    from xreal_synth.dataset.head import read_head

    run = open_fault_run()
    shutil.copytree(whole_dataset, tmp_path / "out")
    store = LocalStore(tmp_path / "out")
    summary = finish(store, read_head(store))
    (tmp_path / "out" / "README.md").mkdir()
    built, failed = try_build(store, summary, run.bundle)
    assert built is None
    assert "run report" in failed
