"""Shards that share micro-batches: equal bytes, each shard once, and what happens when one of them fails."""

from __future__ import annotations

import errno
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.fake_backend import FakeImages
from tests.doubles.shards import run_shard
from tests.speed.rows import count_rows
from xreal_synth.engine.backend import Networks
from xreal_synth.engine.publish import OpenShard, ShardEncoder, publish_shard
from xreal_synth.engine.worker import Worker, environment
from xreal_synth.run.group_job import group_job
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import Run, claim
from xreal_synth.sampling.jobs import GroupImages, GroupJob
from xreal_synth.storage import LocalStore
from xreal_synth.types import ShardRecord

GATED = {
    "quality__profile": "standard",
    "quality__checks": '{"seam": {"action": "off"}, "change": {"action": "off"}}',
    "quality__max_attempts": 2,
    "compute__precision": "fp32",
    "output__shard_samples": 4,
    "sampling__steps": 2,
}
BLANK = frozenset({(1, 0), (3, 0), (3, 1), (3, 2), (6, 0), *((7, attempt) for attempt in range(4)), (10, 0)})
"""Groups 1, 6 and 10 pass at their second try, 3 at its fourth, 7 never."""


class Blanked:
    """Networks of which some attempts come out as one grey, which the gate refuses; `batches` are those begun."""

    def __init__(self, run: Run, micro_batch: int) -> None:
        self._inner: Any = Networks().open(run, actor_shape(run.recipe.compute, Resources(1, 0), recorded=micro_batch))
        self.batches: list[list[int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def renderer(self, on_batch: Callable[[float], None]) -> BlankedRenderer:
        return BlankedRenderer(self._inner.renderer(on_batch), self.batches)


class BlankedRenderer:
    def __init__(self, inner: Any, batches: list[list[int]]) -> None:
        self._inner, self._batches = inner, batches
        self._attempts: dict[int, int] = {}

    def begin(self, jobs: Sequence[GroupJob]) -> list[GroupImages]:
        self._batches.append([job.index for job in jobs])
        self._attempts.update((job.index, job.attempt) for job in jobs)
        return [self._seen(group) for group in self._inner.begin(jobs)]

    def finish(self) -> list[GroupImages]:
        return [self._seen(group) for group in self._inner.finish()]

    def _seen(self, group: GroupImages) -> GroupImages:
        if (group.index, self._attempts[group.index]) not in BLANK:
            return group
        return GroupImages(group.index, {name: image * 0 + 90 for name, image in group.images.items()})


def make_together(run: Run, backend: Any, folder: Path, waiting: int) -> list[ShardRecord]:
    store, records = LocalStore(folder), list[ShardRecord]()
    claim(run, store, environment(backend))

    def deliver(rendered: OpenShard) -> None:
        records.append(publish_shard(run, rendered, store, actor="here", attempt=0, replacing=False))

    with Worker(run, backend, deliver) as worker:
        for number in range(run.plan.shard_count):
            worker.make(run.plan.shard(number), waiting)
            assert len(worker.open) <= waiting
        worker.finish()
        assert worker.open == ()
    return records


def test_shards_that_share_micro_batches_have_the_bytes_of_those_made_alone(
    tmp_path: Path, open_fault_run: Callable[..., Run], tar_hashes: Callable[[Path], dict[str, str]]
) -> None:
    run = open_fault_run(**GATED)
    alone, store = Blanked(run, 3), LocalStore(tmp_path / "alone")
    claim(run, store, environment(alone))  # type: ignore[arg-type]
    expected = [run_shard(run, alone, run.plan.shard(k), store) for k in range(3)]  # type: ignore[arg-type]
    together = Blanked(run, 3)
    records = make_together(run, together, tmp_path / "together", waiting=2)
    assert sorted(record.shard for record in records) == [0, 1, 2], "each once"
    assert {record.shard: (record.tar, record.table, record.rejects) for record in records} == {
        record.shard: (record.tar, record.table, record.rejects) for record in expected
    }
    assert tar_hashes(tmp_path / "together") == tar_hashes(tmp_path / "alone")
    assert any(min(batch) < 4 <= max(batch) for batch in together.batches), "groups of two shards in one"
    assert len(together.batches) < len(alone.batches)
    assert all(record.timings["make_s"] > 0 for record in records)


def test_a_failure_gives_up_every_open_shard_and_leaves_nothing(
    tmp_path: Path, open_fault_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_fault_run(compute__micro_batch=4, output__shard_samples=3)
    backend = FakeImages(poison=frozenset({5})).open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    delivered: list[int] = []

    def deliver(rendered: OpenShard) -> None:
        delivered.append(rendered.shard.shard)
        with rendered.folder:
            rendered.encoder.close()

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with Worker(run, backend, deliver) as worker:
        worker.make(run.plan.shard(0), waiting=1)
        assert worker.open == (0,)
        with pytest.raises(RuntimeError, match="group 5 is poison"):
            worker.make(run.plan.shard(1), waiting=0)
        assert worker.abandon() == (1,), "shard 0 was through with the micro-batch before"
        assert delivered == [0]
        worker.make(run.plan.shard(2))
        assert delivered == [0, 2], "what comes after it is made"
    assert list((tmp_path / "temporary").iterdir()) == []


class Beside:
    """A gate's verdicts, each heard only once the model has begun another micro-batch; or late, by `seconds`."""

    def __init__(self, backend: Blanked, seconds: float = 0.0) -> None:
        self._gate, self._batches, self._seconds = backend._inner.gate, backend.batches, seconds
        self.met = 0

    def judge(self, images: Any) -> Any:
        begun, until = len(self._batches), time.monotonic() + 3 * (not self._seconds)
        while len(self._batches) == begun and time.monotonic() < until and self.met < 2:
            time.sleep(0.01)
        self.met += len(self._batches) > begun
        time.sleep(self._seconds)
        return self._gate.judge(images)


def test_the_gate_judges_beside_the_model_and_time_changes_nothing(
    tmp_path: Path, open_fault_run: Callable[..., Run], tar_hashes: Callable[[Path], dict[str, str]]
) -> None:
    run = open_fault_run(**GATED)
    begun = []
    for name, seconds in (("beside", 0.0), ("late", 0.05)):
        backend = Blanked(run, 3)
        gate = Beside(backend, seconds)
        backend.gate = gate
        make_together(run, backend, tmp_path / name, waiting=2)
        begun.append(backend.batches)
        assert seconds or gate.met == 2, "the model went on while the gate had not answered"
    assert begun[0] == begun[1]
    assert tar_hashes(tmp_path / "beside") == tar_hashes(tmp_path / "late")


def test_a_full_disk_is_told_as_such_and_leaves_nothing(
    open_fault_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = open_fault_run(compute__micro_batch=2)
    backend = FakeImages().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def full(encoder: ShardEncoder, frontier: int | None) -> None:
        if frontier is None or frontier > run.plan.shard(0).start:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ShardEncoder, "write", full)
    with pytest.raises(OSError, match="No space left"), Worker(run, backend, lambda rendered: None) as worker:
        worker.make(run.plan.shard(0))
    assert worker.open == ()
    assert list(tmp_path.iterdir()) == []


def test_the_next_shard_s_first_groups_are_planned_while_one_is_made(
    open_fault_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_fault_run(compute__micro_batch=4, output__shard_samples=4)
    backend = FakeImages().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    planned: list[int] = []
    monkeypatch.setattr("xreal_synth.engine.worker.group_job", lambda run, spec: _noted(planned, run, spec))

    def deliver(rendered: OpenShard) -> None:
        with rendered.folder:
            rendered.encoder.close()

    with Worker(run, backend, deliver) as worker:
        worker.make(run.plan.shard(0), waiting=1)
        worker._planner.submit(lambda: None).result()
        assert set(planned) == set(range(8))
        worker.make(run.plan.shard(2), waiting=0)
    assert sorted(planned) == list(range(12)), "nothing twice"


def _noted(planned: list[int], run: Run, spec: Any) -> GroupJob:
    planned.append(spec.index)
    return group_job(run, spec)


def test_hardly_a_row_is_paid_for_padding_where_a_gate_refuses() -> None:
    apart, together = (count_rows(10, 16, 8, 0.1, waiting) for waiting in (0, 2))
    assert apart.share < 0.8
    assert together.share > 0.9, "but for the last shards, which have none to share with"
