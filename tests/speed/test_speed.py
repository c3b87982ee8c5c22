"""The bench of the engine's own speed: what it counts, and what an actor notes of its start."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.doubles.fake_backend import FakeImages
from tests.doubles.local_cluster import LocalCluster
from tests.doubles.shards import run_shard
from tests.speed.marked import Marked, read_marks
from tests.speed.start_up import PARTS, read_start, run_marked
from tests.speed.ways import Pass, Task, WaysBench, figures
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.stopwatch import GATE, MODEL, WAIT
from xreal_synth.storage import LocalStore

TASK = Task("xreal-tiny", 8, 2, {"quality.profile": "none", "compute.micro_batch": 4})


def bench(sleep_s: float = 0.0) -> WaysBench:
    shape = actor_shape(TASK.run().recipe.compute, Resources(1, 0))
    return WaysBench(TASK, FakeImages(sleep_s=sleep_s), shape, actors=1)


def test_all_ways_make_the_same_images_and_the_worker_is_slower_by_what_it_does() -> None:
    passes = bench(0.02).measure(2, ("bare", "worker"))
    assert [one.way for one in passes] == ["bare", "worker"] * 2
    assert len({one.images for one in passes}) == 1
    assert all(one.spent[MODEL] >= 16 * 0.02 for one in passes)
    bare, worker = figures(passes)
    assert (bare.wall, bare.cpu) == (1.0, 1.0)
    assert bare.outside == pytest.approx(0, abs=1e-6)
    assert 0 < worker.outside < 1
    assert worker.cpu < 1, "planning and encoding are not for nothing"


def test_shares_are_of_every_actor_s_wall_time() -> None:
    one = Pass("engine", 10, 5.0, 1.0, {MODEL: 8.0, GATE: 1.0, WAIT: 0.5}, actors=2)
    assert one.share(WAIT) == pytest.approx(0.05)
    assert one.outside == pytest.approx(0.1)
    row = figures([Pass("bare", 10, 8.0, 4.0, {MODEL: 8.0}), one])[1]
    assert row.images_per_s == 2.0
    assert row.wall == pytest.approx(0.8), "each of two actors makes 1 image a second, the bare loop 1.25"


@pytest.mark.ray
def test_the_engine_is_timed_and_its_actor_s_start_reported(joined_ray: LocalCluster, tmp_path: Path) -> None:
    (made,) = bench(0.01).measure(1, ("engine",))
    (alone,) = bench().measure(1, ("bare",))
    assert made.images == alone.images
    assert made.cpu_s > 0
    assert 0 < made.share(MODEL) < 1

    (tmp_path / "marks").mkdir()
    (tmp_path / "recipe.yaml").write_text(TASK.text(actors=1, micro_batch=4))
    began = time.time()
    assert run_marked(tmp_path, 0.01) == 0
    start = read_start(tmp_path, began)
    assert list(start.named()) == list(PARTS)
    assert 0 < start.first_image < time.time() - began
    assert start.named()["first micro-batch"] >= 4 * 0.01


def test_an_actor_notes_its_start_in_order(tmp_path: Path) -> None:
    run = TASK.run()
    backend = Marked(FakeImages(), str(tmp_path)).open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    run_shard(run, backend, run.plan.shard(0), LocalStore(tmp_path / "out"))
    (marks,) = read_marks(tmp_path)
    assert marks.begun is not None
    assert marks.first_image is not None
    assert marks.called <= marks.imported <= marks.loaded <= marks.begun <= marks.first_image
    assert marks.images >= 3
    assert marks.cpu_s > 0
