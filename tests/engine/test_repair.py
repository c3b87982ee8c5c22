"""What repair plans and does without making images; with images it is in the fault table (test_chaos.py)."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from xreal_synth.cli.main import main
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import read_head
from xreal_synth.dataset.verify import verify
from xreal_synth.engine.repair import carry_out, open_for_repair, plan_repair
from xreal_synth.errors import DatasetError
from xreal_synth.recipe.load import load_recipe
from xreal_synth.run.reopen import recipe_text, setting
from xreal_synth.storage import LocalStore


@pytest.fixture
def dataset(tmp_path, whole_dataset, open_fault_run):
    """A copy of the whole run's dataset, finished."""
    shutil.copytree(whole_dataset, tmp_path / "dataset")
    store = LocalStore(tmp_path / "dataset")
    finish(store, read_head(store), split_of=open_fault_run().plan.split, asked=12)
    return store


def planned(store, **asked):
    head = read_head(store)
    quarantined = asked.pop("quarantined", False)
    run = open_for_repair(store, head, **{"anatomies": None, "bundle": None, "images": None, **asked})
    return run, plan_repair(run, store, head, quarantined=quarantined)


def content(store):
    return {path: path.read_bytes() for path in store.local_path.rglob("*") if path.is_file()}


def test_whole_dataset_needs_nothing(dataset, monkeypatch, capsys):
    before = content(dataset)
    _, plan = planned(dataset)
    assert plan.whole
    assert plan.empty
    assert command(monkeypatch, "repair", dataset.uri) == 0
    assert "nothing to repair" in capsys.readouterr().out
    assert content(dataset) == before


def damage(store):
    for key in ("records/fault-000001.json", "tables/fault-000003.parquet"):
        data = bytearray(store.read_bytes(key))
        data.insert(len(data) // 2, 0)
        store.replace(key, bytes(data))
    store.delete("records/fault-000004.json")
    store.delete("samples.parquet")


def test_whole_tars_get_table_and_record_back_without_models_or_ray(dataset, tar_hashes):
    before = content(dataset)
    inodes = {tar.name: tar.stat().st_ino for tar in (dataset.local_path / "shards").iterdir()}
    damage(dataset)
    run, plan = planned(dataset)
    assert [(action.shard, action.what) for action in plan.actions] == [(1, "adopt"), (3, "adopt"), (4, "adopt")]
    assert [problem.split(":")[0] for problem in plan.ends] == ["samples.parquet"]
    head = read_head(dataset)
    made = []

    def generate(again, leave):
        made.append((again, leave))
        return finish(dataset, head, split_of=run.plan.split)

    carry_out(run, dataset, head, plan, generate)
    assert made == [(frozenset(), {})]
    assert verify(dataset).problems == ()
    after = content(dataset)
    same = {path for path in before if path.parent.name != "records"}
    assert {path: after[path] for path in same} == {path: before[path] for path in same}
    kept = {tar.name: tar.stat().st_ino for tar in (dataset.local_path / "shards").iterdir()}
    assert kept["fault-000000.tar"] == inodes["fault-000000.tar"]


def test_dry_run_tells_and_writes_nothing(dataset, monkeypatch, capsys):
    damage(dataset)
    (dataset.local_path / "shards/fault-000002.tar").write_bytes(b"other")
    dataset.put_if_absent("shards/stray.tar", b"not ours")
    before = content(dataset)
    assert command(monkeypatch, "repair", dataset.uri, "--dry-run", "--json") == 3
    reported = json.loads(capsys.readouterr().out)
    assert {action["shard"]: action["what"] for action in reported["actions"]} == {
        1: "adopt", 2: "make", 3: "adopt", 4: "adopt"
    }  # fmt: skip
    assert reported["left"] == ["shards/stray.tar: does not belong to this dataset"]
    assert content(dataset) == before


def test_the_command_mends_what_needs_no_images(dataset, monkeypatch, capsys):
    damage(dataset)
    assert command(monkeypatch, "repair", dataset.uri) == 0
    assert "3 to write from their tars" in capsys.readouterr().out
    assert verify(dataset).problems == ()


def test_quarantined_shards_are_left_unless_asked_for(dataset):
    for key in ("records/fault-000002.json", "shards/fault-000002.tar", "tables/fault-000002.parquet"):
        dataset.delete(key)
    dataset.replace("quarantine/fault-000002.json", b"{}")
    assert [action.what for action in planned(dataset)[1].actions] == ["leave"]
    assert [action.what for action in planned(dataset, quarantined=True)[1].actions] == ["make"]


def test_more_samples_extend_the_last_shard(tmp_path, open_fault_run, make_shards):
    make_shards(open_fault_run(anatomies=7), tmp_path)
    _, plan = planned(LocalStore(tmp_path), anatomies=11)
    assert plan.shards_to("extend") == (3,)
    assert plan.shards_to("make") == (4, 5)


def test_fewer_samples_than_there_are_are_refused(dataset):
    with pytest.raises(DatasetError, match="takes nothing away"):
        planned(dataset, anatomies=4)


def test_without_the_kept_recipe_nothing_is_guessed(dataset):
    dataset.delete("recipe.yaml")
    with pytest.raises(DatasetError, match=r"no readable recipe\.yaml"):
        planned(dataset)


def test_the_kept_recipe_has_what_the_command_line_replaced(tmp_path, open_fault_run, fake, make_shards):
    path = tmp_path / "recipe.yaml"
    path.write_text(open_fault_run().loaded.text)
    given = load_recipe(path)
    assert given.text == path.read_text()
    changed = load_recipe(path, overrides=["anatomies=4", "split.val=0.9"])
    run = replace(open_fault_run(anatomies=4, split__val=0.9), loaded=changed)
    make_shards(run, tmp_path / "out")
    store = LocalStore(tmp_path / "out")
    assert "anatomies: 4" in recipe_text(store)
    again, _ = planned(store)
    assert (again.recipe.anatomies, again.recipe.split.val) == (4, 0.9)


def command(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["xreal-synth", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def test_the_kept_recipe_is_read_as_recipes_are(dataset):
    """1e-1 is a number in YAML 1.2, and no text."""
    kept = dataset.local_path / "recipe.yaml"
    kept.write_text(kept.read_text().replace("micro_batch: 2", "micro_batch: 2, hang_timeout_s: 1e3"))
    assert setting(recipe_text(dataset), "compute", "hang_timeout_s") == 1000.0
