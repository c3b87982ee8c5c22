"""One network in training: its state on disk (safetensors and JSON, published by rename, the last one kept), what the
loop's functions share, and the processes that train it together.

One process is a world of its own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn

from xreal_synth.errors import TrainingError
from xreal_synth.opening import parse_json
from xreal_synth.training.images import ImageBatch, TrainingImages
from xreal_synth.training.settings import LoopSettings
from xreal_synth.training.tasks.base import TrainingTask

LATEST = "latest.json"


@dataclass(slots=True)
class Progress:
    """The progress of a run: steps done, seconds spent in all its parts, best validation loss so far."""

    step: int = 0
    seconds: float = 0.0
    best: float | None = None


@dataclass(frozen=True, slots=True)
class Learner:
    """All that changes while training: the module, its optimiser and the running average of its parameters."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMAModel

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that are trained, by name, in the module's order."""
        return [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]


def save_state(folder: Path, learner: Learner, progress: Progress, config: dict[str, Any]) -> None:
    """Write `folder/step-N/` beside the former one, then point `latest.json` at it and drop the former."""
    name = _free_name(folder, progress.step)
    temporary = folder / f".{name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(_tensors(learner), temporary / "state.safetensors")
    record = {"step": progress.step, "seconds": progress.seconds, "best": progress.best, "config": config}
    (temporary / "state.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    os.replace(temporary, folder / name)
    pointer = folder / (LATEST + ".tmp")
    pointer.write_text(json.dumps({"state": name}), encoding="utf-8")
    os.replace(pointer, folder / LATEST)
    for other in folder.glob("step-*"):
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)


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


def _free_name(folder: Path, step: int) -> str:
    """A name for this step's state that is not the published one's, which stays until the new one replaces it."""
    published = _published(folder)
    name = next(n for n in (f"step-{step:07d}", f"step-{step:07d}-again") if n != published)
    shutil.rmtree(folder / name, ignore_errors=True)
    return name


def _published(folder: Path) -> str | None:
    pointer = folder / LATEST
    return str(parse_json(pointer.read_text(encoding="utf-8"))["state"]) if pointer.exists() else None


def load_state(folder: Path, learner: Learner) -> tuple[Progress, dict[str, Any]] | None:
    """Fill the learner from the last state in `folder`; None where there is none.

    Raises TrainingError for one that does not fit.
    """
    try:
        name = _published(folder)
        if name is None:
            return None
        place = folder / name
        record = parse_json((place / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(place / "state.safetensors")
        _restore(learner, tensors)
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            found=f"{folder}: {error}", wanted="a state of this network", hint="train into an empty folder"
        ) from error
    return Progress(record["step"], record["seconds"], record["best"]), record["config"]


def _tensors(learner: Learner) -> dict[str, Tensor]:
    found = {f"module/{name}": value.detach().clone() for name, value in learner.module.state_dict().items()}
    for (name, parameter), shadow in zip(learner.trained(), learner.ema.shadow_params, strict=True):
        found[f"ema/{name}"] = shadow.detach().clone()
        for key, value in learner.optimizer.state.get(parameter, {}).items():
            found[f"optimizer/{key}/{name}"] = torch.as_tensor(value).detach().clone()
    found["ema_step"] = torch.tensor(learner.ema.optimization_step)
    return found


def _restore(learner: Learner, tensors: dict[str, Tensor]) -> None:
    module = {k.removeprefix("module/"): v for k, v in tensors.items() if k.startswith("module/")}
    learner.module.load_state_dict(module)
    for (name, parameter), shadow in zip(learner.trained(), learner.ema.shadow_params, strict=True):
        shadow.copy_(tensors[f"ema/{name}"])
        moments = {k.split("/")[1]: v for k, v in tensors.items() if _is_moment(k, name)}
        if moments:
            learner.optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in moments.items()
            }
    learner.ema.optimization_step = int(tensors["ema_step"])


def _is_moment(key: str, name: str) -> bool:
    head, _, rest = key.partition("/")
    return head == "optimizer" and rest.partition("/")[2] == name


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
    board: Any = None
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
