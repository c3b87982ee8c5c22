from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xreal_synth.dataset.index import asked_groups, index_start
from xreal_synth.dataset.names import owner, record_key, rejects_key, stem_of, table_key, tar_key
from xreal_synth.storage import LocalStore
from xreal_synth.store import in_order


@given(items=st.lists(st.integers(), max_size=60), threads=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_reading_ahead_keeps_the_order(items: list[int], threads: int) -> None:
    assert list(in_order(lambda item: 2 * item, items, threads)) == [2 * item for item in items]


@pytest.mark.parametrize("threads", [1, 3])
def test_reading_ahead_takes_few_items_and_raises_in_turn(threads: int) -> None:
    taken: list[int] = []

    def action(item: int) -> int:
        taken.append(item)
        if item == 5:
            raise ValueError(item)
        return item

    results = in_order(action, iter(range(1000)), threads)
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError):
        next(results)
    assert len(taken) <= 6 + 4 * threads
    assert not [one for one in threading.enumerate() if one.name.startswith("ahead")]


@given(name=st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True), shard=st.integers(0, 10**8))
@settings(max_examples=50)
def test_every_file_of_a_shard_is_its_own(name: str, shard: int) -> None:
    stem = stem_of(name, shard)
    for key in (tar_key(stem), table_key(stem), rejects_key(stem), record_key(stem)):
        assert owner(key) == (name, shard)
        assert owner(key + ".old") is None
        assert owner("shards/" + key) != (name, shard)


def test_the_start_of_an_index_is_read_without_its_shards(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert asked_groups(store) is None
    store.replace("index.json", b'{\n"asked": {"groups": 7},\n"files": [],\n"shards": [\nnot JSON')
    assert index_start(store) == {"asked": {"groups": 7}, "files": []}
    assert asked_groups(store) == 7
    store.replace("index.json", b'{"asked": {"groups": 8}, "shards": []}')
    assert asked_groups(store) == 8
    for damaged in (b"", b"[]", b'{"asked": 3}', b"\xff", b'{"asked": {"groups": 1'):
        store.replace("index.json", damaged)
        assert asked_groups(store) is None
