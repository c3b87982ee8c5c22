"""The paper's kind of first stage and controller at a tiny size, and a denoiser on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL

from xreal_synth.errors import ConversionError, TrainingError
from xreal_synth.models.load import load_bundle
from xreal_synth.models.save import read_fields, write_bundle
from xreal_synth.sampling.controlled import encode_scaled
from xreal_synth.training.export import make_bundle
from xreal_synth.training.first_stage import KlFirstStage, load_first_stage, patches_of
from xreal_synth.training.fit_detail import fit_detail
from xreal_synth.training.images import ImageBatch, load_images
from xreal_synth.training.run import train
from xreal_synth.training.settings import DataSettings, KlControllerSettings
from xreal_synth.training.tasks.autoencoder import KlControllerTask, build_kl
from xreal_synth.training.tasks.base import mask_of

Config = Callable[..., Path]
WORDS = {"name": "kl", "licence": "CC0-1.0", "training_data": "made-up images"}
RUNS = {"autoencoder": "autoencoder", "controller": "anatomy-controller", "denoiser": "denoiser"}
TINY = {"kind": "kl", "image_channels": 3, "channels": [8, 8, 16], "blocks": 1, "groups": 4}


@pytest.fixture(scope="module")
def stage(data: Path, config: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A KL autoencoder, a KL controller that goes on from it and a denoiser on it, two steps each."""
    root = tmp_path_factory.mktemp("kl")
    vae = root / "autoencoder" / "network" / "vae"
    more = {
        "autoencoder": {**TINY, "adversarial_weight": 0.5, "adversarial_after": 1, "critic_width": 8},
        "anatomy-controller": {**TINY, "init": str(vae)},
        "denoiser": {"channels": [32, 32], "attention": [False, True], "token_width": 8, "autoencoder": str(vae)},
    }
    for network, model in more.items():
        tree = yaml.safe_load(config(network, steps=2).read_text(encoding="utf-8"))
        path = root / f"{network}.yaml"
        path.write_text(yaml.safe_dump({**tree, "model": model}), encoding="utf-8")
        train(network, path, data, root / network, [], "cpu")
    return {network: root / network for network in more}


def batch(images: int = 2) -> ImageBatch:
    generator = torch.Generator().manual_seed(5)
    label_map = torch.randint(5, (images, 32, 32), generator=generator)
    return ImageBatch(torch.rand(images, 1, 32, 32, generator=generator), label_map, *[torch.ones(images, 6) > 0] * 2)


def test_the_parts_are_diffusers_own(stage: dict[str, Path]) -> None:
    vae = AutoencoderKL.from_pretrained(stage["autoencoder"] / "network" / "vae")
    assert vae.config.scaling_factor == 0.18215
    controller = AutoencoderKL.from_pretrained(stage["anatomy-controller"] / "network" / "anatomy_controller")
    same = [torch.equal(a, b) for a, b in zip(vae.parameters(), controller.parameters(), strict=True)]
    assert not any(same[:4])
    apart = max(
        float((a - b).detach().abs().max()) for a, b in zip(vae.parameters(), controller.parameters(), strict=True)
    )
    assert apart < 0.05  # two small steps from the first stage's weights


def test_a_first_stage_scales_its_latents_both_ways(stage: dict[str, Path]) -> None:
    found = load_first_stage(str(stage["autoencoder"] / "network" / "vae"))
    assert isinstance(found, KlFirstStage)
    assert (found.latent_channels, found.factor) == (3, 4)
    image = batch().image
    with torch.no_grad():
        own = found.network.encode(image.repeat(1, 3, 1, 1)).latent_dist.mean
        z = found.encode(image).mean
        assert torch.allclose(z, own * 0.18215, atol=1e-6)
        back = found.network.decode(own).sample.mean(dim=1, keepdim=True)
        assert torch.allclose(found.decode(z), back, atol=1e-5)
    assert not any(p.requires_grad for p in found.parameters())


def test_a_denoiser_learns_in_its_latents(stage: dict[str, Path]) -> None:
    config = (stage["denoiser"] / "network" / "unet" / "config.json").read_text(encoding="utf-8")
    assert yaml.safe_load(config)["in_channels"] == 3
    assert yaml.safe_load(config)["sample_size"] == 8
    assert (stage["denoiser"] / "samples" / "step-0000002.png").exists()


