from __future__ import annotations

from pathlib import Path

import pytest
import torch

from xreal_synth.errors import TrainingError
from xreal_synth.models.networks.conditioning import FINDINGS, LabelTokens, prompt_of
from xreal_synth.models.networks.controls import MaskController
from xreal_synth.models.networks.patch_autoencoder import PatchAutoencoder
from xreal_synth.models.networks.segmenters import OrganSegmenter
from xreal_synth.training.draws import whole
from xreal_synth.training.losses import gradient_loss, soft_dice_loss, texture_loss
from xreal_synth.training.settings import ControllerSettings, DataSettings, DenoiserSettings
from xreal_synth.training.tasks.controls import build_controller
from xreal_synth.training.tasks.denoiser import DenoiserTask, draw_steps, log_snr

DATA = DataSettings(image_size=32)


def smooth_images(count: int, side: int = 32) -> torch.Tensor:
    coarse = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)


def test_a_full_patch_transform_loses_nothing() -> None:
    network = PatchAutoencoder(patch_size=4, latent_channels=16, refiner_width=8, refiner_blocks=1)
    images = smooth_images(8) + 0.01 * torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    network.fit_patches(images)
    z = network.encode(images).mean
    assert z.shape == (8, 16, 8, 8)
    assert torch.allclose(network.basis @ network.basis.t(), torch.eye(16), atol=1e-4)
    assert torch.allclose(network.decode_linear(z), images, atol=1e-4)
    assert z.std() == pytest.approx(1, abs=0.1)


