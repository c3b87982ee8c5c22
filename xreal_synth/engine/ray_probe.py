"""Proof that a folder is one and the same place on every node."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from xreal_synth.engine.ray_session import alive_nodes
from xreal_synth.errors import EngineError, StorageError
from xreal_synth.storage import TEMPORARY_PREFIX, Store, missing_folders, open_store, remove_empty

_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Probe:
    """A file the driver has put into the output, to be read back from every node."""

    key: str
    content: bytes


def sees(store: Store, probe: Probe) -> bool:
    """Whether the probe is there, as the driver wrote it."""
    try:
        return store.read_bytes(probe.key) == probe.content
    except StorageError:
        return False


def refuse_unshared(store: Store, host: str) -> EngineError:
    return EngineError(
        where=store.uri,
        found=f"{host} does not see what the driver has written there",
        wanted="one place that every node sees",
        hint="give a remote place (s3://..., gs://...) or a folder on a mount that all nodes share",
    )


@contextmanager
def probed(store: Store, *, cluster: bool) -> Iterator[Probe | None]:
    """The probe while it lies in the output; None where none is needed: one machine, or a remote place.

    Raises EngineError if a node that is alive now does not see it; the probe and the folder, if it was made
    for the probe, are removed then as at the end.
    """
    folder = store.local_path
    if folder is None or not cluster:
        yield None
        return
    created = missing_folders(folder)
    probe = Probe(f"{TEMPORARY_PREFIX}probe-{uuid.uuid4().hex}", uuid.uuid4().bytes)
    store.put_if_absent(probe.key, probe.content)
    try:
        _check_nodes(store, probe)
        yield probe
    finally:
        store.delete(probe.key)
        remove_empty(created)


def _check_nodes(store: Store, probe: Probe) -> None:
    nodes = alive_nodes()
    if len(nodes) < 2:
        return
    look = ray.remote(num_cpus=0, max_retries=1)(_look)
    answers = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)).remote(
            store.uri, probe
        )
        for node in nodes
    ]
    try:
        seen = ray.get(answers, timeout=_TIMEOUT_S)
    except ray.exceptions.RayError as error:
        raise EngineError(
            found=f"not every node answers: {error}", wanted="a cluster whose nodes all work", hint="try again"
        ) from error
    for node, answer in zip(nodes, seen, strict=True):
        if not answer:
            raise refuse_unshared(store, node["NodeManagerHostname"])


def _look(uri: str, probe: Probe) -> bool:
    return sees(open_store(uri), probe)
