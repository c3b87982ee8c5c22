"""One Ray head for all tests that need Ray, started and ended here."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

START_S = 180


@dataclass(frozen=True)
class Head:
    """A running Ray head."""

    address: str
    jobs: str
    folder: str

    def actors(self) -> list[int]:
        """Processes of its actors that make films: those below one that was started with its folder."""
        own = set(_processes(self.folder))
        makers = [pid for pid in _processes("ray::Generator") if not own.isdisjoint(_ancestors(pid))]
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
