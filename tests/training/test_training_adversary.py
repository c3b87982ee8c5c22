from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from xreal_synth.errors import TrainingError
from xreal_synth.models.networks.patch_autoencoder import PatchAutoencoder
from xreal_synth.models.networks.segmenters import OrganSegmenter
from xreal_synth.training.first_stage import read_denoiser
from xreal_synth.training.images import ImageBatch
from xreal_synth.training.losses import (
    PatchCritic,
    PerceptualDistance,
    balance,
    band_loss,
    critic_loss,
    fooling_loss,
    load_perceptual,
)
from xreal_synth.training.settings import AutoencoderSettings, DataSettings, DenoiserSettings
from xreal_synth.training.tasks.autoencoder import AutoencoderTask, Redenoiser, continued_autoencoder
from xreal_synth.training.tasks.denoiser import DenoiserTask


def images(count: int, seed: int = 0) -> torch.Tensor:
    rough = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(rough, size=(64, 64), mode="bicubic").clamp(0, 1)


def grain(count: int, seed: int = 1) -> torch.Tensor:
    return 0.02 * torch.randn(count, 1, 64, 64, generator=torch.Generator().manual_seed(seed))


def batch(count: int = 2) -> ImageBatch:
    labels = torch.zeros(count, 6, dtype=torch.bool)
    labels[:, 5] = True
    return ImageBatch(
        images(count) + grain(count), torch.zeros(count, 64, 64, dtype=torch.int64), labels, labels | True
    )


def test_a_critic_learns_to_tell_smooth_images_from_grainy_ones() -> None:
    torch.manual_seed(0)
    critic = PatchCritic(8)
    optimizer = torch.optim.Adam(critic.parameters(), lr=5e-3)
    for step in range(60):
        real, made = images(4, step) + grain(4, step), images(4, step)
        optimizer.zero_grad()
        loss = critic_loss(critic, made, real)
        loss.backward()
        optimizer.step()
    critic.eval()
    with torch.no_grad():
        apart = critic(images(4, 999) + grain(4, 999)).mean() - critic(images(4, 999)).mean()
    assert float(loss.detach()) < 0.6
    assert float(apart) > 1


def test_each_loss_reaches_its_own_side_only() -> None:
    torch.manual_seed(0)
    critic, image = PatchCritic(8), images(2).requires_grad_()
    fooling_loss(critic, image).backward()
    assert image.grad is not None
    assert all(p.grad is None and p.requires_grad for p in critic.parameters())
    image.grad = None
    critic_loss(critic, image, images(2, 1)).backward()
    assert image.grad is None
    assert all(p.grad is not None for p in critic.parameters())


def test_balance_makes_both_pulls_equal() -> None:
    weight = torch.nn.Parameter(torch.tensor([2.0, 3.0]))
    factor = balance((weight * torch.tensor([3.0, 4.0])).sum(), (weight * 0.5).sum(), weight)
    assert float(factor) == pytest.approx(5 / 0.5**0.5 / 1, rel=1e-3)
    with torch.no_grad():
        assert float(balance(weight.sum(), weight.sum(), weight)) == 0


def test_the_perceptual_distance_grows_with_the_change(tmp_path: Path) -> None:
    segmenter = OrganSegmenter(inner_size=32, channels=(8, 8))
    segmenter.save_pretrained(tmp_path)
    distance = load_perceptual(str(tmp_path))
    assert isinstance(distance, PerceptualDistance)
    image = images(2)
    assert float(distance(image, image)) == 0
    near, far = (float(distance(image + step * images(2, 5), image)) for step in (0.05, 0.5))
    assert 0 < near < far
    assert not any(p.requires_grad for p in distance.parameters())
    with pytest.raises(TrainingError, match=r"model\.perceptual"):
        load_perceptual(str(tmp_path / "nowhere"))


def task_with(tmp_path: Path, **settings: object) -> AutoencoderTask:
    torch.manual_seed(0)
    network = PatchAutoencoder(refiner_width=8, refiner_blocks=1)
    network.fit_patches(images(8))
    denoiser = DenoiserTask(
        DenoiserSettings(channels=(32, 32), attention=(False, True), token_width=8),
        copy.deepcopy(network),
        DataSettings(image_size=64),
    )
    denoiser.save(tmp_path / "denoiser")
    OrganSegmenter(inner_size=32, channels=(8, 8)).save_pretrained(tmp_path / "segmenter")
    given = {
        "refiner_width": 8,
        "refiner_blocks": 1,
        "perceptual": str(tmp_path / "segmenter"),
        "adversarial_weight": 0.5,
        "critic_width": 8,
        "denoiser": str(tmp_path / "denoiser"),
        **settings,
    }
    return AutoencoderTask(AutoencoderSettings(**given), network)


