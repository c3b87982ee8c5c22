"""The benchmark of sampling: the plain loop makes the same images, rows are what was asked, mistakes are told."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from xreal_synth.cli.main import main
from xreal_synth.evaluation.bench_sample import (
    CPU_ATTENTION,
    LoopTiming,
    SampleBench,
    loop_settings,
    rows_of,
    stated_peak,
    timed,
)
from xreal_synth.evaluation.plain_loop import PlainLoop
from xreal_synth.models.describe import describe
from xreal_synth.models.layers import resolve_precision
from xreal_synth.models.load import load_bundle
from xreal_synth.models.text.ldm_bert import TextShape
from xreal_synth.sampling.blend import to_grey
from xreal_synth.sampling.groups import sample_groups
from xreal_synth.sampling.noise import NoiseKey, philox

SMALL = TextShape(50, 150, 16, 1, 2, 8)


@pytest.fixture
def bench() -> SampleBench:
    info = describe("xreal-tiny")
    return SampleBench(info, loop_settings(info, 4), torch.device("cpu"), SMALL, "cpu")


def test_the_plain_loop_makes_the_images_of_mode_reference(bench: SampleBench) -> None:
    """From the same noise, outside the paste in pixels, which the plain loop does not have."""
    (job,) = bench.jobs(1)
    edit = job.members[0].edits[0]
    made = next(sample_groups(load_bundle(bench.info), bench.settings["reference"], [job], micro_batch=1))
    model = load_bundle(bench.info, tuned=False)

    class SameNoise(PlainLoop):
        def noise(self, purpose: Any, step: int) -> torch.Tensor:
            key = NoiseKey(job.seed, job.index, job.attempt, "v0" if purpose.startswith("b.") else "")
            return torch.from_numpy(philox(model.latent_shape, key, purpose, step, 0))[None]

    x_a, x_p = SameNoise(model, bench.settings["plain"]).images(job.anatomy, edit, job.healthy_prompt)
    for image, name, where in ((x_a, "h", slice(None)), (x_p, "v0", edit.alpha == 1)):
        grey = to_grey(image[0], model.value_range).numpy().astype(int)
        assert np.abs(grey - made.images[name])[where].max() <= 1


def test_figures_hold_together(bench: SampleBench) -> None:
    rows = rows_of(["plain", "reference", "branch"], [1, 3], "bf16")
    assert rows[:2] == [LoopTiming("plain", 1, "fp32"), LoopTiming("plain", 1, "bf16")]
    assert rows[2:] == [LoopTiming(loop, size, "bf16") for loop in ("reference", "branch") for size in (1, 3)]
    passed: list[LoopTiming] = []
    figures = bench.measure(rows, 2, on_pass=passed.append)
    assert len(passed) == bench.passes(rows, 2) == 12
    assert passed[:6] == passed[6:] == rows
    assert [each.row for each in figures.rows] == rows
    plain = {each.row.precision: each for each in figures.rows if each.row.loop == "plain"}
    for each in figures.rows:
        assert each.seconds is not None
        assert each.images_per_second == pytest.approx(each.row.micro_batch / each.seconds)
        assert each.ratio == pytest.approx(
            each.images_per_second / plain[each.row.precision].images_per_second  # type: ignore[operator]
        )
        assert each.utilisation == pytest.approx(
            each.images_per_second * figures.flops[each.row.loop] / 1e12 / figures.peak[each.row.precision].tflops
        )


def test_flops_count_what_each_way_computes(bench: SampleBench) -> None:
    """reference: 4 steps alone and 4 guided ones; branch leaves out the first; plain adds the text encoder."""
    rows = rows_of(["plain", "reference", "branch"], [1], "fp32")
    flops = bench.measure(rows, 1, peak=1.0).flops
    model = load_bundle(bench.info, tuned=False)
    z = torch.randn(1, *model.latent_shape)
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        model.denoise(z, torch.tensor([5]), model.embed([""]))
    step = counter.get_total_flops()
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        model.encode(torch.zeros(1, 1, 64, 64))
    assert flops["reference"] - flops["branch"] == 2 * step + counter.get_total_flops()
    assert flops["plain"] > flops["reference"] > 12 * step


def test_attention_on_a_cpu_is_counted() -> None:
    """4 N M d: two products, each a multiplication and an addition."""
    query, key = torch.randn(2, 3, 40, 8), torch.randn(2, 3, 24, 8)
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        torch.nn.functional.scaled_dot_product_attention(query, key, key)
    assert counter.get_total_flops() == 4 * 2 * 3 * 40 * 24 * 8


def test_a_stated_peak_is_taken_and_others_are_measured(bench: SampleBench) -> None:
    rows = [LoopTiming("branch", 1, "fp32")]
    assert bench.measure(rows, 1, peak=2.5).peak["fp32"].tflops == 2.5
    assert bench.measure(rows, 1).peak["fp32"].source == "matrix product"
    assert stated_peak("cpu", "bf16") is None


def test_peak_memory_sees_what_was_taken_and_given_back() -> None:
    seconds, memory = timed(lambda: torch.ones(2**24).sum(), torch.device("cpu"), time.perf_counter)
    assert seconds > 0
    if memory is None:
        pytest.skip("this system does not say")
    assert 2**25 < memory < 2**27


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["xreal-synth", "bench", "sample", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_prints_and_writes_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "bench.md"
    small = ["--bundle", "xreal-tiny", "--steps", "2", "--repeats", "1", "--micro-batch", "2"]
    assert run(monkeypatch, *small, "--text-encoder", "none", "--out", str(table)) == 0
    printed = capsys.readouterr().out
    written = table.read_text()
    for word in ("plain x1 fp32", "reference x2", "branch x2", "xreal-tiny", "GFLOP"):
        assert word in printed
        assert word in written
    assert written.count("\n| ") == 5 + len({"fp32", resolve_precision("auto")})
    options = [*small, "--rows", "branch", "--precision", "fp32", "--json"]
    assert run(monkeypatch, *options) == 0
    reported = json.loads(capsys.readouterr().out)
    assert [row["row"]["loop"] for row in reported["rows"]] == ["branch"]
    assert reported["rows"][0]["ratio"] is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--compile", "graphs"], "without a GPU"),
        (["--clock", "cpu", "--threads", "2"], "2 thread"),
        (["--steps", "7"], "divides 1000"),
        (["--rows", "fast"], "fast"),
        (["--bundle", "xreal-huge"], "xreal-huge"),
    ],
)
def test_mistakes(
    options: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("the messages are a CPU's")
    assert run(monkeypatch, *options) == 2
    assert named in capsys.readouterr().err
