"""Reports of a run on itself: validation, metrics.jsonl, curves, sample pictures, the network so far."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xreal_synth.opening import parse_json
from xreal_synth.training.draws import generator_for, split
from xreal_synth.training.session import TrainingRun, new_version, save_state

METRICS = "metrics.jsonl"
BOARD = "tensorboard"


def append_metrics(out: Path, record: dict[str, float | int | str]) -> None:
    """One line of JSON per record."""
    with (out / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_metrics(out: Path) -> list[dict[str, float | int | str]]:
    """All records; a last line cut short by a crash is left out."""
    records = []
    for line in (out / METRICS).read_text(encoding="utf-8").splitlines():
        try:
            records.append(parse_json(line))
        except json.JSONDecodeError:
            continue
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

    records = read_metrics(out)
    train, val = (_points(records, split, "loss") for split in ("train", "val"))
    figure = Figure(figsize=(8, 5.5), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    upper.plot(*train, color="tab:blue", alpha=0.35, linewidth=0.8, label="training")
    upper.plot(train[0], smooth(train[1]), color="tab:blue", linewidth=1.4, label="training, running mean")
    if val[0]:
        marker = "o" if len(val[0]) < 60 else ""
        label = "validation (averaged weights)"
        upper.plot(*val, color="tab:orange", linewidth=1.4, marker=marker, markersize=3, label=label)
        best = min(range(len(val[1])), key=val[1].__getitem__)
        best_label = f"best: {val[1][best]:.4g} at step {val[0][best]:,.0f}"
        upper.plot(
            val[0][best],
            val[1][best],
            marker="*",
            markersize=12,
            color="tab:red",
            linestyle="",
            label=best_label,
        )
    upper.set_ylabel("loss")
    if all(value > 0 for value in (*train[1], *val[1])):
        upper.set_yscale("log")
        for axis_labels in (upper.yaxis.set_major_formatter, upper.yaxis.set_minor_formatter):
            axis_labels(LogFormatter(minor_thresholds=(2, 0.5)))
    upper.grid(visible=True, which="both", alpha=0.25)
    upper.legend(fontsize=8)
    lower.plot(*_points(records, "train", "lr"), color="tab:green", linewidth=1.2)
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
    sums = np.concatenate([[0.0], np.cumsum(values)])
    begins = [max(0, n - reach) for n in range(len(values))]
    ends = [min(len(values), n + reach + 1) for n in range(len(values))]
    return [float(sums[end] - sums[begin]) / (end - begin) for begin, end in zip(begins, ends, strict=True)]


def _points(
    records: list[dict[str, float | int | str]], split: str, name: str
) -> tuple[list[float], list[float]]:
    found = [(float(r["step"]), float(r[name])) for r in records if r["split"] == split and name in r]
    return [step for step, _ in found], [value for _, value in found]


def write_picture(path: Path, picture: Tensor) -> None:
    """[H, W] in [0, 1] -> 8-bit grey PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (picture.float().cpu().clamp(0, 1) * 255).round().numpy().astype(np.uint8)
    Image.fromarray(pixels).save(path)


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
        if run.board is not None:
            for name, value in values.items():
                run.board.add_scalar(f"{name}/{part}", value, run.progress.step)
            run.board.flush()


def _publish_network(run: TrainingRun, name: str) -> None:
    """The averaged weights as `out/name/`, replaced as a whole."""
    if not run.world.first:
        return
    with new_version(run.out / name) as folder, run.averaged():
        run.task.save(folder)
