"""One network in training: what the loop's functions share, and the processes that train it together.

One process is a world of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, distributed, nn

from xreal_synth.training.images import ImageBatch, TrainingImages
from xreal_synth.training.settings import LoopSettings
from xreal_synth.training.state import Learner, Progress
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


def learning_rate(settings: LoopSettings, step: int) -> float:
    """The rate of step `step` (0 is the first): warm-up, then constant, then to zero at the end.

    It is the product of two of diffusers' schedules: `constant_with_warmup` from the first step on, and
    `linear` or `cosine` over the last `decay_share` of the steps. diffusers' own `linear` and `cosine` begin
    to fall where the warm-up ends (nearly decay_share = 1) and cannot stay constant in between, hence the
    product. The warm-up is read one step on, so that the first step is not spent at a rate of zero. A rate
    depends on the step alone: a resumed run needs no scheduler state.
    """
    warm = _factor("constant_with_warmup", settings.warmup_steps, None)(step + 1)
    begin = settings.steps * (1 - settings.decay_share)
    if settings.schedule == "constant" or step <= begin:
        return settings.lr * warm
    fall = _factor(settings.schedule, 0, max(1.0, settings.steps - begin))(min(step, settings.steps) - begin)
    return settings.lr * warm * fall


@lru_cache(maxsize=16)
def _factor(name: str, warmup_steps: int, steps: float | None) -> Callable[[float], float]:
    """A diffusers schedule as a function of the step."""
    nothing = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule: Any = get_scheduler(name, nothing, num_warmup_steps=warmup_steps, num_training_steps=steps)
    factor: Callable[[float], float] = schedule.lr_lambdas[0]
    return factor


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace of a run: steps, images a second, seconds still to go, the last losses.

    `validated` says that `val_loss` is this step's.
    """

    step: int
    steps: int
    images_per_s: float
    left_s: float
    loss: float
    val_loss: float | None
    best: float | None
    validated: bool


@dataclass(slots=True)
class Stop:
    """Set by SIGTERM, SIGINT or the driver of several processes; the loop then saves and returns."""

    asked: bool = False


OnStep = Callable[[Pace], None]


@dataclass(slots=True)
class TrainingRun:
    """One network in training, in this process."""

    task: TrainingTask
    images: dict[str, TrainingImages]
    settings: LoopSettings
    config: dict[str, Any]
    seed: int
    out: Path
    device: torch.device
    world: WorkerGroup = field(default_factory=WorkerGroup)
    stop: Stop = field(default_factory=Stop)
    on_step: OnStep = lambda pace: None
    learner: Learner = field(init=False)
    loss: nn.Module = field(init=False)
    recent: dict[str, list[float]] = field(default_factory=dict)
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        trained = [p for p in self.task.module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=self.settings.lr, betas=self.settings.betas, weight_decay=self.settings.weight_decay
        )
        ema = EMAModel(trained, decay=self.settings.ema_decay, use_ema_warmup=True, power=0.75)
        self.learner = Learner(self.task.module, optimizer, ema)
        self.loss = joined_loss(self.task, self.world)
        self.progress = Progress()

    def descend(self, step: int) -> tuple[float, float]:
        """A step of the optimiser along the gradients that are there, and of the average; their norm and the rate."""
        trained = [p for _, p in self.learner.trained()]
        norm = nn.utils.clip_grad_norm_(trained, self.settings.clip_norm)
        rate = learning_rate(self.settings, step)
        for group in self.learner.optimizer.param_groups:
            group["lr"] = rate
        self.learner.optimizer.step()
        self.learner.optimizer.zero_grad(set_to_none=True)
        self.learner.ema.step(trained)
        return float(norm), rate

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The module with its averaged weights, in evaluation mode."""
        trained = [p for _, p in self.learner.trained()]
        self.learner.ema.store(trained)
        self.learner.ema.copy_to(trained)
        self.task.module.eval()
        try:
            yield
        finally:
            self.learner.ema.restore(trained)
            self.task.module.train()

    def autocast(self) -> torch.autocast:
        """bfloat16 where `precision` asks for it."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.settings.precision == "bf16"
        )
