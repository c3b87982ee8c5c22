from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doubles.fakes import box_finding, fake, fake_groups, fake_head, fake_pathology, publish_fakes
from tests.doubles.tars import build_tar
from xreal_synth.dataset.check import sample_problems
from xreal_synth.dataset.finish import ROW_GROUP, Merger, finish
from xreal_synth.dataset.head import check_place, head_bytes, open_dataset, parse_head, read_head
from xreal_synth.dataset.record import Tally, parse_record, read_record, record_bytes, stamp
from xreal_synth.dataset.seal import sealed
from xreal_synth.dataset.table import build_table, read_table, sample_schema
from xreal_synth.dataset.tar import encode_sample
from xreal_synth.dataset.verify import verify
from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.storage import LocalStore, RemoteStore, Store
from xreal_synth.types import Rejected, Sample, ShardPlan, sample_key

HEAD = fake_head()
SHARDS = [ShardPlan("fakes", 0, 0, 4), ShardPlan("fakes", 1, 4, 8), ShardPlan("fakes", 2, 8, 10)]
REFUSED = [Rejected(5, 0, 2, "segmenter disagrees", False), Rejected(6, 5, 0, "no place", True)]


def same(there: dict[str, object], here: dict[str, object]) -> list[str]:
    return [f"{key}: {there[key]} there, {here[key]} here" for key in here if there[key] != here[key]]


def make(store: Store) -> Store:
    open_dataset(store, HEAD, "version: 1\n", same)
    for shard in SHARDS:
        samples = [sample for sample in fake_groups(shard.start, shard.stop) if sample.meta.group != 6]
        publish_fakes(store, shard, samples, REFUSED if shard.shard == 1 else [])
    finish(store, HEAD)
    return store


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make(LocalStore(tmp_path_factory.mktemp("dataset")))


def found(store: Store, **options: bool) -> str:
    return "\n".join(map(str, verify(store, **options).problems))


def test_a_whole_dataset_has_no_problems(dataset: Store) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(dataset, expected=SHARDS, on_shard=lambda done, total: seen.append((done, total)))
    assert report.ok, report
    assert (report.shards, report.samples) == (3, 15)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert verify(dataset, deep=False).ok


def test_remote_places_hold_the_same_bytes(dataset: Store) -> None:
    remote = make(RemoteStore("memory://shards-test"))
    for folder in ("", "shards", "tables", "records"):
        assert remote.list(folder) == dataset.list(folder)
        for key in dataset.list(folder):
            assert remote.read_bytes(key) == dataset.read_bytes(key), key
    assert verify(remote).ok


def test_finish_counts_and_lists_everything(dataset: Store) -> None:
    summary = finish(dataset, HEAD)
    assert (summary.shards, summary.groups, summary.samples) == (3, 9, 15)
    assert (summary.rejected, summary.dropped) == (2, 1)
    assert summary.members == {"h": 9, "v": 6}
    assert summary.rows == {0: 3, 1: 3, 2: 3}
    assert summary.image_sizes == ((32, 32),)
    labels = {tally.column: (tally.positive, tally.negative, tally.unknown) for tally in summary.labels}
    assert labels["chexpert14.Pneumonia"] == (3, 12, 0)
    assert labels["txrv18.Hernia"] == (0, 6, 9)
    index = json.loads(dataset.read_bytes("index.json"))
    assert [shard["path"] for shard in index["shards"]] == dataset.list("shards")
    assert index["samples"] == 15
    rejected = pq.read_table(pa.BufferReader(dataset.read_bytes("rejected.parquet"))).to_pylist()
    assert [row["reason"] for row in rejected] == ["segmenter disagrees", "no place"]


