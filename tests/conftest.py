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

START_S = 120


@dataclass(frozen=True)
class Head:
    """A running Ray head."""

    address: str
    jobs: str


@pytest.fixture(scope="session")
def ray_head() -> Iterator[Head]:
    """A head on loopback with a temporary folder of its own, ended by the ids of its processes."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ports = free_ports(4)
    folder = Path(tempfile.mkdtemp(prefix="xr-", dir="/tmp"))  # sockets' paths must be short
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--port={ports[0]}", f"--dashboard-port={ports[1]}", f"--dashboard-agent-listen-port={ports[2]}",
        f"--ray-client-server-port={ports[3]}", "--include-dashboard=true", "--num-cpus=3",
        "--object-store-memory=134217728", f"--temp-dir={folder}", "--disable-usage-stats",
    ]  # fmt: skip
    log = (folder / "start.log").open("wb")
    head = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _wait_for(folder / "start.log", head, ports[1])
        yield Head(address=f"127.0.0.1:{ports[0]}", jobs=f"http://127.0.0.1:{ports[1]}")
    finally:
        _leave_ray()
        end_tree(head.pid)
        head.wait(timeout=30)
        log.close()
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


def end_tree(pid: int) -> None:
    """SIGTERM to a process of ours, then SIGKILL to it and to what descends from it."""
    family = [pid, *descendants(pid)]
    _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(_alive(one) for one in family):
        time.sleep(0.1)
    for one in family:
        _signal(one, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Ids of the children of a process and of theirs."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _leave_ray() -> None:
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def _wait_for(log: Path, head: subprocess.Popen[bytes], dashboard_port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        started = "Ray runtime started" in log.read_text(errors="replace")
        with socket.socket() as probe:
            probe.settimeout(1)
            if started and probe.connect_ex(("127.0.0.1", dashboard_port)) == 0:
                return
        assert head.poll() is None, log.read_text(errors="replace")
        time.sleep(0.2)
    raise AssertionError(f"Ray did not start in {START_S} s: {log.read_text(errors='replace')}")
