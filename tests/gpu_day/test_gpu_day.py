"""The day as it goes on a CPU: small, every step told at once, what needs CUDA skipped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.gpu_day import __main__ as day
from tests.gpu_day.steps import STEPS, Step

NEED_CUDA = {"faults", "engine", "bench_paper", "inductor"}


@pytest.mark.timeout(300)
def test_the_day_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu_day", "--out", str(tmp_path)]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, env=hidden, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = json.loads((tmp_path / "gpu_day.json").read_text())
    assert list(told) == [step.name for step in STEPS]
    assert {name for name, one in told.items() if one["state"] == "skipped"} == NEED_CUDA
    assert all(one["state"] == "done" and one["numbers"] for name, one in told.items() if name not in NEED_CUDA)
    assert max(told["golden"]["numbers"]["tf32 off"].values()) < 1e-4
    assert len({told["images"]["numbers"]["sha256"][name] for name in ("bf16", "bf16 again")}) == 1
    assert [line.split()[0] for line in ran.stdout.splitlines()[:-1]] == list(told)


def _ends(day: object) -> tuple[str, dict[str, object]]:
    os._exit(7)


def _lasts(day: object) -> tuple[str, dict[str, object]]:
    time.sleep(60)
    return "", {}


def test_a_step_that_ends_or_lasts_takes_no_other_with_it(tmp_path: Path) -> None:
    ended = day.apart(Step("ends", 20, _ends), tmp_path)
    assert (ended["state"], ended["line"]) == ("failed", "the process ended with 7")
    late = day.apart(Step("lasts", 1, _lasts), tmp_path)
    assert late["state"] == "late"
    assert late["seconds"] < 20
