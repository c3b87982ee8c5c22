"""Where a shard's seconds go, as its record tells."""

from __future__ import annotations

import errno
import tempfile
import time
from dataclasses import replace

import pytest

from tests.doubles.fake_backend import FakeImages
from tests.doubles.shards import run_shard
from xreal_synth.dataset.record import parse_record, record_bytes
from xreal_synth.engine import publish as encoder
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.stopwatch import GATE, MAKE, MODEL, WAIT, Stopwatch
from xreal_synth.storage import LocalStore


def test_seconds_count_under_the_innermost_name_once():
    watch = Stopwatch()
    began = time.monotonic()
    with watch.within(MODEL):
        time.sleep(0.02)
        with watch.within(WAIT):
            time.sleep(0.04)
        time.sleep(0.02)
    spent = time.monotonic() - began
    seconds = watch.lap()
    assert seconds[WAIT] >= 0.04
    assert seconds[MODEL] >= 0.04
    assert sum(seconds.values()) == pytest.approx(spent, abs=2e-3)


def test_what_raises_counts_too():
    def broken():
        time.sleep(0.02)
        raise ValueError("no")

    watch = Stopwatch()
    with pytest.raises(ValueError, match="no"), watch.within(GATE):
        broken()
    assert watch.lap()[GATE] >= 0.02


def test_a_record_tells_the_model_s_share(open_fault_run, tmp_path):
    run = open_fault_run()
    backend = FakeImages(sleep_s=0.05).open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    record = run_shard(run, backend, run.plan.shard(0), LocalStore(tmp_path))
    spent = record.timings
    assert set(spent) >= {MAKE, MODEL, GATE, WAIT}
    assert spent[MODEL] >= 0.1, "two groups that sleep"
    assert spent[MODEL] + spent[GATE] + spent[WAIT] <= spent[MAKE] + 0.003, "rounded to milliseconds"
    old = replace(record, timings={"make_s": 1.5})
    assert parse_record(record_bytes(old), "old") == old


def test_what_the_encoder_raises_fails_the_shard_and_leaves_nothing(open_fault_run, fake, tmp_path, monkeypatch):
    def full(sample):
        raise OSError(errno.ENOSPC, "no space left")

    run = open_fault_run()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(encoder, "encode_sample", full)
    with pytest.raises(OSError, match="no space"):
        run_shard(run, fake(run), run.plan.shard(0), LocalStore(tmp_path / "out"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
