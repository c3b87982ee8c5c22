from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from xreal_synth.cli.main import app
from xreal_synth.dataset.names import RECORDS, record_key
from xreal_synth.engine.simulate.dataset import remove_dataset, simulated_shards, write_dataset
from xreal_synth.engine.simulate.steps import STEPS
from xreal_synth.errors import XrealError
from xreal_synth.storage import LocalStore

SHARDS = 12


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    write_dataset(folder, SHARDS, processes=1)
    return folder


def test_every_step_finds_every_shard(written: Path) -> None:
    assert simulated_shards(written) == SHARDS
    store = LocalStore(written)
    for name in ("list", "resume", "status", "finish", "verify --quick", "verify"):
        assert STEPS[name](store, SHARDS) == SHARDS, name


def test_what_is_there_is_not_written_again_and_all_of_it_is_removed(written: Path) -> None:
    store = LocalStore(written)
    store.delete(record_key("simulated-000005"))
    before = (written / record_key("simulated-000004")).stat().st_mtime_ns
    seen: list[int] = []
    write_dataset(written, SHARDS, lambda done, total: seen.append(done), processes=1)
    assert seen == [SHARDS - 1, SHARDS]
    assert (written / record_key("simulated-000004")).stat().st_mtime_ns == before
    (written / "mine.txt").touch()
    remove_dataset(written)
    assert [path.name for path in written.iterdir()] == ["mine.txt"]
    assert simulated_shards(written) is None


def test_the_bench_measures_in_processes_of_their_own_and_cleans_up(tmp_path: Path) -> None:
    place, out = tmp_path / "d", tmp_path / "table.md"
    command = ["bench", "dataset", "--shards", "6", "--folder", str(place), "--out", str(out), "--json"]
    ran = CliRunner().invoke(app, [*command, "--step", "verify --quick", "--keep"])
    assert ran.exit_code == 0, ran.output
    reported = json.loads(ran.stdout)
    (row,) = reported["rows"]
    assert (row["step"], row["shards"], reported["ok"]) == ("verify --quick", 6, True)
    assert 20e6 < row["peak_bytes"] < 500e6
    assert row["cpu_s"] > 0
    assert "| verify --quick |" in out.read_text()
    assert len(LocalStore(place).list(RECORDS)) == 6
    small = CliRunner().invoke(app, [*command, "--step", "list", "--most-memory", "0.02"])
    assert small.exit_code == 3, small.output
    assert not place.exists()


def test_the_bench_refuses_what_it_did_not_write(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    for arguments, said in (
        (["--folder", str(tmp_path)], "did not write"),
        (["--keep"], "--folder"),
        (["--step", "mrege"], "no step mrege"),
    ):
        ran = CliRunner().invoke(app, ["bench", "dataset", "--shards", "6", *arguments])
        assert isinstance(ran.exception, XrealError), ran.output
        assert said in str(ran.exception)
    assert (tmp_path / "mine.txt").exists()