def test_a_bundle_of_them_knows_its_sizes_and_runs(stage: dict[str, Path], tmp_path: Path) -> None:
    runs = {name: stage[run] for name, run in RUNS.items()}
    info = make_bundle(tmp_path / "kl", runs, WORDS)
    assert (info.channels, info.image_size, info.latent_shape) == (3, 32, (3, 8, 8))
    assert info.scale_factor == 0.18215
    bundle = load_bundle(info)
    image = bundle.control(batch().label_map.to(torch.uint8))
    assert image.shape == (2, 3, 32, 32)
    mean, _ = bundle.encode(image)
    assert bundle.denoise(mean, torch.tensor([3, 900]), bundle.embed(["", "Edema"])).shape == (2, 3, 8, 8)
    with pytest.raises(ConversionError, match="already there"):
        make_bundle(tmp_path / "kl", runs, WORDS)


@pytest.mark.parametrize(("share", "training", "masks"), [(1.0, True, 12), (0.0, True, 0), (0.0, False, 12)])
def test_a_controller_is_shown_masks_by_share_and_always_in_evaluation(
    share: float, training: bool, masks: int
) -> None:
    images = batch(12)
    shown = inputs_of(share, images, training=training)
    wanted = mask_of(images.label_map) if masks else images.image
    assert torch.equal(shown, wanted.repeat(1, 3, 1, 1))


def test_half_of_a_batch_is_shown_as_masks() -> None:
    images = batch(40)
    shown = inputs_of(0.5, images, training=True)[:, :1]
    masked = (shown == mask_of(images.label_map)).flatten(1).all(dim=1)
    assert torch.equal(shown[~masked], images.image[~masked])
    assert 8 < int(masked.sum()) < 32


def inputs_of(share: float, images: ImageBatch, *, training: bool) -> torch.Tensor:
    """What the controller's encoder is given [B, c, H, W]."""
    settings = KlControllerSettings(**{**TINY, "mask_share": share})
    task = KlControllerTask(settings, build_kl(settings, 32))
    task.module.train(training)
    given: list[torch.Tensor] = []
    task.network.encoder.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    with torch.no_grad():
        task.loss(images, torch.Generator().manual_seed(1))
    return given[0]


@pytest.mark.parametrize(
    ("network", "change", "words"),
    [
        ("autoencoder", "model.kind=gan", "model.kind: 'gan'"),
        ("autoencoder", "model.patch_size=8", "model.patch_size"),
        ("autoencoder", "model.init={vae}/..", "model.init"),
        ("autoencoder", "model.init={vae}", "model.init"),
    ],
)
def test_what_does_not_fit_is_named(
    network: str, change: str, words: str, stage: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    vae = stage["autoencoder"] / "network" / "vae"
    given = [change.format(vae=vae), *(["model.channels=[8, 16, 16]"] if change.endswith("{vae}") else [])]
    path = stage[network].with_suffix(".yaml")
    with pytest.raises(TrainingError, match=words):
        train(network, path, data, tmp_path, given, "cpu")


def test_a_patch_controller_refuses_another_kind_of_first_stage(stage: dict[str, Path]) -> None:
    folder = str(stage["autoencoder"] / "network" / "vae")
    with pytest.raises(TrainingError, match=r"model\.kind to kl"):
        patches_of(load_first_stage(folder), folder)


def test_a_folder_of_another_network_is_no_first_stage(stage: dict[str, Path]) -> None:
    with pytest.raises(TrainingError, match="UNet2DConditionModel"):
        load_first_stage(str(stage["denoiser"] / "network" / "unet"))


def test_detail_has_the_power_that_real_images_have_over_their_rough_ones(
    stage: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    runs = {name: stage[run] for name, run in RUNS.items()}
    info = make_bundle(tmp_path / "kl", runs, WORDS)
    plain = load_bundle(info)
    fit_detail(info, data)
    bundle = load_bundle(write_bundle(info.root, read_fields(info.root / "bundle.json")))
    detail = bundle.detail(torch.randn(400, *info.latent_shape, generator=torch.Generator().manual_seed(1)))
    images = load_images(data, DataSettings(image_size=32))["train"].take(torch.arange(4))
    with torch.inference_mode():
        real = encode_scaled(plain, images.image.expand(-1, 3, -1, -1), None)
        rough = encode_scaled(plain, plain.control(images.label_map.to(torch.uint8)), None)
    residual = torch.fft.fft2(real - rough, norm="ortho")
    periods = torch.fft.fftfreq(8) * 8
    fine = (periods[:, None].square() + periods.square()).sqrt() >= 2
    power = residual.abs().square().mean(dim=0)[:, fine].sum(dim=1)
    added = torch.fft.fft2(detail, norm="ortho").abs().square().mean(dim=0)[:, fine].sum(dim=1)
    assert torch.allclose(added, power, rtol=0.35), (added, power)
    assert detail.mean(dim=(2, 3)).abs().max() < detail.std()
