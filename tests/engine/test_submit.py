"""`submit`: what is taken along, what is refused, and jobs on a real cluster followed to their end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest

from xreal_synth.cli.submit import _complete
from xreal_synth.dataset.status import RunNote, write_note
from xreal_synth.engine import job_package as package_module
from xreal_synth.engine.job_package import pack_job
from xreal_synth.errors import EngineError
from xreal_synth.models.describe import SHIPPED
from xreal_synth.recipe.load import load_recipe, recipe_file
from xreal_synth.storage import LocalStore

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
CANARY = "canary-5f1d0c9a7e"
JOB_S = 240


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working directory with a recipe, a bundle of its own, and things that must stay at home."""
    folder = tmp_path / "mine"
    (folder / "recipes").mkdir(parents=True)
    shutil.copy(SMOKE, folder / "recipes")
    shutil.copytree(SHIPPED / "xreal-tiny", folder / "bundles" / "mine")
    (folder / ".gitignore").write_text("bundles/\n")
    (folder / ".env").write_text(f"AWS_SECRET_ACCESS_KEY={CANARY}\n")
    return folder


def recipe_of(folder: Path, *overrides: str):
    return load_recipe(folder / "recipes" / "smoke.yaml", overrides=overrides).recipe


def test_only_what_the_recipe_names_is_taken_along(work):
    recipe = work / "recipes" / "smoke.yaml"
    alone = pack_job(recipe_of(work), recipe, work)
    assert [str(name) for name in alone.files] == ["recipes/smoke.yaml"]
    assert alone.notes == ()
    mine = pack_job(recipe_of(work, "bundle=bundles/mine"), recipe, work)
    wanted = {str(path.relative_to(work)) for path in (work / "bundles").rglob("*") if path.is_file()}
    assert {str(name) for name in mine.files} == wanted | {"recipes/smoke.yaml"}
    assert mine.bytes == sum((work / name).stat().st_size for name in mine.files)


def test_what_lies_beside_the_recipe_is_taken_along(work):
    (work / "bundles").rename(work / "recipes" / "bundles")
    package = pack_job(recipe_of(work, "bundle=bundles/mine"), work / "recipes" / "smoke.yaml", work)
    assert PurePosixPath("recipes/bundles/mine/bundle.json") in package.files


def test_a_shipped_recipe_and_its_masks_are_named_from_anywhere(tmp_path):
    path = recipe_file(Path("own-masks"))
    package = pack_job(load_recipe(path).recipe, path, tmp_path)
    assert [str(name) for name in package.files] == ["own-masks.yaml"], "the masks are in the nodes' package"
    package.write(tmp_path / "package.zip")
    assert zipfile.ZipFile(tmp_path / "package.zip").namelist() == ["own-masks.yaml"]


@pytest.mark.parametrize(("code", "ended"), [(0, True), (75, False), (None, False)])
def test_a_stopped_job_that_has_finished_its_dataset_is_complete(tmp_path, code, ended):
    if code is not None:
        write_note(LocalStore(tmp_path), RunNote(0.0, code, 8, 2, 0))
    assert _complete(str(tmp_path)) is ended


def test_masks_are_taken_along(work, image_folder):
    folder = image_folder()
    shutil.copytree(folder / "masks", work / "masks")
    taken = pack_job(recipe_of(work, "anatomy.source={masks: {path: masks}}"), work / "recipes" / "smoke.yaml", work)
    assert sum(name.parts[0] == "masks" for name in taken.files) == 6


def test_the_gates_files_are_taken_along(work):
    (work / "index.safetensors").write_bytes(b"thumbnails")
    asked = "quality={profile: none, checks: {copies: {action: warn, index: index.safetensors}}}"
    taken = pack_job(recipe_of(work, asked), work / "recipes" / "smoke.yaml", work)
    assert "index.safetensors" in {str(name) for name in taken.files}
    with pytest.raises(EngineError, match=r"quality\.checks\.copies\.index"):
        pack_job(recipe_of(work, asked.replace("index.s", "/data/index.s")), work / "recipes" / "smoke.yaml", work)


def test_the_package_has_the_same_bytes_each_time(work, tmp_path):
    for name in ("a.zip", "b.zip"):
        pack_job(recipe_of(work, "bundle=bundles/mine"), work / "recipes" / "smoke.yaml", work).write(tmp_path / name)
        for path in work.rglob("*"):
            os.utime(path, (0, 0))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert archive.read("recipes/smoke.yaml") == SMOKE.read_bytes()


def test_the_package_goes_along_if_asked(work):
    taken = pack_job(recipe_of(work), work / "recipes" / "smoke.yaml", work, code=True)
    names = {str(name) for name in taken.files}
    assert {"xreal_synth/jobs/generate.py", "xreal_synth/bundles/xreal-tiny/bundle.json"} <= names
    assert not [name for name in names if "__pycache__" in name]
    assert len(taken.notes) == 1


@pytest.mark.parametrize(
    ("overrides", "options", "reported"),
    [
        (["bundle={tmp}/mine/bundles/mine"], {}, "nothing says that the nodes have it"),
        (["bundle=../elsewhere"], {}, "nothing says that the nodes have it"),
        (["bundle=bundles/none"], {}, "nothing at"),
        (["anatomy.source={{masks: {{path: /data/masks}}}}"], {}, "anatomy.source.masks.path"),
    ],
)
def test_what_the_nodes_would_not_find_is_refused(work, tmp_path, overrides, options, reported):
    given = [override.format(tmp=tmp_path) for override in overrides]
    with pytest.raises(EngineError, match=reported):
        pack_job(recipe_of(work, *given), work / "recipes" / "smoke.yaml", work, **options)