def test_grey_levels_survive_autocast() -> None:
    network = PatchAutoencoder(refiner_width=8, refiner_blocks=1)
    images = smooth_images(2)
    network.fit_patches(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = network(images)
    assert torch.allclose(cast, network(images), atol=0.1 / 255)


def test_a_fresh_refiner_leaves_the_linear_image_alone() -> None:
    network = PatchAutoencoder(refiner_width=8, refiner_blocks=1)
    z = network.encode(smooth_images(2)).mean
    assert torch.equal(network.decode(z), network.decode_linear(z))


def test_a_controllers_rough_image_has_no_texture_from_noise() -> None:
    textured = PatchAutoencoder(refiner_width=8, refiner_blocks=1, grain=True)
    textured.fit_patches(smooth_images(8))
    torch.nn.init.normal_(textured.refiner.outlet[2].weight)
    controller = build_controller(ControllerSettings(width=8, blocks=1), textured)
    z = textured.encode(smooth_images(2)).mean
    assert torch.equal(controller.decode(z), textured.decode(z))
    assert not torch.equal(controller.decode(z), textured.decode_linear(z))


def test_saved_networks_load_with_the_same_outputs(tmp_path: Path) -> None:
    networks = [
        (PatchAutoencoder(refiner_width=8, refiner_blocks=1), smooth_images(2)),
        (MaskController(refiner_width=8, refiner_blocks=1, width=8, blocks=1), torch.zeros(2, 3, 32, 32)),
        (OrganSegmenter(inner_size=16, channels=(8, 8)), smooth_images(2)),
    ]
    for network, given in networks:
        network.save_pretrained(tmp_path / type(network).__name__)
        again = type(network).from_pretrained(tmp_path / type(network).__name__, low_cpu_mem_usage=False)
        assert torch.equal(network(given), again(given))


def test_a_controller_reads_one_or_three_channels_alike() -> None:
    network = MaskController(refiner_width=8, refiner_blocks=1, width=8, blocks=1)
    label_map = torch.randint(5, (2, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    one = network(label_map / 4)
    assert one.shape == (2, 1, 32, 32)
    assert torch.equal(one, network((label_map / 4).repeat(1, 3, 1, 1)))
    assert not torch.equal(one, network(torch.zeros(2, 1, 32, 32)))


def test_every_prompt_has_its_own_tokens() -> None:
    table = LabelTokens(width=8).table()
    assert len(table) == 2 ** len(FINDINGS) + 1
    assert {"", "No Finding", "Pneumonia", "Pneumonia Effusion"} <= set(table)
    stacked = torch.stack(list(table.values()))
    assert stacked.shape == (33, 6, 8)
    assert len(torch.unique(stacked, dim=0)) == 33
    assert prompt_of(["Effusion", "Pneumonia"]) == "Pneumonia Effusion"


def test_many_findings_have_prompts_of_a_few_at_once() -> None:
    tokens = LabelTokens([f"F{n}" for n in range(14)], width=4)
    table = tokens.table()
    assert len(table) == 1 + 14 + 91 + 364 + 1
    wanted = tokens(torch.tensor([[n in (2, 5) for n in range(15)]]))[0]
    assert torch.equal(table["F2 F5"], wanted)


def test_noise_levels_crowd_in_the_middle() -> None:
    first_stage = PatchAutoencoder(refiner_width=8, refiner_blocks=1)
    task = DenoiserTask(DenoiserSettings(channels=(32, 32), attention=(False, True)), first_stage, DATA)
    steps = draw_steps(log_snr(task.schedule), whole(20_000), torch.Generator().manual_seed(0), task.settings)
    assert 0 <= int(steps.min()) < int(steps.max()) <= 999
    around = log_snr(task.schedule)[steps].median()
    assert float(around) == pytest.approx(-0.9, abs=0.4)


@pytest.mark.parametrize(("prediction", "high"), [("v_prediction", 1.0), ("epsilon", 5.0)])
def test_min_snr_weights_clean_steps_less(prediction: str, high: float) -> None:
    settings = DenoiserSettings(channels=(32, 32), attention=(False, True), prediction=prediction, min_snr_gamma=5.0)
    task = DenoiserTask(settings, PatchAutoencoder(refiner_width=8, refiner_blocks=1), DATA)
    assert task.schedule.config.prediction_type == prediction
    snr = log_snr(task.schedule).exp()
    weights = task.weights(torch.arange(1000))
    below = snr <= 5
    expected = snr / (snr + 1) if prediction == "v_prediction" else torch.ones_like(snr)
    torch.testing.assert_close(weights[below], expected[below])
    assert float(weights[0]) == pytest.approx(5 / float(snr[0] + (1 if high == 1.0 else 0)), rel=1e-5)


def test_a_denoiser_goes_on_from_another_and_the_new_label_path_starts_silent(tmp_path: Path) -> None:
    first_stage = PatchAutoencoder(refiner_width=8, refiner_blocks=1)
    shape = {"channels": (32, 32), "attention": (False, True), "token_width": 16}
    former = DenoiserTask(DenoiserSettings(**shape), first_stage, DATA)
    former.save(tmp_path)
    task = DenoiserTask(DenoiserSettings(**shape, init=str(tmp_path), pooled_labels=True), first_stage, DATA)
    z, t = torch.randn(2, 8, 4, 4), torch.tensor([3, 700])
    labels = torch.tensor([[True] + [False] * 5, [False] * 5 + [True]])
    with torch.no_grad():
        before = former.unet(z, t, former.tokens(labels)).sample
        after = task.unet(z, t, task.tokens(labels)).sample
    assert torch.equal(before, after)
    with pytest.raises(TrainingError, match=r"model\.init"):
        DenoiserTask(DenoiserSettings(**shape, init=str(tmp_path / "nowhere")), first_stage, DATA)
    wide = DenoiserSettings(channels=(32, 64), attention=(False, True), token_width=16, init=str(tmp_path))
    with pytest.raises(TrainingError, match="size mismatch"):
        DenoiserTask(wide, first_stage, DATA)


def test_losses_are_least_for_the_same_image() -> None:
    image = smooth_images(2, 64)
    rough = image + 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    for loss in (gradient_loss, texture_loss):
        assert float(loss(image, image)) == 0
        assert float(loss(image, rough)) > 0
    label_map = torch.randint(5, (2, 16, 16), generator=torch.Generator().manual_seed(0))
    right = torch.nn.functional.one_hot(label_map, 5).movedim(-1, 1) * 20.0
    assert float(soft_dice_loss(right, label_map)) == pytest.approx(0, abs=1e-3)
    assert float(soft_dice_loss(right.roll(1, dims=1), label_map)) > 0.9
