"""Starting or joining Ray, what it has, how a run is asked to stop, and where its metrics go."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from ipaddress import ip_address
from secrets import token_hex
from types import FrameType
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from xreal_synth.engine.metrics import SECONDS, Metric
from xreal_synth.errors import EngineError
from xreal_synth.recipe.schema import Compute
from xreal_synth.run.resources import Resources, local_cpus

LOOPBACK = "127.0.0.1"
_OBJECT_STORE_BYTES = 128 << 20
LONGEST_FOLDER = 36
"""Bytes: 107 less `/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store`."""
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 (Ray makes a folder of its own in it)
_TCP_S, _HEAD_S = 10.0, 30.0
"""How long a head may take to be reached, and to answer."""
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


_ray: Any = ray  # parts of its interface carry no types


@contextmanager
def session(address: str | None, compute: Compute) -> Iterator[None]:
    """A connection to Ray: a Ray of this machine's own without an address, else the cluster there.

    A Ray that this process is connected to already is used as it is, and left. A local Ray listens on loopback and
    asks for a token that this process has drawn; if it were found to listen elsewhere it is ended at once.
    Raises EngineError if there is no Ray to be had, or where this process is connected to another than asked for.
    """
    if address is not None:
        _require_head(address)
    if ray.is_initialized():
        _require_same(address)
        yield
        return
    with _own_token() if address is None else nullcontext():
        _connect(address, compute)
        try:
            if address is None:
                require_loopback()
            yield
        finally:
            ray.shutdown()


def _connect(address: str | None, compute: Compute) -> None:
    if address is None:
        _shorten_folder()
    try:
        if address is None:
            ray.init(
                address="local", num_cpus=local_cpus(compute), include_dashboard=False, log_to_driver=False,
                logging_level=logging.ERROR, object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address=LOOPBACK,
            )  # fmt: skip
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises Exception itself where a node does not come up in time
        raise EngineError(
            found=f"Ray cannot be {'started' if address is None else f'reached at {address}'}: {error}",
            wanted="a running Ray",
            hint="check the address, RAY_AUTH_MODE and its token"
            if address
            else "RAY_TMPDIR names a folder for Ray's own files: a short path with room, e.g. RAY_TMPDIR=/tmp",
        ) from error


def _require_same(address: str | None) -> None:
    joined = ray.get_runtime_context().gcs_address
    if address in (None, "auto", "local", joined):
        return
    if "://" in str(address) or _cluster_id(str(address)) != _cluster_id(joined):
        raise EngineError(
            found=f"{address} is asked for, and this process is connected to the Ray at {joined}",
            wanted="one Ray",
            hint="ray.shutdown() first, or leave the address out",
        )


def _cluster_id(place: str) -> object:
    return _ray._raylet.GcsClient(address=place).cluster_id


def _require_head(address: str) -> None:
    """Raises EngineError for an address where no head answers, for which Ray would wait for minutes."""
    kind, _, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    if place in ("auto", "local"):
        return
    answers: list[str] = []
    try:
        if kind not in ("", "ray") or not host or not port.isdecimal():
            raise ValueError("no HOST:PORT")
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TCP_S).close()
        if not kind:
            thread = threading.Thread(target=_ask_head, args=(place, answers), daemon=True)
            thread.start()
            thread.join(_HEAD_S)
    except (OSError, ValueError, OverflowError) as error:
        answers = [str(error)]
    if not kind and not answers:
        answers = [f"no Ray answers within {_HEAD_S:.0f} s"]
    if any(answers):
        raise EngineError(
            where="--address", found=f"{address}: {answers[0]}",
            wanted="the HOST:PORT of a running Ray head (6379 unless it was given another), or auto",
            hint="ray status --address HOST:PORT asks it; the dashboard's http://HOST:8265 is for xreal-synth submit",
        )  # fmt: skip


def _ask_head(place: str, answers: list[str]) -> None:
    """Appends an empty text where the head tells its cluster's name, else what Ray says."""
    try:
        answers.append("" if _cluster_id(place) else "no cluster")
    except Exception as error:  # of Ray's own kinds
        answers.append(str(error))


