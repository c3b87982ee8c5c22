"""What a run writes for people: metrics.jsonl, curves.png and sample pictures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

METRICS = "metrics.jsonl"


def append_metrics(out: Path, record: dict[str, float | int | str]) -> None:
    """One line of JSON per record."""
    with (out / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_metrics(out: Path) -> list[dict[str, float | int | str]]:
    """All records; a last line cut short by a crash is left out."""
    records = []
    for line in (out / METRICS).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
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


def draw_curves(out: Path) -> None:
    """Training and validation loss over steps -> curves.png."""
    from matplotlib.figure import Figure

    records = read_metrics(out)
    figure = Figure(figsize=(7, 4), dpi=100)
    axes = figure.subplots()
    for split in ("train", "val"):
        points = [(r["step"], r["loss"]) for r in records if r["split"] == split]
        axes.plot([p[0] for p in points], [p[1] for p in points], label=split, linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_yscale("log")
    axes.legend()
    temporary = out / ".curves.png"
    figure.savefig(temporary, format="png")
    os.replace(temporary, out / "curves.png")


def write_picture(path: Path, picture: Tensor) -> None:
    """[H, W] in [0, 1] -> 8-bit grey PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (picture.float().cpu().clamp(0, 1) * 255).round().numpy().astype(np.uint8)
    Image.fromarray(pixels).save(path)
