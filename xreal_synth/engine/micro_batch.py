"""The micro-batch of a dataset, found once by its first actor on a GPU, then fixed and recorded.

Rule: from 1 group it is doubled, up to half of a shard's groups. A size is kept if images per second have grown by
5% or more over the size before and the device's memory stayed at or under 80% of the actor's share; the first size
that is not kept ends the search. It changes bytes, so nothing changes it afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xreal_synth.errors import EngineError
from xreal_synth.run.group_job import first_jobs
from xreal_synth.sampling.jobs import in_batches

if TYPE_CHECKING:
    from xreal_synth.engine.backend import TorchBackend
    from xreal_synth.run.setup import Run

LEAST_GAIN = 0.05
MOST_MEMORY = 0.8
LARGEST = 256
PER_SHARD = 2
"""Micro-batches that a shard has room for, at least. Groups that do not fill one wait for the actor's next shard: with
two in a shard and a tenth refused 98% of the rows are useful, with one 78% (`python -m tests.speed.rows`)."""
_PASSES = 2


@dataclass(frozen=True, slots=True)
class Trial:
    """What a micro-batch gave: images per second, and the peak of memory as a share of the actor's part of the
    device."""

    micro_batch: int
    images_per_s: float
    memory: float


def find_micro_batch(measure: Callable[[int], Trial | None], largest: int = LARGEST) -> tuple[int, tuple[Trial, ...]]:
    """Applies the rule: the micro-batch to keep, and every size that was tried and fitted. `measure(n)` is None where n
    groups do not fit. Raises EngineError if one does not."""
    trials: list[Trial] = []
    kept, size = 0, 1
    while size <= max(largest, 1):
        trial = measure(size)
        if trial is None:
            break
        trials.append(trial)
        crowded = trial.memory > MOST_MEMORY
        slow = len(trials) > 1 and trial.images_per_s < (1 + LEAST_GAIN) * trials[-2].images_per_s
        if kept and (crowded or slow):
            break
        kept = size
        if crowded:
            break
        size *= 2
    if not kept:
        raise EngineError(
            found="not even one group's images fit into the device's memory",
            wanted="room for a micro-batch of 1",
            hint="give the actor more of a GPU (compute.gpus_per_actor), or take a larger one",
        )
    return kept, tuple(trials)


def measure_torch(run: Run, backend: TorchBackend, groups: int, share: float) -> Trial | None:
    """Images per second of the recipe's first groups, the faster of two passes; None if out of memory.

    `share` is the actor's part of the GPU, 0 on a CPU, where memory is not watched.
    """
    import torch

    from xreal_synth.models.devices import does_not_fit

    on_gpu, trial = share > 0, None
    backend.micro_batch = groups
    try:
        trial = _timed(run, backend, groups, share)
    except RuntimeError as error:
        if not does_not_fit(error):
            raise
    backend.release()
    if on_gpu:  # not before the exception has gone, whose traceback holds what did fit
        torch.cuda.empty_cache()
    return trial


def _timed(run: Run, backend: TorchBackend, groups: int, share: float) -> Trial:
    import torch

    jobs = list(first_jobs(run, groups))
    seconds, images, memory = float("inf"), 0, 0.0
    for _ in range(_PASSES):
        if share > 0:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        began = time.monotonic()
        batches = in_batches(backend.renderer(), jobs, groups)
        images = sum(len(group.images) for batch in batches for group in batch)
        if share > 0:
            torch.cuda.synchronize()
        seconds = min(seconds, time.monotonic() - began)
    if share > 0:
        total = torch.cuda.get_device_properties().total_memory * min(share, 1.0)
        memory = torch.cuda.max_memory_reserved() / total
    return Trial(groups, images / seconds, memory)
