"""What a run finds in a folder when it starts: done, adopted, deleted, grown, another recipe's."""

from __future__ import annotations

import shutil

import pytest

from tests.doubles.shards import run_shard
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import read_head
from xreal_synth.dataset.table import read_table
from xreal_synth.dataset.verify import verify
from xreal_synth.engine.ledger import read_ledger
from xreal_synth.engine.progress import ShardAdopted, ShardDiscarded, Warned
from xreal_synth.engine.ray_driver import generate
from xreal_synth.errors import BundleError, DatasetError
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.report.build import build
from xreal_synth.run.setup import check_before_start, open_run
from xreal_synth.storage import LocalStore, RemoteStore

FINGERPRINT = {"device": "fake"}


@pytest.fixture
def whole(tmp_path, open_fault_run, whole_dataset):
    """A run whose shards are all done, and a copy of its dataset."""
    shutil.copytree(whole_dataset, tmp_path / "dataset")
    return open_fault_run(), LocalStore(tmp_path / "dataset")


def problems(store):
    finish(store, read_head(store))
    return verify(store).problems


def look(run, store):
    events = []
    return read_ledger(run, store, FINGERPRINT, events.append), events


def test_whole_dataset_has_nothing_to_do(whole):
    run, store = whole
    ledger, events = look(run, store)
    assert ledger.todo == ()
    assert events == []
    assert (ledger.totals.shards, ledger.totals.groups, ledger.totals.dropped) == (6, 12, 0)
    assert ledger.totals.labels["chexpert14.Pneumonia"] == ledger.totals.samples - 12


def test_right_tar_without_a_record_is_adopted_with_the_same_table(whole):
    run, store = whole
    table = store.read_bytes("tables/fault-000002.parquet")
    for key in ("records/fault-000002.json", "tables/fault-000002.parquet"):
        store.delete(key)
    before = (store.local_path / "shards/fault-000002.tar").stat()
    ledger, events = look(run, store)
    assert ledger.todo == ()
    assert events == [ShardAdopted(2)]
    assert store.read_bytes("tables/fault-000002.parquet") == table
    assert (store.local_path / "shards/fault-000002.tar").stat().st_ino == before.st_ino
    assert problems(store) == ()


@pytest.mark.parametrize("damage", ["cut", "flipped mask", "appended", "empty"])
def test_wrong_tar_without_a_record_is_deleted(damage, whole):
    run, store = whole
    tar = store.local_path / "shards/fault-000002.tar"
    data = bytearray(tar.read_bytes())
    if damage == "cut":
        del data[-2048:]
    elif damage == "flipped mask":
        data[data.index(b'"ctr":') + 8] ^= 1
    elif damage == "appended":
        data += bytes(10240)
    else:
        data.clear()
    tar.write_bytes(data)
    store.delete("records/fault-000002.json")
    ledger, events = look(run, store)
    assert ledger.todo == (2,)
    assert ledger.replacing == frozenset()
    assert [type(event) for event in events] == [ShardDiscarded]
    assert not tar.exists()


def test_tar_of_another_seed_is_not_adopted(tmp_path, whole, open_fault_run, make_shards):
    run, store = whole
    other = tmp_path / "other"
    make_shards(open_fault_run(seed=4), other)
    store.delete("records/fault-000001.json")
    store.replace("shards/fault-000001.tar", other / "shards/fault-000001.tar")
    ledger, _ = look(run, store)
    assert ledger.todo == (1,)


@pytest.mark.parametrize("path", ["records/fault-000003.json", "tables/fault-000003.parquet"])
def test_damaged_files_are_reported_and_made_again(path, whole, fake, tar_hashes):
    run, store = whole
    hashes = tar_hashes(store.local_path)
    data = bytearray(store.read_bytes(path))
    data.insert(len(data) // 2, 0)
    store.replace(path, bytes(data))
    ledger, events = look(run, store)
    assert ledger.todo == (3,)
    assert ledger.replacing == {3}
    assert [event.shard for event in events] == [3]
    run_shard(run, fake(run), run.plan.shard(3), store, replacing=True)
    assert look(run, store)[0].todo == ()
    assert tar_hashes(store.local_path) == hashes
    assert problems(store) == ()


def test_partial_last_shard_that_grows_is_replaced_first(tmp_path, open_fault_run, make_shards):
    make_shards(open_fault_run(anatomies=7), tmp_path)
    ledger, events = look(open_fault_run(anatomies=11), LocalStore(tmp_path))
    assert ledger.todo == (3, 4, 5)
    assert ledger.replacing == {3}
    assert events == []


@pytest.mark.parametrize("anatomies", [11, 6])
def test_fewer_samples_than_there_are_is_refused(anatomies, whole, open_fault_run):
    _, store = whole
    with pytest.raises(DatasetError, match="more groups"):
        look(open_fault_run(anatomies=anatomies), store)


def test_another_recipe_in_the_folder_is_refused_by_name(whole, open_fault_run):
    _, store = whole
    before = {path: path.read_bytes() for path in store.local_path.rglob("*") if path.is_file()}
    with pytest.raises(DatasetError, match=r"sampling\.steps: 5 there, 6 here"):
        check_before_start(open_fault_run(sampling__steps=6), store)
    with pytest.raises(DatasetError, match="shard_samples"):
        check_before_start(open_fault_run(output__shard_samples=3), store)
    assert {path: path.read_bytes() for path in store.local_path.rglob("*") if path.is_file()} == before


def test_shards_without_a_head_are_refused(whole):
    run, store = whole
    store.delete("dataset.json")
    with pytest.raises(DatasetError, match=r"shards but no dataset\.json"):
        check_before_start(run, store)


def test_finding_the_bundle_cannot_make_is_refused(open_fault_run):
    with pytest.raises(BundleError, match="Fibrosis"):
        open_fault_run(**{"findings[1]__labels[0]__name": "Fibrosis"})


def test_on_object_storage_sizes_are_listed_and_not_asked_one_by_one(whole, monkeypatch):
    run, local = whole
    remote = RemoteStore("memory://ledger-sizes")
    for folder in ("", "shards", "tables", "records"):
        for key in local.list(folder):
            remote.replace(key, local.read_bytes(key))
    monkeypatch.setattr(RemoteStore, "size", lambda self, key: pytest.fail(f"asked for {key}"))
    assert look(run, remote)[0].todo == ()
    remote.replace("shards/fault-000001.tar", remote.read_bytes("shards/fault-000001.tar")[:-512])
    remote.delete("tables/fault-000003.parquet")
    ledger, events = look(run, remote)
    assert ledger.todo == (1, 3)
    assert [event.shard for event in events] == [1, 3]


def test_another_split_is_kept_and_told_though_no_shard_is_left(whole):
    """Or a report, which follows the recipe that is kept, would move the images back."""
    run, store = whole
    text = run.loaded.text.replace("split: {val: 0.3}", "split: {val: 0.6}")
    split = open_run(LoadedRecipe(recipe_from_text(text), text))
    told = []
    assert generate(run, store, on_event=told.append).exit_code == 0
    assert not any(isinstance(event, Warned) for event in told)
    assert generate(split, store, on_event=told.append).exit_code == 0
    (warned,) = (event for event in told if isinstance(event, Warned))
    assert "val 0.3 and test 0 of this dataset, now val 0.6" in str(warned)
    assert store.read_bytes("recipe.yaml").decode() == text
    in_run = read_table(store.read_bytes("samples.parquet"), "samples.parquet").column("split").to_pylist()
    build(store)
    assert read_table(store.read_bytes("samples.parquet"), "samples.parquet").column("split").to_pylist() == in_run
    assert "val" in in_run
