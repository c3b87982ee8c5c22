"""A whole dataset on object storage: made, resumed, verified, told; the same bytes as in a folder; no secrets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from object_store import BUCKET, KEY_ID, SECRET

from tests.doubles.fake_backend import FakeImages
from tests.doubles.shards import run_shard
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.status import StatusReader, last_lines, run_logs
from xreal_synth.dataset.verify import verify
from xreal_synth.engine.backend import Backend
from xreal_synth.engine.ledger import read_ledger
from xreal_synth.engine.worker import environment
from xreal_synth.models.describe import SHIPPED
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import Run, claim, open_run
from xreal_synth.storage import LocalStore, RemoteStore, Store, sha256_of

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
RUN_S = 280
RECIPE = """
version: 1
name: wire
seed: 3
anatomies: 6
bundle: xreal-tiny
findings: [{weight: 1, labels: []}, {weight: 1, labels: [{name: Pneumonia}]}]
sampling: {steps: 5}
quality: {profile: none}
output: {uri: unset, shard_samples: 2}
"""


@pytest.fixture(scope="module")
def run() -> Run:
    return open_run(LoadedRecipe(recipe_from_text(RECIPE), RECIPE))


@pytest.fixture(scope="module")
def backend(run: Run) -> Backend:
    return FakeImages().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))


def make(run: Run, backend: Backend, store: Store) -> None:
    """Every shard that is missing, then the whole's files."""
    head = claim(run, store, environment(backend))
    ledger = read_ledger(run, store, environment(backend), lambda event: None)
    for shard in ledger.todo:
        run_shard(run, backend, run.plan.shard(shard), store, replacing=shard in ledger.replacing)
    finish(store, head, split_of=run.plan.split, asked=run.recipe.anatomies)


def hashes(store: Store) -> dict[str, str]:
    keys = [key for folder in ("shards", "tables") for key in store.list(folder)]
    return {key: sha256_of(store, key) for key in keys}


def test_resume_and_verify_over_the_wire(object_store, run, backend, tmp_path):
    here, there = LocalStore(tmp_path), RemoteStore(f"s3://{BUCKET}/{tmp_path.name}")
    make(run, backend, here)
    with object_store.failing(2, "PUT", "/tables/", "unavailable") as hit:
        make(run, backend, there)
    assert len(hit) == 2
    assert hashes(there) == hashes(here)
    assert verify(there).ok

    there.delete("records/wire-000000.json")  # its tar is adopted
    there.delete("shards/wire-000001.tar")  # made again
    there.replace("tables/wire-000002.parquet", b"cut short")  # made again
    found = StatusReader(there).read()
    assert (found.shards_done, found.shards_total) == (2, 3)
    reported: list[str] = []
    ledger = read_ledger(run, there, environment(backend), lambda event: reported.append(type(event).__name__))
    assert ledger.todo == (1, 2)
    assert "ShardAdopted" in reported
    with object_store.failing(1, "PUT", "/shards/wire-000001.tar", "lost answer") as hit:
        make(run, backend, there)
    assert len(hit) == 1
    assert hashes(there) == hashes(here)
    assert verify(there).ok
    assert StatusReader(there).read().images == StatusReader(here).read().images


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Ray's folder, with a short path for its sockets, whose logs are read afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="xs-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def put(folder: Path, uri: str) -> None:
    filesystem, root = fsspec.core.url_to_fs(uri)
    for file in folder.rglob("*"):
        if file.is_file():
            filesystem.pipe_file(f"{root}/{file.relative_to(folder)}", file.read_bytes())


@pytest.mark.ray
@pytest.mark.slow
def test_no_secret_is_reported_or_kept(object_store, tmp_path, ray_folder, image_folder):
    """The command line with output, bundle and masks on S3; then everything it said, wrote and logged is searched."""
    root = f"s3://{BUCKET}/{tmp_path.name}"
    put(SHIPPED / "xreal-tiny", f"{root}/bundles/tiny")
    put(image_folder() / "masks", f"{root}/masks")
    settings = {
        "bundle": f"{root}/bundles/tiny", "anatomy.source": f"{{masks: {{path: '{root}/masks'}}}}", "anatomies": "4",
        "compute.actors": "1",
    }  # fmt: skip
    given = os.environ | object_store.environment | {
        "XREAL_CACHE": str(tmp_path / "cache"), "RAY_TMPDIR": str(ray_folder), "RAY_AUTH_MODE": "disabled",
    }  # fmt: skip
    given.pop("RAY_ADDRESS", None)
    overrides = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]

    out = f"{root}/out"
    done = subprocess.run(
        [sys.executable, "-m", "xreal_synth", "generate", str(SMOKE), "--output", out, *overrides],
        env=given, capture_output=True, text=True, timeout=RUN_S, check=False,
    )  # fmt: skip
    reported = done.stdout + done.stderr
    assert done.returncode == 0, reported
    assert "fetched once per machine" in reported
    store = RemoteStore(out)
    assert verify(store).ok
    found = StatusReader(store).read()
    assert (found.state, found.shards_done, found.shards_total) == ("complete", 1, 1)
    folders = ("", "shards", "records", "tables", "logs")
    objects = [store.read_bytes(key) for folder in folders for key in store.list(folder)]
    assert len(objects) >= 9
    (log,) = run_logs(store)
    assert [key.rsplit(".", 2)[1:] for key in log] == [["0000", "jsonl"]]
    (last,) = last_lines(store, log, 1)
    assert (last["event"], last["exit_code"], last["unwritten"]) == ("run_ended", 0, 0)
    files = [path for folder in (ray_folder, tmp_path / "cache") for path in folder.rglob("*")]
    logs = [path.read_bytes() for path in files if path.is_file()]
    assert any(b"Generator" in log for log in logs), "Ray's own logs are among what is searched"
    for secret in (SECRET, KEY_ID):
        assert secret not in reported
        assert not [text for text in (*objects, *logs) if secret.encode() in text]
