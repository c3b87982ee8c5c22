"""The ControlNet baseline: made from any denoiser, silent until trained, and alone in being trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from xreal_synth.errors import TrainingError
from xreal_synth.models.networks.controls import HINT, build_controlnet, hint_side, organ_hint
from xreal_synth.models.networks.patch_autoencoder import PatchAutoencoder
from xreal_synth.training.first_stage import load_first_stage, read_denoiser
from xreal_synth.training.images import ImageBatch
from xreal_synth.training.run import train
from xreal_synth.training.settings import ControlNetSettings, DataSettings, DenoiserSettings
from xreal_synth.training.tasks.controls import ControlNetTask
from xreal_synth.training.tasks.denoiser import build_unet

pytestmark = pytest.mark.numeric


def batch(images: int = 2) -> ImageBatch:
    generator = torch.Generator().manual_seed(5)
    label_map = torch.randint(5, (images, 32, 32), generator=generator)
    return ImageBatch(torch.rand(images, 1, 32, 32, generator=generator), label_map, *[torch.ones(images, 6) > 0] * 2)


def task_of(runs: dict[str, Path], **changes: Any) -> ControlNetTask:
    settings = ControlNetSettings(
        denoiser=str(runs["denoiser"] / "network"), **{"hint_channels": (4, 8, 8, 8), **changes}
    )
    first_stage = load_first_stage(str(runs["autoencoder"] / "network" / "vae"))
    return ControlNetTask(settings, first_stage, read_denoiser(settings.denoiser), DataSettings(image_size=32))


def loss_of(task: ControlNetTask, images: ImageBatch) -> dict[str, torch.Tensor]:
    return task.loss(images, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
@torch.no_grad()
def test_an_untrained_controlnet_changes_no_bit(pooled: bool, bf16: bool) -> None:
    torch.manual_seed(0)
    settings = DenoiserSettings(
        channels=(32, 32), attention=(False, True), token_width=8, heads=2, pooled_labels=pooled
    )
    unet = build_unet(settings, latent_channels=8, latent_size=4)
    controlnet = build_controlnet(unet, (4, 8, 8, 8))
    z, t, tokens = torch.randn(2, 8, 4, 4), torch.tensor([3, 900]), torch.randn(2, 6, 8)
    hint = organ_hint(batch().label_map, hint_side(controlnet.config, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        down, middle = controlnet(z, t, tokens, hint, return_dict=False)
        steered = unet(z, t, tokens, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample
        assert torch.equal(steered, unet(z, t, tokens).sample)
    kept = {name: value for name, value in unet.state_dict().items() if name in controlnet.state_dict()}
    assert {name.split(".")[0] for name in kept} >= {"conv_in", "time_embedding", "down_blocks", "mid_block"}
    assert ("add_embedding.pool.k_proj.weight" in kept) == pooled
    assert all(torch.equal(value, controlnet.state_dict()[name]) for name, value in kept.items())


def test_the_papers_denoiser_gets_a_controlnet_of_the_papers_size() -> None:
    """The paper says 217 M parameters; the denoiser's architecture is that of the authors' weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, in_channels=3, out_channels=3, layers_per_block=2,
            block_out_channels=(224, 448, 896, 896), attention_head_dim=8, cross_attention_dim=1280,
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
            up_block_types=(*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
        )  # fmt: skip
        controlnet = build_controlnet(unet, ControlNetSettings().hint_channels)
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(518e6, rel=0.005)
    assert sum(p.numel() for p in controlnet.parameters()) == pytest.approx(217e6, rel=0.005)
    assert hint_side(controlnet.config, 64) == 512


def test_the_hint_has_a_channel_for_each_organ() -> None:
    label_map = torch.tensor([[[0, 1], [3, 4]]], dtype=torch.uint8)
    hint = organ_hint(label_map, 2)
    assert hint[0].flatten(1).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert torch.equal(organ_hint(label_map, 4), hint.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(organ_hint(label_map.repeat_interleave(2, 1).repeat_interleave(2, 2), 2), hint)


def test_only_the_controlnet_learns(runs: dict[str, Path]) -> None:
    task = task_of(runs)
    task.module.train()
    loss_of(task, batch())["loss"].backward()
    moved = {name.split(".")[0] for name, p in task.controlnet.named_parameters() if p.grad is not None}
    assert {"controlnet_down_blocks", "controlnet_mid_block"} <= moved
    frozen = [*task.unet.parameters(), *task.tokens.parameters(), *task.autoencoder.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    assert not task.unet.training


def test_a_trained_run_follows_its_mask_and_says_so(
    runs: dict[str, Path], data: Path, config: Callable[..., Path], overrides: dict[str, list[str]], tmp_path: Path
) -> None:
    """In fp32, and for as many steps as move the losses by far more than any CPU's rounding."""
    run = tmp_path / "run"
    longer = config("controlnet", precision="fp32", steps=16, lr=1e-2, validate_every=16)
    train("controlnet", longer, data, run, overrides["controlnet"], "cpu")
    record = json.loads((run / "network" / "controlnet" / "config.json").read_text(encoding="utf-8"))
    assert (record["_class_name"], record["_hint"]) == ("ControlNetModel", HINT)
    assert record["conditioning_channels"] == 4
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [[r[name] for name in ("loss", "without_mask", "mirrored_mask")] for r in records if r["split"] == "val"]
    with_mask, *others = losses[-1]
    assert all(abs(other - with_mask) > 1e-4 * with_mask for other in others), losses[-1]


@pytest.mark.parametrize(("dropout", "same"), [(1.0, True), (0.0, False)])
@torch.no_grad()
def test_a_dropped_mask_is_an_empty_one(dropout: float, same: bool, runs: dict[str, Path]) -> None:
    task = task_of(runs, mask_dropout=dropout)
    for p in task.controlnet.parameters():
        p += 0.05
    images = batch()
    empty = ImageBatch(images.image, torch.zeros_like(images.label_map), images.labels, images.known)
    assert torch.equal(loss_of(task, images)["loss"], loss_of(task, empty)["loss"]) == same


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model.denoiser", "{tmp}", "model.denoiser"),
        ("model.autoencoder", "{tmp}", "model.autoencoder"),
        ("model.autoencoder", "{tmp}/vae", "8 latent channels, an autoencoder of 4"),
        ("data.findings", "[Edema, Pneumonia]", "the denoiser's own"),
        ("model.hint_channels", "[]", "hint_channels"),
        ("model.mask_dropout", "1.5", "mask_dropout"),
    ],
)
def test_what_does_not_fit_is_named(
    key: str,
    value: str,
    words: str,
    data: Path,
    config: Callable[..., Path],
    overrides: dict[str, list[str]],
    tmp_path: Path,
) -> None:
    PatchAutoencoder(latent_channels=4, refiner_width=8, refiner_blocks=1).save_pretrained(tmp_path / "vae")
    given = [*overrides["controlnet"], f"{key}={value.format(tmp=tmp_path)}"]
    with pytest.raises(TrainingError, match=words):
        train("controlnet", config("controlnet"), data, tmp_path / "out", given, "cpu")
