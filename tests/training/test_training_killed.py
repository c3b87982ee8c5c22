"""A training killed without warning goes on to the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file

from xreal_synth.training.look import read_metrics
from xreal_synth.training.pace import Progress
from xreal_synth.training.run import train
from xreal_synth.training.session import Learner, load_state, save_state

STEPS = 12
START_S = 400


def final_state(run: Path) -> dict[str, torch.Tensor]:
    name = json.loads((run / "state" / "latest.json").read_text(encoding="utf-8"))["state"]
    return load_file(run / "state" / name / "state.safetensors")


def start(config: Path, data: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "xreal_synth", "train", "segmenter", str(config)]
    command += ["--data", str(data), "--out", str(out), "--device", "cpu", "--threads", "1"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_step(process: subprocess.Popen[bytes], out: Path, step: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "metrics.jsonl").exists() and any(int(r["step"]) >= step for r in read_metrics(out)):
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached; the process ended with {process.poll()}")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_training_resumes_to_the_same_curve(data: Path, config: Callable[..., Path], tmp_path: Path) -> None:
    path = config("segmenter", steps=STEPS, checkpoint_minutes=1e-9)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train("segmenter", path, data, straight, [], "cpu", 1)
    for step in (2, 7):
        process = start(path, data, killed)
        try:
            wait_for_step(process, killed, step)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert process.returncode == -signal.SIGKILL
    train("segmenter", path, data, killed, [], "cpu", 1)
    wanted, found = final_state(straight), final_state(killed)
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
    curves = [[{**r, "seconds": 0} for r in read_metrics(run)] for run in (straight, killed)]
    assert curves[0] == curves[1]
    assert len(curves[0]) == STEPS + STEPS // 2
    for part in ("network", "best"):
        files = [run / part / "segmenter" / "diffusion_pytorch_model.safetensors" for run in (straight, killed)]
        assert files[0].read_bytes() == files[1].read_bytes()


def learner(value: float) -> Learner:
    module = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(module.weight, value)
    return Learner(module, torch.optim.AdamW(module.parameters()), EMAModel(module.parameters()))


class Killed(BaseException):
    """Stands for the end of the process in the midst of a save."""


def killed_at(call: int, monkeypatch: pytest.MonkeyPatch, folder: Path, step: int) -> bool:
    """Saves a state of value 2 and is killed before the `call`-th change of the disk; False if that was not reached."""
    made = iter(range(1000))

    def before(change: Callable[..., object]) -> Callable[..., object]:
        def changed(*given: object, **named: object) -> object:
            if next(made) == call:
                raise Killed
            return change(*given, **named)

        return changed

    with monkeypatch.context() as patched:
        for place in ("shutil.rmtree", "os.replace", "pathlib.Path.mkdir", "pathlib.Path.write_text"):
            patched.setattr(place, before(_named(place)))
        try:
            save_state(folder, learner(2.0), Progress(step, 2.0, None), {})
        except Killed:
            return True
    return False


def _named(place: str) -> Callable[..., object]:
    found: Callable[..., object] = {
        "shutil.rmtree": shutil.rmtree,
        "os.replace": os.replace,
        "pathlib.Path.mkdir": Path.mkdir,
        "pathlib.Path.write_text": Path.write_text,
    }[place]
    return found


@pytest.mark.parametrize("step", [4, 5])
def test_a_save_cut_short_anywhere_leaves_a_state(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call, seen = 0, set()
    while True:
        folder = tmp_path / str(call)
        save_state(folder, learner(1.0), Progress(4, 1.0, None), {})
        killed = killed_at(call, monkeypatch, folder, step)
        again = learner(0.0)
        found = load_state(folder, again)
        assert found is not None
        assert float(again.module.weight.detach()) == found[0].seconds
        seen.add(found[0].seconds)
        save_state(folder, learner(3.0), Progress(step, 3.0, None), {})
        published = json.loads((folder / "latest.json").read_text(encoding="utf-8"))["state"]
        assert [p.name for p in folder.iterdir() if p.is_dir()] == [published]
        call += 1
        if not killed:
            break
    assert seen == {1.0, 2.0}
    assert call > 6
