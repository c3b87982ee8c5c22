"""`compute: auto` resolved against what a machine or a cluster has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from xreal_synth.errors import EngineError
from xreal_synth.recipe.schema import Compute

Device = Literal["cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]

MICRO_BATCH: dict[Device, int] = {"cpu": 4, "cuda": 16}


@dataclass(frozen=True, slots=True)
class Resources:
    """What Ray says there is, over all nodes."""

    cpus: float
    gpus: float
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class ActorShape:
    """What one actor takes and how it samples; `count` is how many the run wants at most, None for all
    that fit."""

    device: Device
    precision: Precision
    micro_batch: int
    cpus: float
    gpus: float
    count: int | None

    def wanted(self, resources: Resources, shards: int) -> int:
        """Actors worth having for `shards` unfinished shards: at least one, never more than shards."""
        if self.count is not None:
            fit = self.count
        elif self.gpus > 0:
            fit = int(resources.gpus / self.gpus + 1e-6)
        else:
            fit = int(resources.cpus / self.cpus + 1e-6) if self.cpus > 0 else 1
        return min(max(fit, 1), shards)


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_cpus(compute: Compute) -> int:
    """CPUs a local Ray is started with: the machine's, or more where the recipe asks for more actors."""
    share = 1.0 if compute.cpus_per_actor == "auto" else float(compute.cpus_per_actor)
    asked = 1 if compute.actors == "auto" else int(compute.actors * share + 0.999)
    return max(cpu_count(), asked)


def actor_shape(compute: Compute, resources: Resources) -> ActorShape:
    """One actor per GPU where there are GPUs, else one per core.

    The micro-batch is fixed here, from the device kind alone, and recorded in the fingerprint with the
    precision that the device gives: they change bytes.
    Raises EngineError where the recipe asks for more GPU than a cluster without any has.
    """
    gpus = (
        (1.0 if resources.gpus > 0 else 0.0) if compute.gpus_per_actor == "auto" else compute.gpus_per_actor
    )
    if gpus > 0 and resources.gpus <= 0 and resources.nodes == 1:
        raise EngineError(
            found="no GPU on this machine",
            wanted=f"compute.gpus_per_actor: {gpus:g}",
            mend="set compute.gpus_per_actor to auto or 0, or run on a machine with a GPU",
        )
    device: Device = "cuda" if gpus > 0 else "cpu"
    return ActorShape(
        device=device,
        precision=compute.precision,
        micro_batch=MICRO_BATCH[device] if compute.micro_batch == "auto" else compute.micro_batch,
        cpus=1.0 if compute.cpus_per_actor == "auto" else compute.cpus_per_actor,
        gpus=gpus,
        count=None if compute.actors == "auto" else compute.actors,
    )
