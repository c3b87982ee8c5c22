"""Reports of a run on itself: validation, metrics.jsonl, curves, sample pictures, the network so far."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from xreal_synth.opening import parse_json
from xreal_synth.training.draws import generator_for, split
from xreal_synth.training.session import TrainingRun, new_version, save_state

METRICS = "metrics.jsonl"
BOARD = "tensorboard"
PREVIEW_IMAGES = 8


def append_metrics(out: Path, record: dict[str, float | int | str]) -> None:
    """One line of JSON per record."""
    with (out / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_metrics(out: Path) -> list[dict[str, float | int | str]]:
    """All records; a last line cut short by a crash is left out."""
    records = []
    for line in (out / METRICS).read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            records.append(parse_json(line))
    return records


def trim_metrics(out: Path, step: int) -> None:
    """Drop the records after `step`, which a run that was killed wrote after its last state."""
    if (out / METRICS).exists():
        lines = [json.dumps(record) + "\n" for record in read_metrics(out) if int(record["step"]) <= step]
        temporary = out / f".{METRICS}"
        temporary.write_text("".join(lines), encoding="utf-8")
        os.replace(temporary, out / METRICS)


@contextmanager
def curves_on_board(run: TrainingRun) -> Iterator[None]:
    """While the block lasts, records go to `out/tensorboard` too, where tensorboard is installed.

    What a run that was killed showed after its last state is dropped there too.
    """
    with suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter

        if run.world.first:
            run.board = SummaryWriter(str(run.out / BOARD), purge_step=run.progress.step + 1)
    try:
        yield
    finally:
        if run.board is not None:
            run.board.close()


def draw_curves(out: Path) -> None:
    """Losses over steps, the best validation marked, and the learning rate below -> curves.png.

    The loss axis is logarithmic unless a loss is not positive.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    records = pd.DataFrame(read_metrics(out), columns=["step", "split", "loss", "lr"]).set_index("step")
    train, val = (records[records["split"] == part] for part in ("train", "val"))
    figure = Figure(figsize=(8, 5.5), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    upper.plot(train["loss"], color="tab:blue", alpha=0.35, linewidth=0.8, label="training")
    mean = smooth(list(train["loss"]))
    upper.plot(train.index, mean, color="tab:blue", linewidth=1.4, label="training, running mean")
    if len(val):
        marker = "o" if len(val) < 60 else ""
        label = "validation (averaged weights)"
        upper.plot(val["loss"], color="tab:orange", linewidth=1.4, marker=marker, markersize=3, label=label)
        at, best = val["loss"].idxmin(), val["loss"].min()
        label = f"best: {best:.4g} at step {at:,.0f}"
        upper.plot(at, best, marker="*", markersize=12, color="tab:red", linestyle="", label=label)
    upper.set_ylabel("loss")
    if (records["loss"] > 0).all():
        upper.set_yscale("log")
        for axis_labels in (upper.yaxis.set_major_formatter, upper.yaxis.set_minor_formatter):
            axis_labels(LogFormatter(minor_thresholds=(2, 0.5)))
    upper.grid(visible=True, which="both", alpha=0.25)
    upper.legend(fontsize=8)
    lower.plot(train["lr"], color="tab:green", linewidth=1.2)
    lower.set_ylabel("learning rate")
    lower.set_ylim(bottom=0)
    lower.set_xlabel("step")
    lower.grid(visible=True, alpha=0.25)
    temporary = out / ".curves.png"
    figure.savefig(temporary, format="png")
    os.replace(temporary, out / "curves.png")


def smooth(values: Sequence[float], share: float = 0.05) -> list[float]:
    """Running means over a window of `share` of all values around each."""
    reach = max(1, round(len(values) * share / 2))
    return list(pd.Series(values).rolling(2 * reach + 1, center=True, min_periods=1).mean())


def look(run: TrainingRun) -> dict[str, float] | None:
    """Log, validate and draw whenever the step is one of theirs; returns the validation losses if there are any.

    Every process validates its share; the first one writes.
    """
    step, settings = run.progress.step, run.settings
    found = None
    if step % settings.log_every == 0:
        _record(run, "train", {name: sum(values) / len(values) for name, values in run.recent.items()})
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
        pixels = (preview(run).float().cpu().clamp(0, 1) * 255).round().numpy().astype(np.uint8)
        (run.out / "samples").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(run.out / "samples" / f"step-{step:07d}.png")
    return found


@torch.no_grad()
def validate(run: TrainingRun) -> dict[str, float]:
    """Losses of the averaged weights over the validation split, unwarped, with the same draws each time."""
    images, sums = run.images["val"], defaultdict[str, float](float)
    run.task.take_seen()
    with run.averaged():
        for start in range(0, len(images), run.settings.batch):
            index = torch.arange(start, min(start + run.settings.batch, len(images)))
            parts = split(len(index), run.settings.accumulate * run.world.size)
            for part in parts[run.world.rank :: run.world.size]:
                with run.autocast():
                    batch = images.take(index, part).to(run.device)
                    losses = run.task.loss(batch, generator_for(run.seed, "val", start))
                for name, value in losses.items():
                    sums[name] += float(value) * part.count
    everyones = run.world.gather(dict(sums))
    means = {
        name: sum(one.get(name, 0.0) for one in everyones) / len(images)
        for name in dict.fromkeys(name for one in everyones for name in one)
    }
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
        when = {"step": run.progress.step, "seconds": round(run.progress.seconds, 1)}
        append_metrics(run.out, {**when, "split": part, **values})
        if run.board is not None:
            for name, value in values.items():
                run.board.add_scalar(f"{name}/{part}", value, run.progress.step)
            run.board.flush()


def _publish_network(run: TrainingRun, name: str) -> None:
    """The averaged weights as `out/name/`, replaced as a whole."""
    if run.world.first:
        with new_version(run.out / name) as folder, run.averaged():
            run.task.save(folder)
