from __future__ import annotations

from pathlib import Path

import pytest

from tests.scale.dataset import write_dataset
from tests.scale.steps import STEPS, measure_step
from xreal_synth.dataset.names import record_key
from xreal_synth.storage import LocalStore

SHARDS = 12


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    write_dataset(folder, SHARDS, processes=1)
    return folder


def test_every_step_finds_every_shard(written: Path) -> None:
    store = LocalStore(written)
    for name in ("list", "resume", "status", "finish", "verify --quick", "verify"):
        assert STEPS[name](store, SHARDS) == SHARDS, name


def test_what_is_there_is_not_written_again(written: Path) -> None:
    store = LocalStore(written)
    store.delete(record_key("simulated-000005"))
    before = (written / record_key("simulated-000004")).stat().st_mtime_ns
    seen: list[int] = []
    write_dataset(written, SHARDS, lambda done, total: seen.append(done), processes=1)
    assert seen == [SHARDS - 1, SHARDS]
    assert (written / record_key("simulated-000004")).stat().st_mtime_ns == before


def test_a_step_is_measured_in_a_process_of_its_own(written: Path) -> None:
    row = measure_step("verify --quick", written, SHARDS)
    assert (row.step, row.shards) == ("verify --quick", SHARDS)
    assert 20e6 < row.peak_bytes < 500e6
    assert row.cpu_s > 0
