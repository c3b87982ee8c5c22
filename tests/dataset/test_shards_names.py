from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xreal_synth.dataset.names import RECORDS, TABLES, parse_key, parse_stem, shards_in, stem_of
from xreal_synth.errors import DatasetError
from xreal_synth.storage import LocalStore
from xreal_synth.types import sample_key

members = st.one_of(st.just("h"), st.builds("{}{}".format, st.sampled_from("vs"), st.integers(0, 999)))


@given(group=st.integers(0, 10**12), member=members)
def test_key_round_trip(group: int, member: str) -> None:
    key = sample_key(group, member)
    assert parse_key(key) == (group, member)
    assert "." not in key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1-h",
        "0000000001",
        "0000000001-x",
        "0000000001-v",
        "0000000001-v01",
        "00000000001-h",
        "../../etc-h",
        "0000000001-h\n",
        "\u0660" * 10 + "-h",
        "0000000001-h.png",
        "-000000001-h",
    ],
)
def test_other_keys_are_refused(text: str) -> None:
    with pytest.raises(DatasetError, match="not a sample key"):
        parse_key(text)


@given(name=st.text("abz09._-", min_size=1, max_size=20), shard=st.integers(0, 10**9))
def test_stem_round_trip(name: str, shard: int) -> None:
    assert parse_stem(stem_of(name, shard)) == (name, shard)


def test_listing_is_by_number_and_passes_over_the_rest(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for file in ("a-000002", "a-1000000", "a-000010", "a-b-000003", "a-3", "a-0000004"):
        store.put_if_absent(f"records/{file}.json", b"{}")
    for file in ("a-000001.parquet", "a-000001.rejected.parquet"):
        store.put_if_absent(f"tables/{file}", b"")
    assert shards_in(store, RECORDS, "a") == [2, 10, 1000000]
    assert shards_in(store, RECORDS, "a-b") == [3]
    assert shards_in(store, TABLES, "a") == [1]
