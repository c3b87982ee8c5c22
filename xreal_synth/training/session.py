"""One network in training: what the loop's functions share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from xreal_synth.training.images import TrainingImages
from xreal_synth.training.settings import LoopSettings
from xreal_synth.training.state import Learner, Progress
from xreal_synth.training.tasks.base import TrainingTask
from xreal_synth.training.world import WorkerGroup, joined_loss


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
