"""One training by several processes, through Ray Train: the same loop, config and folders as in one process.

Every worker reads the same images and draws the same numbers; a step's batch is split among them, gradients are
averaged (DistributedDataParallel), and the first worker writes. A run can go on with another number of workers.
A worker that dies ends the group; Ray Train starts it again, and the loop resumes from its last state.

The caller is connected to Ray already. Relative folders in the config start where the command was given.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from xreal_synth.errors import EngineError, XrealError
from xreal_synth.storage import is_remote, local_folder
from xreal_synth.training.loop import check_split, run_loop, stop_signals
from xreal_synth.training.pace import Mailbox, OnStep, Pace, Result
from xreal_synth.training.run import open_run
from xreal_synth.training.session import TrainingRun, WorkerGroup
from xreal_synth.training.settings import TrainConfig

RESTARTS = 3
POLL_S = 0.1
AGREE_S = 20.0
RAY_FOLDER = ".ray-train"

T = TypeVar("T")
_ray: Any = ray  # parts of its interface carry no types
_run_config: Any = RunConfig


@dataclass(frozen=True, slots=True)
class Team:
    """The workers that train together: how many, and what each takes of its node. `threads` are torch's on a CPU."""

    workers: int
    gpus_per_worker: float = 0.0
    cpus_per_worker: float = 1.0
    threads: int | None = None


def _ends(mailbox: Any, kind: type[T]) -> list[T]:
    return [end for end in _ray.get(mailbox.ends.remote()) if isinstance(end, kind)]


def train_together(
    config: TrainConfig, data: str | Path, out: Path, team: Team, on_step: OnStep = lambda pace: None
) -> Result:
    """Train `config` on `data` into `out` by a team of workers, or go on with what `out` holds.

    SIGTERM and SIGINT let the workers save and stop. Raises TrainingError as training in one process does, and
    EngineError if the cluster has too little room or the workers fail RESTARTS times.
    """
    check_split(config.loop, team.workers)
    _check_room(team)
    out.mkdir(parents=True, exist_ok=True)
    mailbox = _ray.remote(num_cpus=0)(Mailbox).remote()
    threads = team.threads or max(1, int(team.cpus_per_worker))
    where = str(data) if is_remote(str(data)) else str(local_folder(str(data)).absolute())
    here, there = Path.cwd(), out.absolute()
    trainer = _trainer(lambda: _work(config, where, there, here, threads, mailbox), team, out)
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            failures.append(error)

    fitting = threading.Thread(target=fit, daemon=True)
    fitting.start()
    _watch(fitting, mailbox, on_step)
    mistakes, results = _ends(mailbox, XrealError), _ends(mailbox, Result)
    shutil.rmtree(out / RAY_FOLDER, ignore_errors=True)
    if mistakes:
        raise mistakes[0]
    if failures or not results:
        raise EngineError(
            found=f"the workers failed: {failures[0] if failures else 'no result'}",
            wanted="workers that train to the end",
            hint="fix what the message says, then run the same command again to go on",
        )
    return results[-1]


def _trainer(work: Callable[[], None], team: Team, out: Path) -> TorchTrainer:
    """Ray Train's part; its own notes go to a hidden folder in `out`, emptied first."""
    shutil.rmtree(out / RAY_FOLDER, ignore_errors=True)
    resources = {"CPU": team.cpus_per_worker, "GPU": team.gpus_per_worker}
    return TorchTrainer(
        work,
        scaling_config=ScalingConfig(
            num_workers=team.workers, use_gpu=team.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=_run_config(
            name=RAY_FOLDER,
            storage_path=str(out.absolute()),
            failure_config=FailureConfig(max_failures=RESTARTS),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _work(config: TrainConfig, data: str, out: Path, folder: Path, threads: int, mailbox: Any) -> None:
    """One worker: the loop, with a part of each batch. `folder` is the caller's, where relative paths start."""
    if _ends(mailbox, XrealError):
        return
    if folder.is_dir():
        os.chdir(folder)
    torch.set_num_threads(threads)
    context: Any = ray.train.get_context()
    device: torch.device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    world = WorkerGroup(context.get_world_rank(), context.get_world_size(), str(device))
    try:
        run = open_run(config, data, out, device, world)
        run.on_step = _reports(run, mailbox)
        result = run_loop(run)
    except XrealError as mistake:
        _ray.get(mailbox.finish.remote(mistake))
        if _all_refuse(mailbox, world.size):
            return
        raise
    if world.first:
        _ray.get(mailbox.finish.remote(result))


def _all_refuse(mailbox: Any, workers: int) -> bool:
    """Whether all workers met a mistake, as they do where it lies in config or images; if not, the others wait for
    this one in vain, and it has to fail."""
    until = time.monotonic() + AGREE_S
    while time.monotonic() < until:
        if len(_ends(mailbox, XrealError)) >= workers:
            return True
        time.sleep(POLL_S)
    return False


def _reports(run: TrainingRun, mailbox: Any) -> OnStep:
    """Validation losses to Ray Train from every worker; pace and stop between the first one and the mailbox."""
    asked: list[Any] = []

    def report(pace: Pace) -> None:
        if pace.validated:
            ray.train.report({"step": pace.step, "loss": pace.loss, "val_loss": pace.val_loss})
        if not run.world.first:
            return
        if asked and _ray.wait(asked, timeout=0)[0] and _ray.get(asked.pop()):
            run.stop.set()
        if not asked:
            asked.append(mailbox.tell.remote(pace))

    return report


def _watch(fitting: threading.Thread, mailbox: Any, on_step: OnStep) -> None:
    """Passes the pace on until the training has ended; a signal asks the workers to stop."""
    stop, shown = threading.Event(), 0
    with stop_signals(stop):
        while fitting.is_alive():
            fitting.join(POLL_S)
            pace: Pace | None = _ray.get(mailbox.pace.remote(stop.is_set()))
            if pace is not None and pace.step > shown:
                shown = pace.step
                on_step(pace)


def _check_room(team: Team) -> None:
    """Raises EngineError where Ray could never place the team, which would wait without end."""
    have = _ray.cluster_resources()
    for name, each in (("CPU", team.cpus_per_worker), ("GPU", team.gpus_per_worker)):
        if each * team.workers > have.get(name, 0.0) + 1e-6:
            raise EngineError(
                found=f"Ray has {have.get(name, 0.0):g} {name}",
                wanted=f"{each * team.workers:g}: {team.workers} workers of {each:g}",
                hint="take fewer workers or a smaller share each, or give the address of a larger cluster",
            )
