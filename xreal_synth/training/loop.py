"""The one training loop: every network, resumable to the step, in one process or several.

Every random number of step n comes from a generator seeded with (seed, purpose, n), so a run that was
stopped and started again goes on with the same bits, as long as device, library versions, thread count and
number of processes are the same. With another number of processes, or another `loop.accumulate`, the numbers
drawn are still the same and only the order of sums differs.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from xreal_synth.errors import TrainingError
from xreal_synth.training.config import config_tree, parse_config
from xreal_synth.training.draws import generator_for, image_order, split, weighted_draw
from xreal_synth.training.look import curves_on_board, look, publish, trim_metrics
from xreal_synth.training.pace import Pace, Progress, Result
from xreal_synth.training.session import TrainingRun, load_state
from xreal_synth.training.settings import BUDGET_KEYS, LoopSettings

EXIT_STOPPED = 75


def run_loop(run: TrainingRun) -> Result:
    """Train to the end of the step or time budget, or until asked to stop; resumes what `run.out` holds.

    Raises TrainingError for other settings than the run began with, a damaged state, a loss that is not finite.
    """
    _resume(run)
    first = replace(run.progress)
    began = time.monotonic() - first.seconds
    saved_at, stopped, val_loss = time.monotonic(), False, None
    with stop_signals(run.stop), curves_on_board(run):
        while not _finished(run) and not stopped:
            loss, stopped = _train_step(run, began)
            found = look(run)
            val_loss = found["loss"] if found else val_loss
            run.on_step(_pace(run, first, time.monotonic() - began, loss, val_loss, new=found is not None))
            if time.monotonic() - saved_at > run.settings.checkpoint_minutes * 60:
                publish(run)
                saved_at = time.monotonic()
    run.progress.seconds = max(first.seconds, time.monotonic() - began)
    publish(run)
    return Result(**asdict(run.progress), finished=_finished(run))


def _pace(run: TrainingRun, first: Progress, seconds: float, loss: float, val_loss: float | None, *, new: bool) -> Pace:
    """Images a second and the time left, from the mean since `first`; validation and writing included."""
    settings, progress = run.settings, run.progress
    rate = (progress.step - first.step) / max(1e-9, seconds - first.seconds)
    left = max(0, settings.steps - progress.step) / max(1e-9, rate)
    if settings.minutes is not None:
        left = min(left, max(0.0, settings.minutes * 60 - progress.seconds))
    speed = rate * settings.batch
    return Pace(progress.step, settings.steps, speed, left, loss, val_loss, progress.best, validated=new)


def check_split(settings: LoopSettings, workers: int) -> None:
    """Raises TrainingError if there are too few images in a batch for each worker's parts to have one."""
    parts = settings.accumulate * workers
    if settings.batch < parts:
        raise TrainingError(
            found=f"loop.batch {settings.batch} for {workers} worker(s) x "
            f"{settings.accumulate} parts (loop.accumulate)",
            wanted=f"at least {parts} images, one for each part",
            hint="raise loop.batch, or take fewer workers or a smaller loop.accumulate",
        )


def _resume(run: TrainingRun) -> None:
    """Takes up what `run.out` holds; all processes must find the same there."""
    found = load_state(run.out / "state", run.learner)
    if found is not None:
        run.progress, former = found
        _check_same_config(former, run.config)
        if run.world.first:
            trim_metrics(run.out, run.progress.step)
    seen = run.world.gather((run.progress.step, len(run.images["train"]), len(run.images["val"])))
    if len(set(seen)) > 1:
        raise TrainingError(
            found=f"the workers see different folders: (step, images to train, images to validate) is {seen}",
            wanted="data and out on a disk that all nodes share",
            hint="give a shared folder",
        )


def _check_same_config(former: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with other settings than the run began with; budgets and intervals may change.

    Keys that an earlier version did not have are today's defaults.
    """
    with suppress(KeyError, TrainingError):
        former = config_tree(parse_config(former["network"], former, "the run's config"))
    differences = [
        f"{path}: {before!r}, now {after!r}"
        for path, before, after in _differences(former, now)
        if path.removeprefix("loop.") not in BUDGET_KEYS
    ]
    if differences:
        raise TrainingError(
            found="the run in this folder began with other settings: " + "; ".join(differences),
            wanted="the same settings",
            hint="give them again, or train into an empty folder",
        )


def _differences(former: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(former, dict) and isinstance(now, dict):
        for key in sorted({*former, *now}):
            yield from _differences(former.get(key), now.get(key), f"{path}.{key}".lstrip("."))
    elif former != now:
        yield path, former, now


def _finished(run: TrainingRun) -> bool:
    minutes = run.settings.minutes
    late = minutes is not None and run.progress.seconds >= minutes * 60
    return run.progress.step >= run.settings.steps or late


def _train_step(run: TrainingRun, began: float) -> tuple[float, bool]:
    """One step of the optimiser; returns its loss and whether any process was asked to stop.

    `began` is when the run's seconds were 0, on the monotonic clock.
    """
    step = run.progress.step
    run.task.step = step
    run.task.module.train()
    sums = _gradients(run, step)
    names = sorted(sums)
    seconds = time.monotonic() - began if run.world.first else 0.0
    *means, stops, seconds = run.world.total([*(sums[name] for name in names), float(run.stop.is_set()), seconds])
    losses = dict(zip(names, means, strict=True))
    check_finite(losses["loss"], step, "train again into a new folder with a lower loop.lr or loop.precision=fp32")
    norm, rate = run.descend(step)
    run.progress.step, run.progress.seconds = step + 1, seconds
    for name, value in {**losses, "grad_norm": norm}.items():
        run.recent.setdefault(name, []).append(value)
    run.recent["lr"] = [rate]
    return losses["loss"], stops > 0


def _gradients(run: TrainingRun, step: int) -> dict[str, float]:
    """Gradients of the batch's mean loss; returns this process's share of the mean losses, by name.

    Processes average their gradients with the last part only.
    """
    images, batch, seed = run.images["train"], run.settings.batch, run.seed
    if images.weights is None:
        index = image_order(len(images), batch, seed, step)
    else:
        index = weighted_draw(images.weights, batch, seed, step)
    mine = split(batch, run.settings.accumulate * run.world.size)[run.world.rank :: run.world.size]
    sums, together = dict[str, Tensor](), cast(nn.parallel.DistributedDataParallel, run.loss)
    for part in mine:
        shared = run.world.size > 1 and part is not mine[-1]
        with together.no_sync() if shared else nullcontext():
            draw = generator_for(seed, "train", step)
            torch.manual_seed(draw.initial_seed() + part.first)
            drawn = images.draw(index, draw, part, run.device)
            with run.autocast():
                losses = run.loss(drawn, draw)
            (losses["loss"] * (part.share * run.world.size)).backward()
        for name, value in losses.items():
            share = value.detach().double() * part.share
            sums[name] = sums[name] + share if name in sums else share
    return dict(zip(sums, torch.stack([*sums.values()]).tolist(), strict=True))  # a GPU is waited for once


def check_finite(loss: float, step: int, hint: str) -> None:
    """Raises TrainingError for a loss that is infinite or no number."""
    if not math.isfinite(loss):
        raise TrainingError(found=f"the loss of step {step} is {loss}", wanted="a finite loss", hint=hint)


@contextmanager
def stop_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT ask the loop to save and return; outside the main thread nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: object) -> None:
        stop.set()

    former = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
