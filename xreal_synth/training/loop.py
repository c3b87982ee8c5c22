"""The one training loop: every network, resumable to the step.

Every random number of step n comes from a generator seeded with (seed, purpose, n), so a run that was
stopped and started again goes on with the same bits, as long as device, library versions and thread count
are the same.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel

from xreal_synth.errors import TrainingError
from xreal_synth.training.curves import append_metrics, draw_curves, trim_metrics, write_picture
from xreal_synth.training.films import FilmSet
from xreal_synth.training.settings.common import BUDGET_KEYS, LoopSettings
from xreal_synth.training.state import Learner, Progress, load_state, save_state
from xreal_synth.training.tasks.base import Task

PREVIEW_FILMS = 8
EXIT_STOPPED = 75


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended: steps done, whether the budget is used up, seconds in all, best validation loss."""

    step: int
    finished: bool
    seconds: float
    best: float | None


@dataclass(slots=True)
class Stop:
    """Set by SIGTERM or SIGINT; the loop then saves and returns."""

    asked: bool = False


@dataclass(slots=True)
class Run:
    """One network in training: everything the loop's functions share."""

    task: Task
    films: dict[str, FilmSet]
    settings: LoopSettings
    config: dict[str, Any]
    seed: int
    out: Path
    device: torch.device
    learner: Learner = field(init=False)
    recent: dict[str, list[float]] = field(default_factory=dict)
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        trained = [p for p in self.task.module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=self.settings.lr, betas=self.settings.betas, weight_decay=self.settings.weight_decay
        )
        ema = EMAModel(trained, decay=self.settings.ema_decay, use_ema_warmup=True, power=0.75)
        self.learner = Learner(self.task.module, optimizer, ema)
        self.progress = Progress()


def generator_for(seed: int, purpose: str, step: int) -> torch.Generator:
    """A generator of its own for each purpose and step."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def film_order(films: int, batch: int, seed: int, step: int) -> torch.Tensor:
    """Which films step `step` sees [batch]: every film once per pass, each pass in an order of its own."""
    places = range(step * batch, (step + 1) * batch)
    passes = sorted({place // films for place in places})
    orders = {n: torch.randperm(films, generator=generator_for(seed, "order", n)) for n in passes}
    return torch.stack([orders[place // films][place % films] for place in places])


def run_loop(run: Run) -> Result:
    """Train to the end of the step or time budget, or until asked to stop; resumes what `run.out` holds."""
    run.out.mkdir(parents=True, exist_ok=True)
    found = load_state(run.out / "state", run.learner)
    if found is not None:
        run.progress, former = found
        _check_same_config(former, run.config)
        trim_metrics(run.out, run.progress.step)
    started = time.monotonic() - run.progress.seconds
    saved_at = time.monotonic()
    with stop_signals() as stop:
        while not _finished(run) and not stop.asked:
            _train_step(run)
            run.progress.seconds = time.monotonic() - started
            _look(run)
            if time.monotonic() - saved_at > run.settings.checkpoint_minutes * 60:
                _publish(run)
                saved_at = time.monotonic()
    run.progress.seconds = time.monotonic() - started
    _publish(run)
    return Result(run.progress.step, _finished(run), run.progress.seconds, run.progress.best)


def learning_rate(settings: LoopSettings, step: int) -> float:
    """Warm-up, then constant, then to zero over the last `decay_share` of the steps (linear or cosine)."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    begin = settings.steps * (1 - settings.decay_share)
    past = min(1.0, max(0.0, (step - begin) / max(1.0, settings.steps - begin)))
    if settings.schedule == "linear":
        return settings.lr * warm * (1 - past)
    if settings.schedule == "cosine":
        return settings.lr * warm * 0.5 * (1 + math.cos(math.pi * past))
    return settings.lr * warm


