"""The processes that train one network together; one process is a world of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from xreal_synth.training.images import ImageBatch
from xreal_synth.training.tasks.base import TrainingTask

T = TypeVar("T")
Loss = Callable[[ImageBatch, torch.Generator], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """This process's `rank` among `size`; torch's default process group joins them where there are several."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, the same in each."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(sums)
        return [float(value) for value in sums]

    def gather(self, value: T) -> list[T]:
        """Every process's value in order of rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found


class LossModule(nn.Module):
    """A task's loss as a module, which DistributedDataParallel can wrap."""

    def __init__(self, task: TrainingTask) -> None:
        super().__init__()
        self.trained = task.module
        self._loss = task.loss

    def forward(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The task's losses by name, scalars; a module, so that processes can share its gradients."""
        return self._loss(batch, generator)


def joined_loss(task: TrainingTask, world: WorkerGroup) -> nn.Module:
    """The task's loss; in a world of several, its gradients are averaged over the processes.

    A parameter may stay without gradient in a step (a discriminator before its warm-up has ended).
    """
    module = LossModule(task)
    if world.size == 1:
        return module
    return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)
