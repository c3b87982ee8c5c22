"""A real Ray cluster on loopback: a head and nodes that come and go, each with processes of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from tests.doubles.processes import ancestors, end_marked, free_ports, marked, strike, wait_for_port
from xreal_synth.errors import EngineError

START_S = 180
OBJECT_STORE_BYTES = 128 << 20
GENERATOR = "ray::Generator"

_ray: Any = ray  # parts of its interface carry no types


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node besides the head: Ray's id of it, and the id of its raylet's process."""

    id: str
    raylet: int


@dataclass(slots=True)
class LocalCluster:
    """`address` is the head's, `jobs` its dashboard's URL, `folder` its temporary folder."""

    address: str
    jobs: str
    folder: str
    nodes: list[ClusterNode] = field(default_factory=list)

    def actors(self, title: str = GENERATOR) -> list[int]:
        """Processes of its actors (that make images)."""
        own = set(marked(self.folder))
        return [pid for pid in marked(title) if not own.isdisjoint(ancestors(pid))]

    def add_node(self, *, cpus: int = 1, gpus: int = 0) -> ClusterNode:
        """One more node; the GPUs are a number that Ray is told. This process must be connected to the head.

        Raises EngineError if it does not come up.
        """
        before, raylets = self._alive(), self._raylets()
        self._start_node(cpus, gpus)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            ids, pids = self._alive() - before, self._raylets() - raylets
            if len(ids) == 1 and len(pids) == 1:
                node = ClusterNode(ids.pop(), pids.pop())
                self.nodes.append(node)
                return node
            time.sleep(0.1)
        raise EngineError(found="a node that was started did not join", wanted=f"a node of {self.address}")

    def _start_node(self, cpus: int, gpus: int) -> None:
        command = [
            "start", f"--address={self.address}", "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}",
            f"--num-gpus={gpus}", f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats",
        ]  # fmt: skip
        try:
            _ray_command(command)
        except EngineError:  # a busy machine: Ray waits half a minute for its own processes
            _ray_command(command)

    def drain(self, node: ClusterNode, deadline_s: int) -> None:
        """Marks the node as about to be preempted: it takes no new actors."""
        _ray_command(
            ["drain-node", f"--address={self.address}", f"--node-id={node.id}",
             "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=preempted",
             f"--deadline-remaining-seconds={deadline_s}"]
        )  # fmt: skip

    def kill_node(self, node: ClusterNode, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends the node's raylet; SIGTERM takes it out in order."""
        if node in self.nodes:
            self.nodes.remove(node)
        strike(node.raylet, number)

    def kill_head(self) -> None:
        """SIGKILL of all that the head's machine runs: Ray's servers, its raylet and its actors."""
        for pid in [*marked(self.folder), *self.actors()]:
            strike(pid)

    def remove_nodes(self) -> None:
        """Ends every node but the head, and waits until the head knows."""
        for node in list(self.nodes):
            self.kill_node(node)
        deadline = time.monotonic() + START_S
        while len(self._alive()) > 1 and time.monotonic() < deadline:
            time.sleep(0.2)

    def _alive(self) -> set[str]:
        return {str(node["NodeID"]) for node in _ray.nodes() if node["Alive"]}

    def _raylets(self) -> set[int]:
        own = set(marked(self.folder))
        return own.intersection(marked("raylet/raylet"))


@contextmanager
def local_cluster(cpus: int) -> Iterator[LocalCluster]:
    """A head on loopback with `cpus` CPUs, to be joined by this process, ended with all its nodes by the ids of their
    processes.

    Raises EngineError if it does not start.
    """
    with other_cluster(cpus) as cluster:
        try:
            yield cluster
        finally:
            if ray.is_initialized():
                ray.shutdown()


@contextmanager
def other_cluster(cpus: int) -> Iterator[LocalCluster]:
    """As `local_cluster`, beside a cluster that this process has joined."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    folder = Path(tempfile.mkdtemp(prefix="xr-", dir="/tmp"))  # sockets' paths must be short
    gcs, dashboard = free_ports(2)
    try:
        try:
            _start_head(cpus, folder, gcs, dashboard)
        except EngineError:  # a busy machine: Ray waits half a minute for its own processes
            end_marked(str(folder))
            _start_head(cpus, folder, gcs, dashboard)
        if not wait_for_port(dashboard, START_S):
            raise EngineError(found=f"nothing listens on port {dashboard}", wanted="Ray's dashboard")
        yield LocalCluster(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", str(folder))
    finally:
        end_marked(str(folder))
        end_marked(f":{gcs}\0")  # the server for Ray's client names the head's port alone
        shutil.rmtree(folder, ignore_errors=True)


def _start_head(cpus: int, folder: Path, gcs: int, dashboard: int) -> None:
    agent, client = free_ports(2)
    _ray_command(
        ["start", "--head", "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}",
         f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}",
         "--include-dashboard=true", "--include-log-monitor=false", f"--num-cpus={cpus}", "--num-gpus=0",
         f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={folder}", "--disable-usage-stats"]
    )  # fmt: skip


def _ray_command(arguments: list[str]) -> None:
    command = [str(Path(sys.executable).parent / "ray"), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(found=f"ray {arguments[0]} failed: {error}", wanted="a running Ray") from error
    if done.returncode != 0:
        raise EngineError(
            found=f"ray {arguments[0]} ended with exit code {done.returncode}: {(done.stdout + done.stderr)[-800:]}",
            wanted="a running Ray",
        )
