"""What a training shows: curves, the pace on a terminal and off it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from xreal_synth.cli.output import TrainDisplay
from xreal_synth.training.look import append_metrics, draw_curves, smooth
from xreal_synth.training.pace import Pace


def pace(step: int, *, validated: bool = False) -> Pace:
    return Pace(step, 20, 12.345, 90.0, 0.5, 0.4 if step > 4 else None, 0.39 if step > 4 else None, validated)


def shown(*, terminal: bool) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=160)
    with TrainDisplay(console, "denoiser") as display:
        for step in range(1, 11):
            display.on_step(pace(step, validated=step % 5 == 0))
    return text.getvalue()


def test_off_a_terminal_a_line_for_the_first_step_and_each_validation() -> None:
    lines = shown(terminal=False).splitlines()
    assert lines == [
        "step 1/20, loss 0.5, 12.3 images/s, 1.5 min left",
        "step 5/20, loss 0.5, validation 0.4 (best 0.39), 12.3 images/s, 1.5 min left",
        "step 10/20, loss 0.5, validation 0.4 (best 0.39), 12.3 images/s, 1.5 min left",
    ]


def test_on_a_terminal_the_bar_names_losses_and_pace() -> None:
    found = shown(terminal=True)
    for part in ("denoiser", "10/20", "loss 0.5", "12.3 images/s", "1.5 min left"):
        assert part in found, part


@pytest.mark.parametrize("shift", [0.0, -1.0])
def test_curves_mark_the_best_and_stand_losses_below_zero(shift: float, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for step in range(1, 101):
        loss = float(0.3 + np.exp(-step / 20) + 0.05 * random.random() + shift)
        append_metrics(tmp_path, {"step": step, "split": "train", "loss": loss, "lr": 1e-3 * (1 - step / 101)})
        if step % 10 == 0:
            append_metrics(tmp_path, {"step": step, "split": "val", "loss": 0.32 + abs(step - 70) / 100 + shift})
    draw_curves(tmp_path)
    picture = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")).astype(int)
    red = (picture[..., 0] > 190) & (picture[..., 1] < 70) & (picture[..., 2] < 70)
    assert red.sum() > 50
    assert abs(np.nonzero(red)[1].mean() / picture.shape[1] - 0.7) < 0.05


def test_curves_without_a_validation_yet(tmp_path: Path) -> None:
    append_metrics(tmp_path, {"step": 1, "split": "train", "loss": 1.0, "lr": 1e-3})
    draw_curves(tmp_path)
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_smoothing_keeps_means_and_length() -> None:
    assert smooth([2.0] * 50) == pytest.approx([2.0] * 50)
    assert smooth([1.0, 2.0, 3.0]) == pytest.approx([1.5, 2.0, 2.5])
