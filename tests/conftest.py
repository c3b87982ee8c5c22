"""One Ray head for all tests that need Ray, started and ended here; a folder of films to edit."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from object_store import ObjectStore, serving
from PIL import Image

from xreal_synth.shards.phantoms import phantom_anatomy

START_S = 180

settings.register_profile("same", derandomize=True)
settings.register_profile("new")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
"""The same examples in every run; HYPOTHESIS_PROFILE=new draws others."""


@dataclass(frozen=True)
class Head:
    """A running Ray head."""

    address: str
    jobs: str
    folder: str

    def actors(self, title: str = "ray::Generator") -> list[int]:
        """Processes of its actors (that make films): those below one that was started with its folder."""
        own = set(_processes(self.folder))
        makers = [pid for pid in _processes(title) if not own.isdisjoint(_ancestors(pid))]
        return sorted(makers)


@pytest.fixture(scope="session")
def ray_head() -> Iterator[Head]:
    """A head on loopback with a temporary folder of its own, ended by the ids of its processes."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    gcs, dashboard, agent, client = free_ports(4)
    folder = Path(tempfile.mkdtemp(prefix="xr-", dir="/tmp"))  # sockets' paths must be short
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--node-ip-address=127.0.0.1",
        f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        f"--ray-client-server-port={client}", "--include-dashboard=true", "--num-cpus=3",
        "--object-store-memory=134217728", f"--temp-dir={folder}", "--disable-usage-stats",
    ]  # fmt: skip
    try:
        started = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
        assert started.returncode == 0, started.stdout + started.stderr
        _wait_for_port(dashboard)
        yield Head(address=f"127.0.0.1:{gcs}", jobs=f"http://127.0.0.1:{dashboard}", folder=str(folder))
    finally:
        _leave_ray()
        end_processes(str(folder))
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def joined_ray(ray_head: Head) -> Head:
    """This process is connected to the head."""
    import ray

    ray.init(address=ray_head.address, log_to_driver=False, logging_level="ERROR")
    return ray_head


@pytest.fixture(scope="module")
def object_store() -> Iterator[ObjectStore]:
    """A real S3 API on loopback; the environment leads s3:// there while the module's tests run."""
    with serving() as store:
        yield store


MANIFEST = """\
image,mask,labels,patient_id,age,split
a.png,masks/a.png,No Finding,1,61,train
b.png,masks/b.png,Pneumonia,2,62,train
c.png,masks/c.png,Pneumonia|Mass,2,63,train
d.png,masks/d.png,Effusion,3,64,val
e.png,masks/e.png,No Finding,4,65,val
f.png,masks/f.png,,5,66,val
"""
BOXES = """\
image,finding,x0,y0,x1,y1
b.png,Pneumonia,60,40,80,60
c.png,Pneumonia,20,36,36,56
c.png,Mass,60,50,72,60
d.png,Pleural Effusion,18,50,38,70
"""


@pytest.fixture
def film_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes six films of 96 x 96 with organ masks, manifest.csv and boxes.csv; keywords replace files' text."""

    def write(name: str = "films", manifest: str | None = MANIFEST, boxes: str = BOXES) -> Path:
        folder = tmp_path / name
        (folder / "masks").mkdir(parents=True)
        for i, film in enumerate("abcdef"):
            rng = np.random.default_rng(i)
            mask = phantom_anatomy(96, rng)
            pixels = 150 - 20 * mask + rng.integers(-9, 9, mask.shape)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{film}.png")
            Image.fromarray(mask).save(folder / "masks" / f"{film}.png")
        if manifest is not None:
            (folder / "manifest.csv").write_text(manifest)
        (folder / "boxes.csv").write_text(boxes)
        return folder

    return write


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def end_processes(mark: str) -> None:
    """Ends every process whose command line holds `mark`, a name that only those started here carry."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _processes(mark):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + 5
        while _processes(mark) and time.monotonic() < deadline:
            time.sleep(0.1)


def _processes(mark: str) -> list[int]:
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in command.read_bytes() and int(command.parent.name) != os.getpid():
                found.append(int(command.parent.name))
        except OSError:
            continue
    return found


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.append(pid)
    return found


def _leave_ray() -> None:
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"nothing listens on port {port} after {START_S} s")
