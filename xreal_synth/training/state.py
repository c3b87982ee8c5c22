"""Training state on disk: safetensors and JSON, published by rename, the last one kept.

A state holds everything that a resumed run needs to go on with the same bits: weights, their running average,
the optimiser's moments, and the step; random numbers are drawn anew from (seed, step) and need no state.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xreal_synth.errors import TrainingError
from xreal_synth.opening import parse_json

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