def test_all_terms_are_finite_reach_the_decoder_and_repeat(tmp_path: Path) -> None:
    task = task_with(tmp_path)
    first = task.loss(batch(), torch.Generator().manual_seed(7))
    assert {"critic", "fooling", "fooling_weight", "perceptual", "texture"} <= set(first)
    assert all(bool(value.isfinite()) for value in first.values())
    first["loss"].backward()
    assert task.network.last_layer.grad is not None
    assert all(p.grad is not None for p in task.module.parameters())
    assert task.preview(batch(), torch.Generator().manual_seed(0)).shape == (4 * 64, 2 * 64)


def test_the_critic_counts_from_its_step_on(tmp_path: Path) -> None:
    task = task_with(tmp_path, adversarial_after=1)
    before = task.loss(batch(), torch.Generator().manual_seed(7))
    task.step = 1
    after = task.loss(batch(), torch.Generator().manual_seed(7))
    assert "fooling" not in before
    assert float(after["fooling_weight"]) > 0
    task.module.eval()
    with torch.no_grad():
        assert "fooling" in task.loss(batch(), torch.Generator().manual_seed(7))


def test_denoised_latents_are_near_the_images_own_and_small_steps_are_nearer(tmp_path: Path) -> None:
    task = task_with(tmp_path)
    z = task.network.encode(batch().image).mean
    apart = []
    for below in (5, 1000):
        again = Redenoiser(read_denoiser(str(tmp_path / "denoiser")), below)
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(z.shape, generator=generator)
        found = again(z, batch().labels, noise, again.draw_top(generator))
        apart.append(float((found - z).abs().mean()))
    assert 0 < apart[0] < apart[1]
    with pytest.raises(TrainingError, match=r"model\.denoiser"):
        read_denoiser(str(tmp_path))


def test_another_decoder_size_keeps_the_patch_transform() -> None:
    former = PatchAutoencoder(refiner_width=8, refiner_blocks=1)
    former.fit_patches(images(8))
    wide = continued_autoencoder(AutoencoderSettings(refiner_width=16, refiner_blocks=2), former)
    z = former.encode(images(2)).mean
    assert torch.equal(wide.encode(images(2)).mean, z)
    assert torch.equal(wide.decode_linear(z), former.decode_linear(z))
    same = continued_autoencoder(AutoencoderSettings(refiner_width=8, refiner_blocks=1), former)
    assert torch.equal(same.decode(z), former.decode(z))


def test_grain_gives_texture_and_starts_silent() -> None:
    torch.manual_seed(0)
    network = PatchAutoencoder(refiner_width=8, refiner_blocks=1, grain=True)
    network.fit_patches(images(8))
    z, noise = network.encode(images(2)).mean, torch.randn(2, 1, 64, 64)
    assert torch.equal(network.decode(z, noise), network.decode(z))
    assert network.refiner.grain_inlet is not None
    torch.nn.init.normal_(network.refiner.grain_inlet.weight)
    torch.nn.init.normal_(network.refiner.outlet[-1].weight)
    assert not torch.equal(network.decode(z, noise), network.decode(z))
    old = PatchAutoencoder(refiner_width=8, refiner_blocks=1)
    old.fit_patches(images(8))
    new = continued_autoencoder(AutoencoderSettings(refiner_width=8, refiner_blocks=1, grain=True), old)
    assert torch.equal(new.decode(z, noise), old.decode(z))


def test_band_power_is_satisfied_by_other_grain_of_the_same_strength() -> None:
    smooth = images(2)
    real, same, weak = (smooth + k * grain(2, n) for n, k in ((1, 1.0), (2, 1.0), (3, 0.3)))
    assert float(band_loss(real, real)) == 0
    assert float(band_loss(same, real)) < 0.3 * float(band_loss(weak, real)) < float(band_loss(smooth, real))
