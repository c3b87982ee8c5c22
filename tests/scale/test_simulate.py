from __future__ import annotations

import dataclasses
import itertools
import statistics
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.scale.__main__ import main
from tests.scale.dataset import RECIPE, write_dataset
from tests.scale.run import SimulationRow, simulate
from tests.scale.store import MarkStore
from tests.scale.world import Chances, ShardTimes, World
from xreal_synth.engine.account import Account, images_per_group
from xreal_synth.engine.ledger import Totals
from xreal_synth.engine.progress import Advanced, Event
from xreal_synth.errors import DatasetError, EngineError
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.setup import open_run
from xreal_synth.storage import LocalStore

ROUGH = World(
    8, ShardTimes(120.0, 0.3), per_node=2, deaths=2.0, node_losses=2.0, storage_errors=0.05, hangs=0.02, poison=2,
    killers=1, answer_s=0.001,
)  # fmt: skip
SHARDS = 200


def reported(row: SimulationRow) -> dict[str, object]:
    """All of a row but what is measured."""
    fields = dataclasses.asdict(row)
    return {name: fields[name] for name in fields if name not in ("cpu_s", "own_s", "peak_bytes")}


def test_every_fault_happens_and_nothing_is_lost_or_doubled() -> None:
    row = simulate(ROUGH, SHARDS)
    assert (row.lost, row.doubled) == (0, 0)
    assert (row.quarantined, row.exit_code) == (3, 3)
    for fault in ("died", "gone", "hung", "node-goes", "storage", "raised"):
        assert row.happened[fault] > 0, fault
    assert row.happened["raised"] == 3 * ROUGH.poison
    assert row.happened["died"] >= 3 * ROUGH.killers
    assert row.retried >= row.happened["storage"]
    assert row.cpu_s > 0
    assert 0 < row.failures < 0.6


@given(seed=st.integers(0, 10_000))
@example(seed=0)  # the first node goes while its actors load
@settings(max_examples=12, deadline=None)
def test_no_shard_is_lost_or_doubled_whatever_happens(seed: int) -> None:
    row = simulate(dataclasses.replace(ROUGH, seed=seed), 60)
    assert (row.lost, row.doubled) == (0, 0)
    assert 3 <= row.quarantined <= 6  # by chance three actors die with one innocent shard


def test_actors_load_their_models_while_one_finds_the_micro_batch() -> None:
    world = World(8, ShardTimes(100.0), boot_s=200.0, search_s=60.0)
    row = simulate(world, 16)
    assert (row.exit_code, row.lost, row.happened["ready"], row.happened["settled"]) == (0, 0, 8, 8)
    assert row.virtual_s < 1.2 * 200 + 60 + 2 * 100 + 20, "the others do not begin to load after the search"


@pytest.mark.parametrize("seed", range(4))
def test_where_the_actor_that_searches_dies_another_finds_it(seed: int) -> None:
    world = World(8, ShardTimes(20.0), deaths=30.0, boot_s=10.0, search_s=60.0, seed=seed)
    row = simulate(world, 40)
    assert (row.lost, row.doubled, row.quarantined) == (0, 0, 0)


def test_sick_cards_cost_no_shard() -> None:
    world = World(64, ShardTimes(60.0, 0.2), failing=3, overflowing=1)
    row = simulate(world, 1200)
    assert (row.quarantined, row.lost, row.doubled, row.exit_code) == (0, 0, 0, 0)
    assert row.happened["retired"] == 4
    assert row.retried == row.happened["raised"] == 8, "two shards of each"


def test_equal_seeds_give_equal_runs() -> None:
    first = simulate(ROUGH, SHARDS)
    assert reported(simulate(ROUGH, SHARDS)) == reported(first)
    assert reported(simulate(dataclasses.replace(ROUGH, seed=2), SHARDS)) != reported(first)


def test_a_calm_run_loses_nothing_to_failures() -> None:
    calm = simulate(World(8, ShardTimes(100.0), answer_s=0.01), 80)
    assert (calm.exit_code, calm.lost, calm.doubled, calm.retried) == (0, 0, 0, 0)
    assert abs(calm.failures) < 1e-9
    assert 1000 < calm.virtual_s < 1100
    assert calm.happened["rendered"] == 80
    slow = simulate(World(8, ShardTimes(100.0), answer_s=1.0), 80)
    assert slow.idle > 10 * calm.idle > 0


def test_where_no_actor_can_live_the_run_ends() -> None:
    with pytest.raises(EngineError):
        simulate(World(2, ShardTimes(10.0), deaths=1e6), 10)


def test_shard_times_come_from_records(tmp_path: Path) -> None:
    write_dataset(tmp_path, 3, processes=1)
    store = LocalStore(tmp_path)
    assert ShardTimes.of_dataset(store, None) == ShardTimes(120.0, 0.0, (120.0,) * 3)
    assert ShardTimes.of_dataset(store, 60.0).measured == (60.0,) * 3
    for path in (tmp_path / "records").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="no record"):
        ShardTimes.of_dataset(store, None)


def test_drawn_times_have_the_mean_and_the_spread() -> None:
    chances = Chances(World(1, ShardTimes(120.0, 0.5)))
    drawn = [chances.shard_s() for _ in range(20_000)]
    assert statistics.fmean(drawn) == pytest.approx(120, rel=0.03)
    assert {Chances(World(1, ShardTimes(1.0, 0.1, (3.0,)))).shard_s()} == {3.0}


def test_the_command_prints_a_row_per_number_of_actors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--actors", "4", "16", "--shards", "120", "--poison", "1"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line[:2] == "| "]
    assert [row[0] for row in rows] == ["actors", "4", "16"]
    assert all(float(row[3].removesuffix(" us")) > 0 and row[-3:] == ["2", "0", "0"] for row in rows[1:])


@given(images=st.lists(st.floats(0, 30), min_size=3, max_size=3))
def test_images_in_flight_are_counted_as_their_shards_give(images: list[float]) -> None:
    reported = recipe_from_text(RECIPE, overrides=["anatomies=10", "output.shard_samples=4"])
    run = open_run(LoadedRecipe(reported, RECIPE))
    events: list[Event] = []
    now = itertools.count()
    account = Account(run, MarkStore("simulated", 3), Totals(), events.append, lambda: float(next(now)))
    account.advance(list(enumerate(images)), {"working": 3})
    expected = images_per_group(run.recipe)
    wanted = sum(expected.share(count, groups) for count, groups in zip(images, (4, 4, 2), strict=True))
    (event,) = events
    assert isinstance(event, Advanced)
    assert event.images_done == min(round(wanted), event.images_total)
    account.advance([(0, 12)], {"working": 3}, stopping=True)
    assert isinstance(last := events[-1], Advanced)
    assert last.eta_s is None
