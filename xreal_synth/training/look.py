"""Reports of a run on itself: validation, metrics, curves, sample pictures, the network so far."""

from __future__ import annotations

import os
import shutil

import torch
from torch import Tensor

from xreal_synth.training.curves import append_metrics, draw_curves, write_picture
from xreal_synth.training.draws import generator_for, split
from xreal_synth.training.session import TrainingRun
from xreal_synth.training.state import save_state

PREVIEW_IMAGES = 8


def look(run: TrainingRun) -> dict[str, float] | None:
    """Log, validate and draw whenever the step is one of theirs; returns the validation losses if there are any.

    Every process validates its share; the first one writes.
    """
    step, settings = run.progress.step, run.settings
    found = None
    if step % settings.log_every == 0:
        means = {name: sum(values) / len(values) for name, values in run.recent.items()}
        _record(run, "train", means)
        run.recent.clear()
    if step % settings.validate_every == 0:
        found = validate(run)
        _record(run, "val", found)
        if run.world.first:
            draw_curves(run.out)
        if run.progress.best is None or found["loss"] < run.progress.best:
            run.progress.best = found["loss"]
            _publish_network(run, "best")
    if (step % settings.preview_every == 0 or step == settings.steps) and run.world.first:
        write_picture(run.out / "samples" / f"step-{step:07d}.png", preview(run))
    return found


@torch.no_grad()
def validate(run: TrainingRun) -> dict[str, float]:
    """Losses of the averaged weights over the validation split, unwarped, with the same draws each time."""
    images, sums = run.images["val"], dict[str, float]()
    run.task.take_seen()
    with run.averaged():
        for start in range(0, len(images), run.settings.batch):
            index = torch.arange(start, min(start + run.settings.batch, len(images)))
            for part in split(len(index), run.settings.accumulate * run.world.size)[
                run.world.rank :: run.world.size
            ]:
                with run.autocast():
                    batch = images.take(index, part).to(run.device)
                    losses = run.task.loss(batch, generator_for(run.seed, "val", start))
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + float(value) * part.count
    totals: dict[str, float] = {}
    for one in run.world.gather(sums):
        for name, total in one.items():
            totals[name] = totals.get(name, 0.0) + total
    means = {name: total / len(images) for name, total in totals.items()}
    return {**means, **run.task.scores(run.world.gather(run.task.take_seen()))}


def preview(run: TrainingRun) -> Tensor:
    """The task's picture for a fixed few validation images, made with the averaged weights. [H, W] in [0, 1]."""
    images = run.images["val"]
    index = torch.linspace(0, len(images) - 1, min(PREVIEW_IMAGES, len(images))).round().long()
    with run.averaged(), torch.no_grad(), run.autocast():
        return run.task.preview(images.take(index).to(run.device), generator_for(run.seed, "preview", 0))


def publish(run: TrainingRun) -> None:
    """The state to resume from, and the averaged weights as `network/`."""
    if run.world.first:
        save_state(run.out / "state", run.learner, run.progress, run.config)
    _publish_network(run, "network")


def _record(run: TrainingRun, part: str, values: dict[str, float]) -> None:
    if run.world.first:
        where: dict[str, float | int | str] = {
            "step": run.progress.step,
            "seconds": round(run.progress.seconds, 1),
            "split": part,
        }
        append_metrics(run.out, {**where, **values})


def _publish_network(run: TrainingRun, name: str) -> None:
    """The averaged weights as `out/name/`, replaced as a whole."""
    if not run.world.first:
        return
    temporary, final, former = (run.out / f"{prefix}{name}" for prefix in (".new-", "", ".old-"))
    for leftover in (temporary, former):
        shutil.rmtree(leftover, ignore_errors=True)
    with run.averaged():
        run.task.save(temporary)
    if final.exists():
        os.replace(final, former)
    os.replace(temporary, final)
    shutil.rmtree(former, ignore_errors=True)