def test_the_index_keeps_how_many_groups_were_asked_for(tmp_path: Path) -> None:
    store = make(LocalStore(tmp_path))
    assert finish(store, HEAD).asked is None
    assert finish(store, HEAD, asked=12).asked == 12
    assert finish(store, HEAD).asked == 12
    assert json.loads(store.read_bytes("index.json"))["asked"] == {"groups": 12}
    assert verify(store).ok
    store.replace("index.json", store.read_bytes("index.json").replace(b'"groups": 12', b'"groups": -1', 1))
    assert not verify(store).ok
    assert finish(store, HEAD).asked is None


def test_the_summary_tells_who_made_the_shards(dataset: Store) -> None:
    making = finish(dataset, HEAD).making
    assert (making.images, making.actors, making.images_per_actor_second) == (0, 0, None)
    assert making.environments == ((HEAD.fingerprint, 3),)
    tally = Tally()
    record = read_record(dataset, "fakes-000000")
    assert record is not None
    tally.count(dataclasses.replace(record, timings={"make_s": 4.0}))
    tally.count(dataclasses.replace(record, timings={"make_s": 2.0}, fingerprint={"device": "cuda"}, actor="b"))
    timed = tally.summary().making
    assert (timed.images, timed.seconds, timed.actors) == (2 * record.samples, 6.0, 2)
    assert [shards for _, shards in timed.environments] == [1, 1]


def test_finish_takes_the_present_split(tmp_path: Path) -> None:
    store = make(LocalStore(tmp_path))
    summary = finish(store, HEAD, split_of=lambda group: "val" if group < 2 else "train")
    assert summary.splits == {"train": 12, "val": 3}
    assert verify(store).ok


