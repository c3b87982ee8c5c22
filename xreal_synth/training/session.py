"""One network in training: its state on disk (safetensors and JSON, published by rename, the last one kept), what the
loop's functions share, and the processes that train it together.

One process is a world of its own.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn

from xreal_synth.opening import parse_json
from xreal_synth.training.first_stage import reading
from xreal_synth.training.images import TrainingImages
from xreal_synth.training.pace import OnStep, Progress
from xreal_synth.training.settings import LoopSettings
from xreal_synth.training.tasks.base import TrainingTask

LATEST = "latest.json"


@dataclass(frozen=True, slots=True)
class Learner:
    """All that changes while training: the module, its optimiser and the running average of its parameters."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMAModel

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name, in the module's order."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all that `restore` needs, by name."""
        found = {f"module/{name}": value for name, value in self.module.state_dict().items()}
        for (name, parameter), shadow in zip(self.trained().items(), self.ema.shadow_params, strict=True):
            found[f"ema/{name}"] = shadow
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"optimizer/{key}/{name}"] = torch.as_tensor(value)
        found["ema_step"] = torch.tensor(self.ema.optimization_step)
        return {name: value.detach().clone() for name, value in found.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Takes up what `tensors` gave; raises KeyError or RuntimeError for another network's."""
        module = {k.removeprefix("module/"): v for k, v in tensors.items() if k.startswith("module/")}
        self.module.load_state_dict(module)
        trained = self.trained()
        for name, shadow in zip(trained, self.ema.shadow_params, strict=True):
            shadow.copy_(tensors[f"ema/{name}"])
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, moment, name = key.split("/", 2)
                kept = value if moment == "step" else value.to(trained[name].device)
                self.optimizer.state[trained[name]][moment] = kept
        self.ema.optimization_step = int(tensors["ema_step"])


def save_state(folder: Path, learner: Learner, progress: Progress, config: dict[str, Any]) -> None:
    """Write `folder/step-N/` beside the former one, then point `latest.json` at it and drop the former."""
    published, name = _published(folder), f"step-{progress.step:07d}"
    if name == published:  # which stays until the new one replaces it
        name += "-again"
    temporary, pointer = folder / f".{name}.tmp", folder / (LATEST + ".tmp")
    for leftover in (folder / name, temporary):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(learner.tensors(), temporary / "state.safetensors")
    record = json.dumps({**asdict(progress), "config": config}, indent=1)
    (temporary / "state.json").write_text(record, encoding="utf-8")
    os.replace(temporary, folder / name)
    pointer.write_text(json.dumps({"state": name}), encoding="utf-8")
    os.replace(pointer, folder / LATEST)
    for other in folder.glob("step-*"):
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)


def load_state(folder: Path, learner: Learner) -> tuple[Progress, dict[str, Any]] | None:
    """Fill the learner from the last state in `folder`; None where there is none.

    Raises TrainingError for one that does not fit.
    """
    with reading(str(folder), "a state of this network", "train into an empty folder"):
        if (name := _published(folder)) is None:
            return None
        record = parse_json((folder / name / "state.json").read_text(encoding="utf-8"))
        learner.restore(load_file(folder / name / "state.safetensors"))
        return Progress(record["step"], record["seconds"], record["best"]), record["config"]


def _published(folder: Path) -> str | None:
    pointer = folder / LATEST
    return str(parse_json(pointer.read_text(encoding="utf-8"))["state"]) if pointer.exists() else None


@contextmanager
def new_version(target: Path) -> Iterator[Path]:
    """A folder that takes the place of `target` as a whole when the block ends well."""
    temporary, former = (target.with_name(f"{prefix}{target.name}") for prefix in (".new-", ".old-"))
    for leftover in (temporary, former):
        shutil.rmtree(leftover, ignore_errors=True)
    yield temporary
    if target.exists():
        os.replace(target, former)
    os.replace(temporary, target)
    shutil.rmtree(former, ignore_errors=True)


T = TypeVar("T")


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


def learning_rate(settings: LoopSettings, step: int) -> float:
    """The rate of step `step` (0 is the first): warm-up, then constant, then to zero over the last `decay_share`.

    The warm-up is read one step on, so that the first step is not spent at a rate of zero. A rate depends on the
    step alone: a resumed run needs no scheduler state.
    """
    rate = settings.lr * min(1.0, (step + 1) / max(1, settings.warmup_steps))
    begin = settings.steps * (1 - settings.decay_share)
    if settings.schedule == "constant" or step <= begin:
        return rate
    span = max(1.0, settings.steps - begin)
    past = min(step, settings.steps) - begin
    linear = settings.schedule == "linear"
    return rate * ((span - past) / span if linear else (1 + math.cos(math.pi * (past / span))) / 2)


@dataclass(slots=True)
class TrainingRun:
    """One network in training, in this process.

    `stop` is set by SIGTERM, SIGINT or the driver of several processes; the loop then saves and returns.
    """

    task: TrainingTask
    images: dict[str, TrainingImages]
    settings: LoopSettings
    config: dict[str, Any]
    seed: int
    out: Path
    device: torch.device
    world: WorkerGroup = field(default_factory=WorkerGroup)
    stop: Event = field(default_factory=Event)
    on_step: OnStep = lambda pace: None
    learner: Learner = field(init=False)
    loss: nn.Module = field(init=False)
    recent: dict[str, list[float]] = field(default_factory=dict)
    board: Any = None
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        trained = [p for p in self.task.module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=self.settings.lr, betas=self.settings.betas, weight_decay=self.settings.weight_decay
        )
        ema = EMAModel(trained, decay=self.settings.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
        self.learner = Learner(self.task.module, optimizer, ema)
        self.loss = self.task
        if self.world.size > 1:  # a parameter may stay without gradient in a step: a critic's before it is heard
            self.loss = nn.parallel.DistributedDataParallel(self.task, find_unused_parameters=True)

    def descend(self, step: int) -> tuple[float, float]:
        """A step of the optimiser along the gradients that are there, and of the average; their norm and the rate."""
        trained = list(self.learner.trained().values())
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
        trained = list(self.learner.trained().values())
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
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.precision == "bf16")