def _check_same_config(former: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with other settings than the run began with; budgets and intervals may change."""
    differences = [
        f"{path}: {before!r}, now {after!r}"
        for path, before, after in _differences(former, now)
        if path.removeprefix("loop.") not in BUDGET_KEYS
    ]
    if differences:
        raise TrainingError(
            found="the run in this folder began with other settings: " + "; ".join(differences),
            wanted="the same settings",
            mend="give them again, or train into an empty folder",
        )


def _differences(former: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(former, dict) and isinstance(now, dict):
        for key in sorted({*former, *now}):
            yield from _differences(former.get(key), now.get(key), f"{path}.{key}".lstrip("."))
    elif former != now:
        yield path, former, now


def _finished(run: Run) -> bool:
    minutes = run.settings.minutes
    late = minutes is not None and run.progress.seconds >= minutes * 60
    return run.progress.step >= run.settings.steps or late


def _train_step(run: Run) -> None:
    step = run.progress.step
    draw = generator_for(run.seed, "train", step)
    torch.manual_seed(draw.initial_seed())
    index = film_order(len(run.films["train"]), run.settings.batch, run.seed, step)
    batch = run.films["train"].draw(index, draw).to(run.device)
    run.task.module.train()
    with _autocast(run):
        losses = run.task.loss(batch, draw)
    _check_finite(losses["loss"], step)
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    trained = [p for _, p in run.learner.trained()]
    norm = torch.nn.utils.clip_grad_norm_(trained, run.settings.clip_norm)
    rate = learning_rate(run.settings, step)
    for group in run.learner.optimizer.param_groups:
        group["lr"] = rate
    run.learner.optimizer.step()
    run.learner.optimizer.zero_grad(set_to_none=True)
    run.learner.ema.step(trained)
    run.progress.step = step + 1
    for name, value in losses.items():
        run.recent.setdefault(name, []).append(float(value.detach()))
    run.recent.setdefault("grad_norm", []).append(float(norm))
    run.recent["lr"] = [rate]


def _check_finite(loss: torch.Tensor, step: int) -> None:
    if not bool(loss.detach().isfinite()):
        raise TrainingError(
            found=f"the loss of step {step} is {float(loss.detach())}",
            wanted="a finite loss",
            mend="train again into a new folder with a lower loop.lr or loop.precision=fp32",
        )


def _look(run: Run) -> None:
    """Log, validate and draw whenever the step is one of theirs."""
    step, settings = run.progress.step, run.settings
    if step % settings.log_every == 0:
        means = {name: sum(values) / len(values) for name, values in run.recent.items()}
        append_metrics(
            run.out, {"step": step, "seconds": round(run.progress.seconds, 1), "split": "train", **means}
        )
        run.recent.clear()
    if step % settings.validate_every == 0:
        found = validate(run)
        append_metrics(
            run.out, {"step": step, "seconds": round(run.progress.seconds, 1), "split": "val", **found}
        )
        draw_curves(run.out)
        if run.progress.best is None or found["loss"] < run.progress.best:
            run.progress.best = found["loss"]
            _publish_network(run, "best")
    if step % settings.preview_every == 0 or step == settings.steps:
        write_picture(run.out / "samples" / f"step-{step:07d}.png", preview(run))


@torch.no_grad()
def validate(run: Run) -> dict[str, float]:
    """Losses of the averaged weights over the validation split, unwarped, with the same draws each time."""
    films, sums = run.films["val"], dict[str, float]()
    with averaged(run):
        for start in range(0, len(films), run.settings.batch):
            index = torch.arange(start, min(start + run.settings.batch, len(films)))
            draw = generator_for(run.seed, "val", start)
            with _autocast(run):
                losses = run.task.loss(films.take(index).to(run.device), draw)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(index)
    return {
        **{name: value / len(films) for name, value in sums.items()},
        **run.task.scores([run.task.take_seen()]),
    }


def preview(run: Run) -> torch.Tensor:
    """The task's picture for a fixed few validation films, made with the averaged weights."""
    films = run.films["val"]
    index = torch.linspace(0, len(films) - 1, min(PREVIEW_FILMS, len(films))).round().long()
    with averaged(run), torch.no_grad(), _autocast(run):
        return run.task.preview(films.take(index).to(run.device), generator_for(run.seed, "preview", 0))


@contextmanager
def averaged(run: Run) -> Iterator[None]:
    """The module with its averaged weights, in evaluation mode."""
    trained = [p for _, p in run.learner.trained()]
    run.learner.ema.store(trained)
    run.learner.ema.copy_to(trained)
    run.task.module.eval()
    try:
        yield
    finally:
        run.learner.ema.restore(trained)
        run.task.module.train()


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """SIGTERM and SIGINT ask the loop to save and return; outside the main thread nothing is changed."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        stop.asked = True

    former = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _publish(run: Run) -> None:
    save_state(run.out / "state", run.learner, run.progress, run.config)
    _publish_network(run, "network")


def _publish_network(run: Run, name: str) -> None:
    """The averaged weights as `out/name/`, replaced as a whole."""
    temporary, final, former = (run.out / f"{prefix}{name}" for prefix in (".new-", "", ".old-"))
    for leftover in (temporary, former):
        shutil.rmtree(leftover, ignore_errors=True)
    with averaged(run):
        run.task.save(temporary)
    if final.exists():
        os.replace(final, former)
    os.replace(temporary, final)
    shutil.rmtree(former, ignore_errors=True)


def _autocast(run: Run) -> torch.autocast:
    return torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=run.settings.precision == "bf16")
