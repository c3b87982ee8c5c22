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

from tests.training.conftest import TINY_MODELS
from xreal_synth.cli.main import app
from xreal_synth.errors import TrainingError
from xreal_synth.training.config import load_config
from xreal_synth.training.dry_run import count, dry_run, empty_batch, sizes, sketch_task
from xreal_synth.training.images import load_images
from xreal_synth.training.run import build_task

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
    assert {name: sum(counts) / 1e6 for name, counts in found.items()} == pytest.approx(millions, rel=2e-3)
    trained = {name for name, (trained, _) in found.items() if trained}
    assert trained == set(millions) - ({"autoencoder"} if network == "denoiser" else {"autoencoder", "unet", "tokens"})


@pytest.mark.parametrize(("network", "precision"), [*((name, "fp32") for name in TINY_MODELS), ("denoiser", "bf16")])
def test_a_dry_run_counts_what_a_real_step_does(
    network: str, precision: str, overrides: dict[str, list[str]], data: Path, config: Config
) -> None:
    path = config(network, precision=precision, batch=3)
    settings = load_config(network, path, overrides[network])
    found = dry_run(settings, path)
    images = load_images(data, settings.data)
    torch.manual_seed(0)
    task = build_task(settings, images["train"])
    task.step = settings.loop.steps
    flops, kept = count(task, empty_batch(3, 32, len(settings.data.findings)), precision)
    assert sizes(task) == found.parameters
    assert found.memory["activations"] == pytest.approx(kept, rel=0.02)
    assert found.flops_per_step == pytest.approx(flops, rel=0.02)


def test_memory_is_a_plain_sum_over_the_parts_of_a_batch(config: Config) -> None:
    path = config("segmenter", batch=5)
    settings = load_config("segmenter", path)
    one, four = dry_run(settings, path), dry_run(settings, path, workers=4)
    (counts,) = one.parameters.values()
    assert (one.images_at_once, four.images_at_once) == (5, 2)
    assert one.memory["weights"] == one.memory["gradients"] == 4 * counts[0]
    assert four.memory["gradients"] == 2 * one.memory["gradients"]
    assert four.memory["activations"] < 0.5 * one.memory["activations"]
    assert four.flops_per_step == pytest.approx(one.flops_per_step, rel=0.02)


def test_a_denoiser_with_region_maps_is_counted_with_them() -> None:
    path = SHIPPED / "mini-denoiser.yaml"
    bare, shown = (dry_run(load_config("denoiser", path, given), path) for given in (["data.region_maps=[]"], []))
    assert shown.parameters["unet"][0] > bare.parameters["unet"][0]


def test_the_command_needs_neither_images_nor_weights(tmp_path: Path, config: Config) -> None:
    for network in ("autoencoder", "denoiser"):
        text = config(network).read_text(encoding="utf-8")
        (tmp_path / f"my-{network}.yaml").write_text(text, encoding="utf-8")
    asked = ["train", "denoiser", str(tmp_path / "my-denoiser.yaml"), "--dry-run"]
    reported = CliRunner().invoke(app, asked, env={"COLUMNS": "160"})
    assert reported.exit_code == 0, reported.output
    for words in ("unet", "AdamW moments", "activations", "TFLOP a step", "4 steps of 2 images"):
        assert words in reported.output, words
    found = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)
    assert found["parameters"]["autoencoder"][0] == 0
    assert found["flops_per_step"] > 0
    assert found["memory"]["total"] == sum(found["memory"].values()) / 2
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
