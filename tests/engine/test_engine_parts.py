"""The engine's small parts: compute auto, retries of the storage, publication, counting, the worker's rules."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.doubles.shards import run_shard
from xreal_synth.dataset.tar import read_tar
from xreal_synth.engine.account import Meter, images_per_group
from xreal_synth.engine.log import LineLog
from xreal_synth.engine.pool import Failed, Member, Pool
from xreal_synth.engine.progress import Advanced, ShardDone
from xreal_synth.engine.worker import make_group, replay
from xreal_synth.errors import DatasetError, EngineError, PlacementError, StorageError
from xreal_synth.recipe.schema import Compute
from xreal_synth.run.attempts import plan_group
from xreal_synth.run.fingerprint import fingerprint, fingerprint_differences
from xreal_synth.run.resources import Resources, actor_shape, local_cpus
from xreal_synth.storage import LocalStore, with_retries


@pytest.mark.parametrize(
    ("settings", "resources", "device", "micro_batch", "actors"),
    [
        ({}, Resources(8, 0), "cpu", 4, 8),
        ({}, Resources(0.5, 0), "cpu", 4, 1),
        ({"actors": 3}, Resources(8, 0), "cpu", 4, 3),
        ({"cpus_per_actor": 2.0}, Resources(8, 0), "cpu", 4, 4),
        ({}, Resources(64, 4, nodes=2), "cuda", None, 4),
        ({"gpus_per_actor": 0.5}, Resources(64, 4), "cuda", None, 8),
        ({"gpus_per_actor": 0.3}, Resources(64, 8, nodes=2, node_gpus=(4, 4)), "cuda", None, 24),
        ({"gpus_per_actor": 0.0, "micro_batch": 7}, Resources(6, 4), "cpu", 7, 6),
        ({"gpus_per_actor": 1.0}, Resources(4, 0, nodes=2), "cuda", None, 1),
    ],
)
def test_compute_auto(settings, resources, device, micro_batch, actors):
    shape = actor_shape(Compute(**settings), resources)
    assert (shape.device, shape.micro_batch) == (device, micro_batch)
    assert shape.wanted(resources, shards=100) == actors
    assert shape.wanted(resources, shards=1) == 1


def test_micro_batch_is_the_recipe_s_else_the_recorded_one():
    gpu = Resources(8, 1)
    assert actor_shape(Compute(), gpu, recorded=24).micro_batch == 24
    assert actor_shape(Compute(), Resources(8, 0), recorded=24).micro_batch == 24
    assert actor_shape(Compute(micro_batch=5), gpu, recorded=24).micro_batch == 5


def test_range_of_actors():
    compute = Compute(actors={"min": 2, "max": 6})
    shape = actor_shape(compute, Resources(1, 0))
    assert (shape.wanted(Resources(1, 0), shards=100), shape.least) == (6, 2)
    assert local_cpus(Compute(actors={"min": 2, "max": 96})) == 96


def test_gpu_asked_for_where_there_is_none_is_an_error():
    with pytest.raises(EngineError, match="no GPU"):
        actor_shape(Compute(gpus_per_actor=1.0), Resources(2, 0))


def test_cuda_graphs_asked_of_a_cpu_are_an_error():
    with pytest.raises(EngineError, match="graphs, and no GPU"):
        actor_shape(Compute(compile="graphs"), Resources(2, 0))
    assert actor_shape(Compute(compile="graphs"), Resources(2, 1)).compile == "graphs"


def test_local_ray_has_room_for_the_actors_asked_for():
    assert local_cpus(Compute(actors=97)) == 97
    assert local_cpus(Compute(actors=97, cpus_per_actor=0.5)) == 49


def test_storage_is_tried_again_with_longer_waits():
    waits, failures = [], [OSError("flaky"), StorageError(found="flaky"), OSError("flaky")]

    def action():
        if failures:
            raise failures.pop()
        return "there"

    assert with_retries("writing", action, sleep=waits.append) == "there"
    assert waits == [0.5, 1.0, 2.0]
    with pytest.raises(StorageError, match="writing failed"):
        with_retries("writing", lambda: (_ for _ in ()).throw(OSError("down")), tries=2, sleep=waits.append)


def test_full_disk_is_not_waited_for():
    waits = []
    with pytest.raises(StorageError, match="No space"):
        with_retries(
            "writing",
            lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")),
            sleep=waits.append,
        )
    assert waits == []


def test_publishing_the_same_shard_twice_changes_nothing(tmp_path, open_fault_run, fake, make_shards):
    run = open_fault_run(anatomies=2)
    (record,) = make_shards(run, tmp_path)
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*") if path.is_file()}
    late = run_shard(run, fake(run), run.plan.shard(0), LocalStore(tmp_path), actor="late", attempt=1)
    assert late == record
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*") if path.is_file()} == before


def test_other_bytes_in_place_of_a_shard_are_an_error_and_stay(tmp_path, open_fault_run, fake):
    run = open_fault_run(anatomies=2)
    store = LocalStore(tmp_path)
    store.put_if_absent("shards/fault-000000.tar", b"other")
    with pytest.raises(DatasetError, match="other bytes"):
        run_shard(run, fake(run), run.plan.shard(0), store)
    assert store.read_bytes("shards/fault-000000.tar") == b"other"
    assert store.list("records") == []


def test_expected_images_match_what_is_made(tmp_path, open_fault_run, make_shards):
    run = open_fault_run()
    per_group = images_per_group(run.recipe)
    records = make_shards(run, tmp_path)
    assert per_group.images(12) == sum(record.samples for record in records)
    assert per_group.share(10**6, 2) == pytest.approx(2 * per_group.delivered)
    single = images_per_group(open_fault_run(pairs__twin=False, pairs__variants=3).recipe)
    assert (single.delivered, single.made) == (pytest.approx(7 / 3), pytest.approx(3))


def test_placement_failure_goes_on_to_new_anatomies_then_drops(open_fault_run, monkeypatch):
    run = open_fault_run()
    asked = []

    class Stubborn:
        attempts = run.plan.attempts

        def row(self, index):
            return 1

        def sample(self, index, attempt):
            asked.append(attempt)
            if attempt < good:
                raise PlacementError(found="does not fit")
            return run.plan.sample(index, attempt)

    stubborn = replace(run, plan=Stubborn())
    good = 4
    spec, refused = plan_group(stubborn, 5)
    assert asked == [0, 3, 4]
    assert spec.attempt == 4
    assert [(r.group, r.attempt, r.reason, r.dropped) for r in refused] == [
        (5, 0, "does not fit", False),
        (5, 3, "does not fit", False),
    ]
    good = 99
    spec, refused = plan_group(stubborn, 5)
    assert spec is None
    assert [r.dropped for r in refused] == [False, False, False, True]


def test_replay_makes_the_stored_image_again(tmp_path, open_fault_run, make_shards, fake):
    run = open_fault_run(anatomies=4)
    make_shards(run, tmp_path)
    stored = list(read_tar(tmp_path / "shards/fault-000001.tar"))
    for sample in stored:
        again = replay(run, fake(run), sample.meta.key)
        assert again.meta == sample.meta
        assert (again.image == sample.image).all()
        assert (again.pathology == sample.pathology).all()
    group = make_group(run, fake(run), stored[0].meta.group)
    assert [sample.meta.key for sample in group] == [
        sample.meta.key for sample in stored if sample.meta.group == stored[0].meta.group
    ]
    for key in ("0000000004-h", "0000000001-v7"):
        with pytest.raises(DatasetError, match="delivers no image"):
            replay(run, fake(run), key)


def test_records_hold_time_and_actor_and_images_do_not(tmp_path, open_fault_run, fake):
    run = open_fault_run(anatomies=2)
    record = run_shard(run, fake(run), run.plan.shard(0), LocalStore(tmp_path), actor="a9@host", attempt=2)
    assert (record.actor, record.attempt, record.fingerprint["device"]) == ("a9@host", 2, "fake")
    tar = (tmp_path / record.tar.path).read_bytes()
    assert b"a9@host" not in tar
    assert str(tmp_path).encode() not in tar


def test_fingerprints_name_what_differs():
    here = fingerprint("cpu AVX512", "fp32", 4)
    assert here["micro_batch"] == "4"
    there = {**here, "torch": "0.1"}
    assert fingerprint_differences(there, here) == [f"torch: 0.1 there, {here['torch']} here"]
    assert fingerprint_differences(here, here) == []


def test_rate_is_over_a_window():
    now = [0.0]
    meter = Meter(window_s=10, clock=lambda: now[0])
    for second in range(1, 21):
        now[0] = second
        rate = meter.rate(second * (1 if second <= 10 else 3))
    assert rate == pytest.approx((60 - 9) / 11)


def test_log_says_progress_now_and_then_and_all_else_at_once():
    now, lines = [0.0], []
    log = LineLog(lines.append, every_s=10, clock=lambda: now[0])
    for second in range(25):
        now[0] = second
        log.on_event(Advanced(second, 100, 1.0, 100.0 - second, 2))
    log.on_event(ShardDone(3, 8, 0, 1.5, 4, 12))
    assert lines == [
        "10 of about 100 images, 1.00 images/s, 90 s left",
        "20 of about 100 images, 1.00 images/s, 80 s left",
        "shard 3 done: 8 images in 1.5 s (4 of 12)",
    ]


def test_progress_without_images_names_no_rate_and_the_end_no_expectation():
    assert str(Advanced(0, 100, 0.0, None, 2, {"booting": 2})) == "0 of about 100 images, actors starting"
    assert str(Advanced(0, 100, 0.0, None, 2, {"booting": 1, "working": 1}, 1)) == "0 of about 100 images"
    assert str(Advanced(98, 98, 1.5, None, 2)) == "98 of 98 images, 1.50 images/s"


def test_opening_a_run_and_making_fakes_need_neither_torch_nor_ray(tmp_path, open_fault_run):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(open_fault_run().loaded.text)
    code = (
        "import sys, json; from pathlib import Path\n"
        "import xreal_synth.engine.worker, xreal_synth.engine.ledger, tests.doubles.fake_backend\n"
        "from xreal_synth.run.setup import open_run\n"
        "from xreal_synth.recipe.load import load_recipe\n"
        f"open_run(load_recipe(Path({str(recipe)!r})))\n"
        "print(json.dumps([m for m in ('torch', 'ray', 'torchxrayvision') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == []


def test_micro_batches_are_full_but_for_a_shard_s_last(open_fault_run, fake, tmp_path):
    run = open_fault_run(output__shard_samples=12, compute__micro_batch=5)
    backend, batches = fake(run), []

    class Watched:
        device, precision, micro_batch, gate, facts = "fake", "none", 5, backend.gate, backend.facts

        def renderer(self, on_batch):
            inner = backend.renderer(on_batch)

            def begin(jobs):
                batches.append([job.index for job in jobs])
                return inner.begin(jobs)

            return SimpleNamespace(begin=begin, finish=inner.finish)

    run_shard(run, Watched(), run.plan.shard(0), LocalStore(tmp_path))
    assert batches == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


def test_a_package_is_absent_for_a_while_alone():
    code = (
        "import importlib.util, sys\n"
        "from xreal_synth.engine.backend import absent\n"
        "with absent('wave'):\n"
        "    assert importlib.util.find_spec('wave') is None\n"
        "import wave\n"
        "with absent('wave'):\n"
        "    assert importlib.util.find_spec('wave') is not None\n"
        "assert sys.modules['wave'] is wave\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class OnlyHands(Pool[Member]):
    """Actors that are told things and never answer."""

    def wait(self, timeout_s):
        return []

    def _launch(self, name, shape):
        return Member(name, self.clock())

    def _call(self, member, method, *arguments):
        pass

    def _kill(self, member):
        pass


@pytest.mark.parametrize(
    ("writing", "cause", "reason"),
    [(False, "died", "no new image for 9 s"), (True, "lost", "files not written for 9 s")],
)
def test_a_model_that_hangs_is_told_from_files_that_are_not_written(writing, cause, reason):
    now = [0.0]
    pool = OnlyHands(lambda: now[0])
    member = pool.start(actor_shape(Compute(), Resources(1, 0)))
    pool._answered(member)
    pool.assign(member, 0, 0, replacing=False, alone=False)
    pool._rendered(member, 4.0, open_=True)
    pool.assign(member, 1, 0, replacing=False, alone=False)
    pool._progress(member, 0.0, writing)
    assert pool.hung(5.0) == []
    now[0] = 9.0
    assert pool.hung(5.0) == [(member, Failed(cause, reason, gone=True))]
