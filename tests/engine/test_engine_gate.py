"""The gate in the worker: redraws, drops, order, accounting; verdicts of the real pixel check on fake images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doubles.fake_backend import FakeImages
from tests.doubles.shards import run_shard
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import read_head
from xreal_synth.dataset.names import record_key, rejects_key, table_key
from xreal_synth.dataset.record import read_record
from xreal_synth.dataset.tar import read_tar
from xreal_synth.dataset.verify import verify
from xreal_synth.engine.ledger import read_ledger
from xreal_synth.engine.worker import environment, make_group, replay
from xreal_synth.errors import RecipeError
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.attempts import Attempts, next_attempt, plan_group
from xreal_synth.run.group_job import group_job
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import Run, claim, open_run
from xreal_synth.run.stopwatch import Stopwatch
from xreal_synth.storage import LocalStore
from xreal_synth.types import Rejected, ShardRecord

LIMITS = {
    "pixels": {"action": "reject", "range": 60, "blank": 0.4, "saturated": 0.9, "blur": 0.99},
    "seam": {"action": "off"},
    "change": {"action": "warn", "inside": 1e-9 + 200},
}
GATED = {"quality__profile": "standard", "quality__checks": json.dumps(LIMITS), "quality__max_attempts": 2}
BLANK = frozenset({(1, 0), (4, 0), (4, 1), (4, 2), *((7, attempt) for attempt in range(4)), (8, 0)})
"""Group 1 passes at its second try, 4 at its fourth (an anatomy of its own), 7 never."""


@pytest.fixture(scope="module")
def run(open_fault_run: Callable[..., Run]) -> Run:
    return open_fault_run(**GATED, output__shard_samples=6)


def backend(run: Run, micro_batch: int = 3, blank: frozenset[tuple[int, int]] = BLANK):
    shape = actor_shape(run.recipe.compute, Resources(1, 0), recorded=micro_batch)
    return FakeImages(blank=blank).open(run, shape)


def make(run: Run, folder: Path, **how) -> tuple[LocalStore, list[ShardRecord]]:
    store, fakes = LocalStore(folder), backend(run, **how)
    claim(run, store, environment(fakes))
    shards = [run.plan.shard(k) for k in range(run.plan.shard_count)]
    return store, [run_shard(run, fakes, shard, store) for shard in shards]


@pytest.fixture(scope="module")
def made(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalStore, list[ShardRecord]]:
    store, records = make(run, tmp_path_factory.mktemp("gated"))
    finish(store, read_head(store))
    return store, records


def images(store: LocalStore) -> list:
    assert store.local_path is not None
    return [s for tar in sorted((store.local_path / "shards").iterdir()) for s in read_tar(tar)]


def test_refused_groups_come_again_then_are_dropped(run: Run, made: tuple[LocalStore, list[ShardRecord]]):
    store, records = made
    attempts = {sample.meta.group: sample.meta.attempt for sample in images(store)}
    assert attempts == {0: 0, 1: 1, 2: 0, 3: 0, 4: 3, 5: 0, 6: 0, 8: 1, 9: 0, 10: 0, 11: 0}
    assert [sample.meta.group for sample in images(store)] == sorted(s.meta.group for s in images(store))
    assert [(record.rejected, record.dropped) for record in records] == [(4, 0), (5, 1)]
    rejected = pq.read_table(store.local_path / "rejected.parquet").to_pylist()
    assert [(row["group"], row["attempt"], row["dropped"]) for row in rejected] == [
        (1, 0, False), (4, 0, False), (4, 1, False), (4, 2, False),
        (7, 0, False), (7, 1, False), (7, 2, False), (7, 3, True), (8, 0, False),
    ]  # fmt: skip
    assert {row["check"] for row in rejected} == {"pixels.range"}
    assert {row["quality.pixels.range"] for row in rejected} == {0.0}
    assert all("percentile 0, at least 60" in row["reason"] for row in rejected)
    assert verify(store).problems == ()


def test_a_new_anatomy_comes_with_new_noise_only_after_max_attempts(run: Run):
    specs = [run.plan.sample(4, attempt) for attempt in range(4)]
    assert (specs[0].anatomy == specs[1].anatomy).all()
    assert not (specs[1].anatomy == specs[2].anatomy).all()
    assert not (specs[2].anatomy == specs[3].anatomy).all()
    assert len({spec.row for spec in specs}) == 1


def test_the_row_stays_so_that_proportions_do(run: Run, made: tuple[LocalStore, list[ShardRecord]]):
    rows = Counter({sample.meta.group: sample.meta.row for sample in images(made[0])}.values())
    planned = Counter(run.plan.row(index) for index in range(12) if index != 7)
    assert rows == planned


def test_what_the_gate_did_is_counted(run: Run, made: tuple[LocalStore, list[ShardRecord]]):
    store, records = made
    gates = [record.gate for record in records]
    assert all(gates)
    asked = {g: "Pneumonia" if run.plan.row(g) else "No Finding" for g in range(12)}
    tried = Counter(asked[g] for g in range(12) if g != 7) + Counter(asked[g] for g, _ in BLANK)
    accepted = Counter(asked[g] for g in range(12) if g != 7)
    assert sum((Counter(gate.tried) for gate in gates if gate), Counter()) == tried
    assert sum((Counter(gate.accepted) for gate in gates if gate), Counter()) == accepted
    assert sum((Counter(gate.reasons) for gate in gates if gate), Counter()) == {"pixels.range": len(BLANK)}
    painted = [sample for sample in images(store) if sample.meta.findings]
    flags = sum((Counter(gate.flags) for gate in gates if gate), Counter())
    assert flags == {"change.inside": len(painted)}, "no image beyond a limit is delivered unflagged"
    assert all(sample.meta.quality.flags == ("change.inside",) for sample in painted)


def test_bytes_do_not_depend_on_what_is_judged_beside(run: Run, made, tmp_path: Path, tar_hashes):
    other, _ = make(run, tmp_path, micro_batch=1)
    assert tar_hashes(other.local_path) == tar_hashes(made[0].local_path)


def test_a_replayed_image_has_its_attempt_and_verdict(run: Run, made: tuple[LocalStore, list[ShardRecord]]):
    stored = next(sample for sample in images(made[0]) if sample.meta.attempt == 3)
    again = replay(run, backend(run), stored.meta.key, stored.meta.attempt)
    assert again.meta == stored.meta
    assert (again.image == stored.image).all()
    assert make_group(run, backend(run), 7) == ()
    assert make_group(run, backend(run), 1)[0].meta.attempt == 1


def test_a_gated_tar_without_record_is_adopted_with_what_was_refused(run: Run, made, tmp_path: Path):
    store, before = make(run, tmp_path)
    assert before[0].rejected
    store.delete(record_key("fault-000000"))
    store.delete(table_key("fault-000000"))
    assert read_ledger(run, store, {}, lambda event: None).todo == ()
    after = read_record(store, "fault-000000")
    assert after is not None
    assert (after.tar, after.table, after.rejects) == (before[0].tar, before[0].table, before[0].rejects)
    assert (after.gate, after.dropped) == (before[0].gate, before[0].dropped)


def test_a_gated_tar_whose_refused_attempts_nobody_tells_is_made_again(run: Run, made, tmp_path: Path, tar_hashes):
    store, _ = make(run, tmp_path)
    store.delete(record_key("fault-000000"))
    store.delete(rejects_key("fault-000000"))
    events: list[object] = []
    assert read_ledger(run, store, {}, events.append).todo == (0,)
    assert "refused" in events[0].reason
    run_shard(run, backend(run), run.plan.shard(0), store)
    assert tar_hashes(tmp_path) == tar_hashes(made[0].local_path)


def test_the_gate_counts_in_the_digest(open_fault_run: Callable[..., Run], run: Run):
    other = open_fault_run(**{**GATED, "quality__max_attempts": 3}, output__shard_samples=6)
    assert len({run.digest, other.digest, open_fault_run(output__shard_samples=6).digest}) == 3


@given(st.integers(1, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_attempts_rise_and_end(most: int, data: st.DataObject):
    tried, attempt, epochs = [], next_attempt(most, None), []
    while attempt is not None:
        tried.append(attempt)
        epoch = 0 if attempt < most else attempt
        placed = data.draw(st.booleans()) if epoch not in dict(epochs) else dict(epochs)[epoch]
        epochs.append((epoch, placed))
        attempt = next_attempt(most, attempt, placed=placed)
    assert tried == sorted(set(tried))
    assert tried[0] == 0
    assert tried[-1] == 2 * most - 1
    misses = [epoch for epoch, placed in epochs if not placed]
    assert len(misses) == len(set(misses)), "boxes that had no place are not tried with other noise"
    if epochs[0][1]:
        assert tried == list(range(2 * most)), "new noise first, then new anatomies, none left out"


@given(st.sets(st.tuples(st.integers(0, 11), st.integers(0, 3)), max_size=20), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_attempts_decide_every_group_once_in_bounded_steps(run_for_attempts: Run, refused: set, size: int):
    shard = run_for_attempts.plan.shard(0)
    ahead, decided, made = 2 * size, [], Counter()
    with ThreadPoolExecutor(1) as planner:
        attempts = Attempts(
            run_for_attempts, shard, size, ahead, planner, partial(group_job, run_for_attempts), Stopwatch()
        )
        while batch := list(islice(iter(attempts.next, None), size)):
            for due in batch:
                spec = due.spec
                assert due.job.index == spec.index
                assert attempts.frontier is not None
                assert spec.index < attempts.frontier + ahead
                made[spec.index, spec.attempt] += 1
                if (spec.index, spec.attempt) in refused:
                    attempts.refuse(spec, Rejected(spec.index, spec.attempt, spec.row, "no", False, "pixels.range"))
                else:
                    decided.append(spec.index)
                    attempts.accept(spec)
    assert max(made.values()) == 1
    dropped = [reject.group for reject in attempts.rejected if reject.dropped]
    assert sorted(decided + dropped) == list(range(shard.start, shard.stop))
    for index in decided:
        first = next(attempt for attempt in range(4) if (index, attempt) not in refused)
        assert plan_group(run_for_attempts, index, first - 1 if first else None)[0].attempt == first


@pytest.fixture(scope="module")
def run_for_attempts(open_fault_run: Callable[..., Run]) -> Run:
    return open_fault_run(**GATED, output__shard_samples=12)


def test_a_copy_index_is_known_by_its_content_and_found_again(
    open_fault_run: Callable[..., Run], tmp_path: Path, fake: Callable[[Run], object]
):
    from xreal_synth.quality.copies import build_index, write_index
    from xreal_synth.run.reopen import reopen

    images = {sample.meta.key: sample.image for sample in make_group(open_fault_run(), fake(open_fault_run()), 0)}
    index = tmp_path / "index.safetensors"
    index.write_bytes(write_index(build_index((key, "p", image) for key, image in images.items())))
    checks = json.dumps({"copies": {"action": "warn", "index": str(index), "distance": 4.0}})
    gated = open_fault_run(quality__checks=checks, anatomies=4)
    text = gated.loaded.text + f"\nquality: {{profile: none, checks: {checks}}}\n"
    text = text.replace("quality: {profile: none}\n", "", 1)
    run = open_run(LoadedRecipe(recipe_from_text(text, overrides=["anatomies=4"]), text))
    store, backend = LocalStore(tmp_path / "out"), fake(run)
    claim(run, store, environment(backend))
    run_shard(run, backend, run.plan.shard(0), store)
    stored = [sample.meta for sample in read_tar(tmp_path / "out/shards/fault-000000.tar")]
    flagged = {meta.group for meta in stored if "copies.distance" in meta.quality.flags}
    assert flagged == {0}
    assert str(tmp_path) not in json.dumps(read_head(store).settings)
    assert reopen(store, read_head(store), anatomies=4).digest == run.digest
    index.write_bytes(write_index(build_index([("other", "p", images.popitem()[1] ^ 1)])))
    with pytest.raises(RecipeError, match="sha256"):
        reopen(store, read_head(store), anatomies=4)
