"""Starting or joining Ray, what it has, and how a run is asked to stop."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import ray

from xreal_synth.errors import EngineError
from xreal_synth.recipe.schema import Compute
from xreal_synth.run.resources import Resources, local_cpus

_OBJECT_STORE_BYTES = 128 << 20
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


_ray: Any = ray  # parts of its interface carry no types


@dataclass(frozen=True, slots=True)
class RayNode:
    """A node of the cluster."""

    id: str
    host: str


@contextmanager
def session(address: str | None, compute: Compute) -> Iterator[None]:
    """A connection to Ray: a Ray of this machine's own without an address, else the cluster there.

    A Ray that this process is connected to already is used as it is, and left. A local Ray listens on
    loopback for this process alone: it asks for no token unless the user has set RAY_AUTH_MODE.
    Raises EngineError if there is no Ray to be had.
    """
    ours = not ray.is_initialized()
    if ours:
        _connect(address, compute)
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def _connect(address: str | None, compute: Compute) -> None:
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if address is None:
            ray.init(
                address="local", num_cpus=local_cpus(compute), include_dashboard=False, log_to_driver=False,
                logging_level=logging.ERROR, object_store_memory=_OBJECT_STORE_BYTES,
            )  # fmt: skip
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises Exception itself where a node does not come up in time
        raise EngineError(
            found=f"Ray cannot be {'started' if address is None else f'reached at {address}'}: {error}",
            wanted="a running Ray",
            hint="check the address, RAY_AUTH_MODE and its token" if address else "see the message above",
        ) from error


def resources(*, grows: bool = False) -> Resources:
    """What the nodes alive now have in all."""
    total = _ray.cluster_resources()
    nodes = max(len(alive_nodes()), 1)
    return Resources(cpus=total.get("CPU", 0.0), gpus=total.get("GPU", 0.0), nodes=nodes, grows=grows)


def alive_nodes() -> list[RayNode]:
    return [
        RayNode(str(node["NodeID"]), str(node["NodeManagerHostname"]))
        for node in _ray.nodes()
        if node["Alive"]
    ]


@contextmanager
def stop_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop`; a second one interrupts at once.

    To be entered after Ray is connected, which installs handlers of its own. Does nothing outside the main
    thread, where Python takes no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