def test_what_is_on_the_nodes_stays_here(work):
    recipe = recipe_of(work, "bundle=/models/mine")
    taken = pack_job(recipe, work / "recipes" / "smoke.yaml", work, on_nodes=True)
    assert len(taken.files) == 1
    assert "/models/mine is taken to be on every node" in taken.notes[0]


def test_a_recipe_outside_and_a_large_package_are_refused(work, monkeypatch):
    with pytest.raises(EngineError, match="outside of the working directory"):
        pack_job(recipe_of(work), SMOKE, work)
    monkeypatch.setattr(package_module, "LIMIT_BYTES", 1000)
    with pytest.raises(EngineError, match="to take along: bundles"):
        pack_job(recipe_of(work, "bundle=bundles/mine"), work / "recipes" / "smoke.yaml", work)


@contextmanager
def dashboard(status: int, body: str) -> Iterator[str]:
    """A server that answers every request alike."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_clusters_that_cannot_be_reached(monkeypatch):
    from xreal_synth.engine.ray_submit import connect

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", CANARY)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    with pytest.raises(EngineError, match="wanted: the dashboard's address"):
        connect("ray://127.0.0.1:10001")
    with pytest.raises(EngineError, match="no answer"):
        connect("http://127.0.0.1:9")
    with dashboard(500, f"went wrong with {CANARY}") as address, pytest.raises(EngineError) as reported:
        connect(address)
    assert CANARY not in str(reported.value)
    with dashboard(401, "Unauthorized") as address, pytest.raises(EngineError, match="RAY_AUTH_MODE=token"):
        connect(address)
    with dashboard(200, json.dumps({"ray_version": "2.31.0", "version": "4"})) as address:
        (note,) = connect(address).notes
    assert "2.31.0 on the cluster" in note
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:9"


def test_a_lost_connection_is_taken_up_where_it_broke(monkeypatch):
    from ray.dashboard.modules.job.common import JobStatus

    from xreal_synth.engine import ray_submit

    text = ["shard 0 done\n", "shard 1 done\n", "shard 2 done\n"]

    class Client:
        tails = 0

        async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
            self.tails += 1
            yield text[0]
            yield text[1][:4] if self.tails == 1 else text[1]
            if self.tails < 3:
                raise RuntimeError("the connection broke")
            yield text[2]

        def get_job_info(self, job: str) -> SimpleNamespace:
            return SimpleNamespace(status=JobStatus.FAILED, driver_exit_code=3, message="driver ended")

    monkeypatch.setattr(ray_submit.time, "sleep", lambda seconds: None)
    said: list[str] = []
    client = Client()
    end = ray_submit.follow(ray_submit.Cluster(client, "http://x", "2"), "job", said.append)
    assert (end.exit_code, client.tails) == (3, 3)
    assert "".join(said) == "".join(text)


def command(folder: Path, address: str, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "xreal_synth", "submit", "recipes/smoke.yaml", "--address", address,
        "--set", "anatomies=4", *options,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return kept | {"RAY_AUTH_MODE": "disabled", "AWS_SECRET_ACCESS_KEY": CANARY}


def heed_interrupts() -> None:
    """A suite that a shell runs in the background is told to ignore them, and its children with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_runs_with_a_bundle_taken_along_and_outlives_its_follower(ray_head, work, tmp_path):
    """Ctrl-C leaves the job; it ends complete, and nothing that was not named has reached the cluster."""
    out = tmp_path / "sets"
    options = ["--output-root", str(out), "--set", "bundle=bundles/mine"]
    with subprocess.Popen(
        command(work, ray_head.jobs, *options), cwd=work, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=heed_interrupts,
    ) as process:  # fmt: skip
        reported = ""
        assert process.stdout is not None
        for line in process.stdout:
            reported += line
            if "to stop it:" in line:
                time.sleep(1)
                process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
    assert code == 130, reported
    assert "not following any more" in reported
    assert "ray job stop" in reported
    deadline = time.monotonic() + JOB_S
    while time.monotonic() < deadline and not (out / "out" / "smoke" / "README.md").exists():
        time.sleep(0.5)
    store = LocalStore(out / "out" / "smoke")
    assert store.list("records") == ["records/smoke-000000.json"]
    assert json.loads(store.read_bytes("progress.json"))["exit_code"] == 0
    with urllib.request.urlopen(f"{ray_head.jobs}/api/jobs/", timeout=30) as answer:
        assert "xreal_synth:smoke" in {job["metadata"].get("job_name") for job in json.load(answer)}
    sessions = [path for path in Path(ray_head.folder).rglob("*") if path.is_file() and not path.is_socket()]
    assert any("smoke.yaml" in path.name for path in sessions)
    assert not [path for path in sessions if path.name == ".env"]


@pytest.mark.ray
@pytest.mark.slow
def test_the_drivers_exit_code_is_this_commands(ray_head, work, tmp_path):
    """The bundle is on no node: the driver's own mistake, 2, which Ray's command line would turn into 1."""
    done = subprocess.run(
        command(work, ray_head.jobs, "--output-root", str(tmp_path), "--set", "bundle=/models/mine", "--on-nodes"),
        cwd=work, env=environment(), capture_output=True, text=True, timeout=JOB_S, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "checked without bundle" in done.stderr
    assert "error: no bundle '/models/mine'" in done.stdout
    assert CANARY not in done.stdout + done.stderr
