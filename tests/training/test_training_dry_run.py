"""What a dry run counts: the paper's sizes, and the same operations and bytes as a real step."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from typer.testing import CliRunner

from xreal_synth.cli.main import app
from xreal_synth.errors import TrainingError
from xreal_synth.training.config import CONFIGS, load_config
from xreal_synth.training.dry_run import CountedLinear, DryRun, PartSize, count, dry_run, sizes
from xreal_synth.training.images import load_images
from xreal_synth.training.run import build_task
from xreal_synth.training.sketch import sketch_batch, sketch_task

SHIPPED = Path(str(files("xreal_synth.training") / "configs"))
Config = Callable[..., Path]


@pytest.mark.parametrize(
    ("network", "millions"),
    [
        ("autoencoder", {"network": 55.3, "critic": 1.25}),
        ("anatomy-controller", {"network": 55.3}),
        ("denoiser", {"autoencoder": 55.3, "unet": 518.2, "tokens": 0.0333}),
        ("controlnet", {"autoencoder": 55.3, "unet": 518.2, "tokens": 0.0333, "controlnet": 217.0}),
    ],
)
def test_the_papers_networks_have_the_papers_sizes(network: str, millions: dict[str, float]) -> None:
    """REFERENCE, networks: 55 M, 55 M, 518 M; Table I: 217 M for the ControlNet."""
    path = SHIPPED / f"paper-{network}.yaml"
    with FakeTensorMode():
        found = sizes(sketch_task(load_config(network, path), path))
    assert {part.name: (part.trained + part.frozen) / 1e6 for part in found} == pytest.approx(
        millions, rel=2e-3
    )
    trained = {part.name for part in found if part.trained}
    assert trained == set(millions) - (
        {"autoencoder"} if network == "denoiser" else {"autoencoder", "unet", "tokens"}
    )


@pytest.mark.parametrize(
    ("network", "precision"), [*((name, "fp32") for name in CONFIGS), ("denoiser", "bf16")]
)
def test_a_dry_run_counts_what_a_real_step_does(
    network: str, precision: str, overrides: dict[str, list[str]], data: Path, config: Config
) -> None:
    path = config(network, precision=precision, batch=3)
    settings = load_config(network, path, overrides[network])
    found = dry_run(settings, path)
    images = load_images(data, settings.data)
    torch.manual_seed(0)
    task = build_task(settings, images)
    task.step = settings.loop.steps
    flops, kept = count(task, sketch_batch(3, 32, len(settings.data.findings)), precision)
    assert sizes(task) == found.parts
    assert found.memory().activations == pytest.approx(kept, rel=0.02)
    assert found.flops_per_step() == pytest.approx(flops, rel=0.02)


def test_memory_and_time_are_plain_sums() -> None:
    parts = (PartSize("a", 1000, 0), PartSize("b", 0, 500))
    run = DryRun(parts, CountedLinear(7, 100), CountedLinear(50, 10), 20, 8, 2, 2, "fp32")
    memory = run.memory()
    assert (memory.weights, memory.gradients, memory.moments) == (6000, 4000, 8000)
    assert (memory.average, memory.average_swap, memory.buckets) == (4000, 4000, 4000)
    assert run.images_at_once == 2
    assert memory.activations == 50 + 2 * 10
    assert memory.total == 6000 + 8000 + 4000 + max(4000, 4000 + 4000 + 70)
    assert run.flops_per_step() == 8 * 100 + 4 * 7
    assert run.seconds(10.0) == pytest.approx(828 * 20 / (10 * 2))


def test_the_command_needs_neither_images_nor_weights(tmp_path: Path, config: Config) -> None:
    for network in ("autoencoder", "denoiser"):
        text = config(network).read_text(encoding="utf-8")
        (tmp_path / f"my-{network}.yaml").write_text(text, encoding="utf-8")
    asked = ["train", "denoiser", str(tmp_path / "my-denoiser.yaml"), "--dry-run"]
    reported = CliRunner().invoke(app, asked, env={"COLUMNS": "160"})
    assert reported.exit_code == 0, reported.output
    for words in ("unet", "AdamW moments", "NVIDIA H100", "this machine", "4 steps of 2 images"):
        assert words in reported.output, words
    found = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)
    assert found["parameters"]["autoencoder"]["trained"] == 0
    assert found["seconds"]["this machine"] > 0
    assert {p.name for p in tmp_path.iterdir()} == {"my-autoencoder.yaml", "my-denoiser.yaml"}


def test_a_first_stage_that_nobody_names_is_asked_for(tmp_path: Path, config: Config) -> None:
    path = tmp_path / "alone-denoiser.yaml"
    path.write_text(config("denoiser").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(TrainingError, match=r"--set model\.autoencoder=FOLDER"):
        dry_run(load_config("denoiser", path), path)
    with pytest.raises(TrainingError, match="nowhere"):
        dry_run(load_config("denoiser", path, ["model.autoencoder=nowhere"]), path)


def test_training_without_a_folder_names_it(config: Config) -> None:
    reported = CliRunner().invoke(app, ["train", "segmenter", str(config("segmenter")), "--out", "x"])
    assert isinstance(reported.exception, TrainingError)
    assert "no --data" in str(reported.exception)