def test_finish_needs_no_shards(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    open_dataset(store, HEAD, "", same)
    assert finish(store, HEAD).samples == 0
    assert verify(store).ok


FILES = [
    *(f"{folder}/fakes-00000{k}.{ending}" for k in range(3)
      for folder, ending in (("shards", "tar"), ("tables", "parquet"), ("records", "json"))),
    "tables/fakes-000001.rejected.parquet", "samples.parquet", "rejected.parquet", "index.json",
]  # fmt: skip


@given(key=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=50, deadline=None)
def test_any_flipped_bit_is_found(dataset: Store, key: str, place: float, bit: int) -> None:
    data = dataset.read_bytes(key)
    broken = bytearray(data)
    broken[int(place * len(data))] ^= 1 << bit
    try:
        dataset.replace(key, bytes(broken))
        report = verify(dataset, deep=False)
        paths = {problem.path for problem in report.problems}
        assert key in paths or (key == "index.json" and paths), report
    finally:
        dataset.replace(key, data)


@pytest.mark.parametrize("key", FILES)
def test_a_missing_file_is_found(dataset: Store, key: str) -> None:
    data = dataset.read_bytes(key)
    try:
        dataset.delete(key)
        problems = verify(dataset).problems
        assert any(problem.path == key for problem in problems), problems
        commands = {str(problem).split("; run ")[1] for problem in problems if "to build it again" in str(problem)}
        assert commands <= {f"{'repair' if '/' in key else 'report'} to build it again"}
    finally:
        dataset.replace(key, data)


def test_broken_shards_are_named_for_repair(tmp_path: Path) -> None:
    store = make(LocalStore(tmp_path))
    store.replace("shards/fakes-000001.tar", store.read_bytes("shards/fakes-000000.tar"))
    store.delete("records/fakes-000002.json")
    store.replace("shards/fakes-000007.tar", b"")
    store.replace("shards/other-000000.tar", b"")
    report = verify(store)
    assert report.broken_shards == (1, 2, 3, 4, 5, 6, 7)
    text = "\n".join(map(str, report.problems))
    assert "shards/other-000000.tar: does not belong" in text
    assert "fakes-000002.json: missing although" in text
    assert "fakes-000003.json: missing: the shard was not made" in text
    missing = verify(store, expected=[*SHARDS, ShardPlan("fakes", 9, 36, 40)])
    assert 9 in missing.broken_shards


def painted(pathology: int = 0, **changes: object) -> Sample:
    sample = fake(1, "v0", [box_finding("Pneumonia", (8, 16, 16, 24))])
    if pathology:
        sample.pathology[20:28, 20:28] = pathology
    return dataclasses.replace(sample, meta=dataclasses.replace(sample.meta, **changes))


def spoiled() -> dict[str, list[Sample]]:
    """What verify must say of samples that contradict themselves, under right hashes."""
    twin, variant = fake_groups(1, 2)
    labels = {**variant.meta.labels, "txrv18": {**variant.meta.labels["txrv18"], "Pneumonia": None}}
    healthy = {**twin.meta.labels, "chexpert14": {**twin.meta.labels["chexpert14"], "No Finding": 1}}
    anatomy, image = variant.anatomy.copy(), variant.image.copy()
    anatomy[0, 0], image[0, 0] = 4, image[0, 0] ^ 1
    change = variant.change.copy()
    change[0, 0] = 1
    other = dataclasses.replace(variant, change=variant.change // 2)
    sham = fake(1, "s0", sham=variant.meta.findings)
    elsewhere = fake(1, "s0", sham=[box_finding("Pneumonia", (0, 0, 8, 8))])
    reported = {**sham.meta.labels, "txrv18": {**sham.meta.labels["txrv18"], "Hernia": 1}}
    labelled = dataclasses.replace(sham, meta=dataclasses.replace(sham.meta, labels=reported))
    empty = dataclasses.replace(variant, pathology=variant.pathology * 0)
    wrong_code = dataclasses.replace(twin, anatomy=twin.anatomy + 1)
    return {
        "txrv18.Pneumonia is not 1": [painted(labels=labels)],
        "is 1 beside a positive or unknown": [
            dataclasses.replace(twin, meta=dataclasses.replace(twin.meta, labels=healthy))
        ],
        "does not show Pneumonia": [empty],
        "pathology.png holds value 2": [painted(2)],
        "where its boxes are": [painted(1)],
        "holds code 5": [wrong_code],
        "another anatomy mask": [twin, dataclasses.replace(variant, anatomy=anatomy)],
        "outside its findings": [twin, dataclasses.replace(variant, image=image)],
        "change.png is not 0 outside": [twin, dataclasses.replace(variant, change=change)],
        "change.png is not the difference": [twin, other],
        "not those of the group's v0": [twin, variant, elsewhere],
        "regions are not those": [twin, sham],
        "s0: other labels than 0000000001-h": [twin, variant, labelled],
        "digest ffff": [painted(digest="f" * 64)],
        "made with bundle other": [painted(bundle_name="other")],
        "group 9 in a shard": [fake(9, "h")],
        "do not ascend": [fake(2, "h"), fake(1, "h")],
    }


@pytest.mark.parametrize("message", list(spoiled()))
def test_contradictions_under_right_hashes_are_found(tmp_path: Path, message: str) -> None:
    samples = spoiled()[message]
    samples = [
        dataclasses.replace(s, meta=dataclasses.replace(s.meta, sampling={**s.meta.sampling, "paste": "feather"}))
        for s in samples
    ]
    store = LocalStore(tmp_path)
    groups = len({sample.meta.group for sample in samples})
    open_dataset(store, dataclasses.replace(HEAD, shard_samples=4), "", same)
    publish_fakes(store, ShardPlan("fakes", 0, 0, groups), samples)
    assert message in found(store)


def test_a_table_that_tells_another_story_is_found(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    open_dataset(store, HEAD, "", same)
    right, wrong = fake(0, "h"), fake(0, "h", [box_finding("Edema", (0, 0, 8, 8))])
    record = publish_fakes(store, ShardPlan("fakes", 0, 0, 1), [wrong])
    tar = build_tar([right])
    stamped = dataclasses.replace(record, tar=stamp(record.tar.path, tar))
    store.replace(record.tar.path, tar)
    store.replace("records/fakes-000000.json", record_bytes(stamped))
    text = found(store)
    for column in ("findings", "chexpert14.Edema", "prompt", "sha256"):
        assert f"table has {column} = " in text
    assert "label_counts" in text


def test_a_later_finding_may_cover_an_earlier_one() -> None:
    first, second = box_finding("Pneumonia", (8, 8, 16, 16)), box_finding("Effusion", (0, 0, 32, 32))
    sample = fake(0, "v0", [first, second])
    assert (fake_pathology([first, second], sample.anatomy) == 2).all()
    assert list(sample_problems(sample, HEAD)) == []


def test_record_round_trip_and_absence(dataset: Store) -> None:
    record = read_record(dataset, "fakes-000001")
    assert record is not None
    assert parse_record(record_bytes(record), "x") == record
    assert record.label_counts["chexpert14.Pneumonia"] == 2
    assert read_record(dataset, "fakes-000009") is None
    with pytest.raises(DatasetError, match="samples"):
        parse_record(sealed({**dataclasses.asdict(record), "samples": "many"}), "x")


def test_head_refuses_other_datasets_and_newer_formats(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert check_place(store, HEAD, same) is None
    with pytest.raises(DatasetError, match=r"no dataset\.json"):
        read_head(store)
    open_dataset(store, HEAD, "anatomies: 1\n", same)
    elsewhere = dataclasses.replace(HEAD, fingerprint={"device": "cuda"})
    assert open_dataset(store, elsewhere, "anatomies: 2\n", same) == HEAD
    assert store.read_bytes("recipe.yaml") == b"anatomies: 2\n"
    other = dataclasses.replace(HEAD, digest="e" * 64, settings={**HEAD.settings, "seed": 8})
    for claim in (check_place, lambda *a: open_dataset(a[0], a[1], "x", a[2])):
        with pytest.raises(DatasetError, match="seed: 7 there, 8 here"):
            claim(store, other, same)
    with pytest.raises(DatasetError, match="dataset is fakes"):
        check_place(store, dataclasses.replace(HEAD, name="ghosts"), same)
    assert store.read_bytes("recipe.yaml") == b"anatomies: 2\n"
    with pytest.raises(DatasetError, match="newer xreal-synth"):
        parse_head(head_bytes(dataclasses.replace(HEAD, format_version=2)), "x")
    with pytest.raises(DatasetError, match="checksum"):
        parse_head(head_bytes(HEAD).replace(b'"seed": 7', b'"seed": 8'), "x")


def widened(start: int, rows: int, scored: bool) -> pa.Table:
    """A table of keys alone, later ones with a column of scores."""
    columns: dict[str, object] = {"key": [sample_key(start + i, "h") for i in range(rows)]}
    if scored:
        columns["scores.dice"] = [float(start + i) for i in range(rows)]
    return pa.table(columns)


def test_merging_adds_columns_half_way_and_streams(tmp_path: Path) -> None:
    schema = pa.schema([sample_schema().field("key")])
    rows, seen = 2000, []
    with Merger(tmp_path / "m.parquet", schema, lambda table: seen.append(table.num_rows)) as merger:
        for k in range(40):
            merger.add(widened(rows * k, rows, scored=k >= 30), str(k))
        with pytest.raises(DatasetError, match="column key"):
            merger.add(pa.table({"key": [1]}), "x")
    assert max(seen) < ROW_GROUP + rows
    assert [path.name for path in tmp_path.iterdir()] == ["m.parquet"]
    merged = pq.read_table(tmp_path / "m.parquet")
    assert merged.column("key").to_pylist() == [sample_key(i, "h") for i in range(40 * rows)]
    assert merged.column("scores.dice").null_count == 30 * rows
    assert merged.column("scores.dice").to_pylist()[-1] == 40 * rows - 1


def test_merging_keeps_memory_bounded_over_many_small_tables(tmp_path: Path) -> None:
    rows = [encode_sample(sample).row for sample in fake_groups(0, 2)]
    data = build_table(SHARDS[0], rows)
    before = pa.total_allocated_bytes()
    held = []
    with Merger(tmp_path / "m.parquet", sample_schema()) as merger:
        for k in range(400):
            merger.add(read_table(data, "x", sample_schema()), "x")
            if k in (79, 399):
                held.append(pa.total_allocated_bytes() - before)
    alone = read_table(data, "x", sample_schema())
    assert held[1] - held[0] < 320 * alone.get_total_buffer_size() * 3
    assert pq.read_metadata(tmp_path / "m.parquet").num_rows == 400 * len(rows)


def test_columns_of_a_later_version_reach_the_whole_and_verify(tmp_path: Path) -> None:
    store = make(LocalStore(tmp_path))
    key = "tables/fakes-000002.parquet"
    table = pq.read_table(pa.BufferReader(store.read_bytes(key)))
    wider = pa.BufferOutputStream()
    pq.write_table(table.append_column("scores.dice", pa.array([0.5] * table.num_rows)), wider)
    data = wider.getvalue().to_pybytes()
    record = read_record(store, "fakes-000002")
    assert record is not None
    stamped = stamp(key, data)
    store.replace(key, data)
    store.replace("records/fakes-000002.json", record_bytes(dataclasses.replace(record, table=stamped)))
    finish(store, HEAD)
    assert verify(store).ok
    whole = pq.read_table(pa.BufferReader(store.read_bytes("samples.parquet")))
    assert whole.column("scores.dice").drop_null().to_pylist() == [0.5] * table.num_rows


def linked(real: Path, farm: Path) -> None:
    """As `cp -rs`."""
    for path in real.rglob("*"):
        if path.is_file():
            (farm / path.relative_to(real)).parent.mkdir(parents=True, exist_ok=True)
            (farm / path.relative_to(real)).symlink_to(path)


def cached(real: Path, farm: Path) -> None:
    """As a hub's cache."""
    blobs = farm.parents[1] / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(path for path in real.rglob("*") if path.is_file()):
        (blobs / str(number)).write_bytes(path.read_bytes())
        (farm / path.relative_to(real)).parent.mkdir(parents=True, exist_ok=True)
        (farm / path.relative_to(real)).symlink_to(blobs / str(number))


@pytest.mark.parametrize("link", [linked, cached])
def test_a_dataset_of_links_is_a_dataset(dataset: LocalStore, tmp_path: Path, link: object) -> None:
    farm = tmp_path / "hub/snapshots/abc"
    link(Path(dataset.uri), farm)  # type: ignore[operator]
    store = LocalStore(farm)
    assert verify(store, deep=False).samples == 15
    before = {name: store.read_bytes(name) for name in ("samples.parquet", "rejected.parquet", "index.json")}
    finish(store, HEAD)
    assert {name: store.read_bytes(name) for name in before} == before
    assert all(dataset.read_bytes(name) == data for name, data in before.items())


def test_full_tables_are_not_replaced_by_empty_ones(dataset: LocalStore, tmp_path: Path) -> None:
    for path in Path(dataset.uri).glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = (tmp_path / "samples.parquet").read_bytes()
    with pytest.raises(DatasetError, match="not replaced by empty ones"):
        finish(LocalStore(tmp_path), HEAD)
    assert (tmp_path / "samples.parquet").read_bytes() == before


def test_a_link_that_leads_elsewhere_is_not_read(dataset: LocalStore, tmp_path: Path) -> None:
    linked(Path(dataset.uri), tmp_path / "farm")
    (tmp_path / "secret").write_text("secret")
    for target in (tmp_path / "secret", tmp_path / "farm/recipe.yaml"):
        (tmp_path / "farm/recipe.yaml").unlink()
        (tmp_path / "farm/recipe.yaml").symlink_to(target)
        with pytest.raises(StorageError):
            LocalStore(tmp_path / "farm").read_bytes("recipe.yaml")