def _shorten_folder() -> None:
    """Ray's sockets lie below its folder, and their paths may have 107 bytes: where TMPDIR is too long for that (batch
    systems, macOS), a short folder is taken."""
    if "RAY_TMPDIR" in os.environ or len(os.fsencode(tempfile.gettempdir())) <= LONGEST_FOLDER:
        return
    short = short_folder()
    if short is None:
        raise EngineError(
            found=f"TMPDIR is {tempfile.gettempdir()}, too long for the sockets of Ray",
            wanted=f"a path of at most {LONGEST_FOLDER} bytes", hint="set RAY_TMPDIR to a short folder, e.g. /tmp",
        )  # fmt: skip
    os.environ["RAY_TMPDIR"] = short


def short_folder() -> str | None:
    """A folder that is short enough for Ray's sockets and can be written; None without one."""
    return next((path for path in _SHORT_FOLDERS if os.access(path, os.W_OK | os.X_OK)), None)


@contextmanager
def _own_token() -> Iterator[None]:
    """The environment of a Ray of this process's own: a token that nobody else has, and loopback as its address, to
    which Ray holds itself on systems where it makes no clusters."""
    ours = {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_hex(32), "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }  # fmt: skip
    constants = _ray._private.ray_constants
    clusters, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        with environment(ours):
            _reread_environment()
            yield
    finally:
        constants.ENABLE_RAY_CLUSTER = clusters
        _reread_environment()


@contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """This process's variables as given, None for absent; what they were is put back."""
    before = {name: os.environ.get(name) for name in values}

    def put(given: Mapping[str, str | None]) -> None:
        for name, value in given.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    put(values)
    try:
        yield
    finally:
        put(before)


def _reread_environment() -> None:
    """Has Ray forget the mode and the token that it read when it was imported."""
    _ray._raylet.Config.initialize("")
    _ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def require_loopback() -> None:
    """Raises EngineError if a process below this one listens on another address than loopback."""
    import psutil  # Ray brings it

    wide = [
        f"{process.name()} {one.laddr.ip}:{one.laddr.port}"
        for process in psutil.Process().children(recursive=True)
        for one in _listening(process)
        if not ip_address(one.laddr.ip.removeprefix("::ffff:")).is_loopback
    ]
    if wide:
        raise EngineError(
            found=f"the Ray that was started listens beyond this machine: {', '.join(wide)}",
            wanted=f"a Ray that listens on {LOOPBACK} alone",
            hint="unset RAY_* settings of addresses, or start a head with a token and give --address",
        )


def _listening(process: Any) -> list[Any]:
    import psutil

    try:
        return [one for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return []


def resources(*, grows: bool = False) -> Resources:
    """What the nodes alive now have in all."""
    alive = [node["Resources"] for node in alive_nodes()]
    gpus = tuple(found for node in alive if (found := node.get("GPU", 0.0)) > 0)
    cpus = sum(node.get("CPU", 0.0) for node in alive)
    return Resources(cpus, sum(gpus), max(len(alive), 1), grows, gpus)


def alive_nodes() -> list[dict[str, Any]]:
    """The nodes alive now, as Ray tells of them."""
    return [node for node in _ray.nodes() if node["Alive"]]


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


class Exported:
    """Where a driver tells its metrics, or an actor by its name: this process's node's agent, which Prometheus asks.
    Without an agent nothing happens. Ray must be up; its objects are made at a metric's first use."""

    def __init__(self, dataset: str, actor: str = "") -> None:
        self._tags = {"dataset": dataset, "actor": actor} if actor else {"dataset": dataset}
        self._made: dict[str, Counter | Gauge | Histogram] = {}

    def __call__(self, metric: Metric, value: float, **tags: str) -> None:
        made = self._made.get(metric.name) or self._make(metric)
        if isinstance(made, Counter):
            made.inc(value, tags=tags)
        elif isinstance(made, Gauge):
            made.set(value, tags=tags)
        else:
            made.observe(value, tags=tags)

    def _make(self, metric: Metric) -> Counter | Gauge | Histogram:
        about = metric.full_name, metric.help
        keys = (*self._tags, *metric.tags)
        made: Counter | Gauge | Histogram
        if metric.kind == "histogram":
            made = Histogram(*about, list(map(float, SECONDS)), keys)
        else:
            made = (Counter if metric.kind == "counter" else Gauge)(*about, keys)
        made.set_default_tags(self._tags)
        self._made[metric.name] = made
        return made
