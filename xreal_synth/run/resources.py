"""`compute: auto` resolved against what a machine or a cluster has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from xreal_synth.errors import EngineError
from xreal_synth.recipe.schema import ActorRange, Compute

Device = Literal["cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
AskedCompile = Literal["auto", "none", "graphs", "inductor"]

CPU_MICRO_BATCH = 4
"""Gains little above on a CPU; on a GPU `auto` is found by the first actor (micro_batch.py)."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources that Ray counts over all nodes; `grows` where nodes may join, as in a cluster. `node_gpus` are the GPUs
    of each node that has some, empty where all are on one."""

    cpus: float
    gpus: float
    nodes: int = 1
    grows: bool = False
    node_gpus: tuple[float, ...] = ()

    def gpu_places(self, share: float) -> int:
        """Actors that fit with so much of a GPU each: an actor's share is of one GPU of one node."""
        on_nodes = self.node_gpus or (self.gpus,)
        return int(sum(gpus * int(1 / share + 1e-6) for gpus in on_nodes))


@dataclass(frozen=True, slots=True)
class ActorShape:
    """Resources of one actor, and how it samples.

    `micro_batch` is None as long as it is to be found: by a backend when it opens, unless it `waits` to be told.
    `count` is how many the run wants at most, None for all that fit; the first shard waits until `least` are up.
    """

    device: Device
    precision: Precision
    micro_batch: int | None
    cpus: float
    gpus: float
    count: int | None
    least: int = 1
    compile: AskedCompile = "auto"
    waits: bool = False

    def wanted(self, resources: Resources, shards: int) -> int:
        """Actors worth having for `shards` unfinished shards: at least one, never more than shards."""
        if self.count is not None:
            fit = self.count
        elif self.gpus > 0:
            fit = resources.gpu_places(self.gpus)
        else:
            fit = int(resources.cpus / self.cpus + 1e-6) if self.cpus > 0 else 1
        return min(max(fit, 1), shards)


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_cpus(compute: Compute) -> int:
    """CPUs a local Ray is started with: the machine's, or more where the recipe asks for more actors."""
    share = 1.0 if compute.cpus_per_actor == "auto" else float(compute.cpus_per_actor)
    _, most = _counts(compute)
    return max(cpu_count(), 1 if most is None else int(most * share + 0.999))


def _counts(compute: Compute) -> tuple[int, int | None]:
    """Fewest and most actors; None for as many as fit."""
    actors = compute.actors
    if isinstance(actors, ActorRange):
        return actors.min, actors.max
    return 1, None if actors == "auto" else actors


def recorded_micro_batch(fingerprint: Mapping[str, str]) -> int | None:
    """The micro-batch a dataset was begun with, from its fingerprint."""
    text = fingerprint.get("micro_batch", "")
    return int(text) if text.isdecimal() and int(text) > 0 else None


def actor_shape(compute: Compute, resources: Resources, recorded: int | None = None) -> ActorShape:
    """One actor per GPU where there are GPUs, else one per core.

    The micro-batch is the recipe's, else the one `recorded` with the dataset, else 4 on a CPU; on a GPU the
    first actor finds it. It stands in the fingerprint with the precision that the device gives: they change
    bytes.
    Raises EngineError where the recipe asks for a GPU that a lone machine does not have, or for CUDA graphs on a CPU.
    """
    gpus = (1.0 if resources.gpus > 0 else 0.0) if compute.gpus_per_actor == "auto" else compute.gpus_per_actor
    if gpus > 0 and resources.gpus <= 0 and resources.nodes == 1 and not resources.grows:
        raise EngineError(
            found="no GPU on this machine",
            wanted=f"compute.gpus_per_actor: {gpus:g}",
            hint="set compute.gpus_per_actor to auto or 0, or run on a machine with a GPU",
        )
    device: Device = "cuda" if gpus > 0 else "cpu"
    if compute.compile == "graphs" and device == "cpu":
        raise graphs_need_gpu()
    micro_batch = recorded or (CPU_MICRO_BATCH if device == "cpu" else None)
    least, most = _counts(compute)
    return ActorShape(
        device=device,
        precision=compute.precision,
        micro_batch=micro_batch if compute.micro_batch == "auto" else compute.micro_batch,
        cpus=1.0 if compute.cpus_per_actor == "auto" else compute.cpus_per_actor,
        gpus=gpus,
        count=most,
        least=least,
        compile=compute.compile,
    )


def graphs_need_gpu() -> EngineError:
    """For CUDA graphs asked of a CPU."""
    return EngineError(
        found="compute.compile: graphs, and no GPU for the actors",
        wanted="a GPU, on which CUDA graphs are recorded; on a CPU: auto, none or inductor",
        hint="leave compute.compile out: auto takes graphs where there is a GPU",
    )
