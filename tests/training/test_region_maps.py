"""Region maps of real images, how often images are drawn, and the denoiser that is shown them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xreal_synth.images.manifest import ImageBox, ImageRow
from xreal_synth.models.networks.conditioning import MAPS_KEY
from xreal_synth.training.draws import weighted_draw
from xreal_synth.training.images import SIDE, ImageBatch, draw_weights, load_images, region_maps
from xreal_synth.training.run import train
from xreal_synth.training.settings import DataSettings, DrawSettings, WarpSettings

NAMES = ("Pneumonia", "Edema", "Mass")
MAPS = ["data.region_maps=[Pneumonia, Edema]", "model.region_weight=3", "model.token_drop=0.2"]


def label_map() -> np.ndarray:
    label_map = np.zeros((1, 64, 64), np.uint8)
    label_map[0, 16:48, 36:56], label_map[0, 16:48, 8:28], label_map[0, 32:50, 26:42] = 1, 2, 3
    return label_map


def test_a_box_is_its_share_of_each_cell_and_an_organ_its_own_shape() -> None:
    box = ImageBox("Pneumonia", (0.25, 0.5, 0.5078125, 0.75))  # half a cell beyond the middle
    row = ImageRow(labels=("Pneumonia", "Edema"), boxes=(box,))
    maps = region_maps([row], label_map(), NAMES)[0]
    assert maps[0, 32:48, 16:32].min() == 255
    assert set(maps[0, 32:48, 32].tolist()) == {128}
    assert maps[0].astype(int).sum() == 255 * 16 * 16 + 128 * 16
    lungs = np.isin(label_map()[0], (1, 2))
    assert (maps[1] == 255)[lungs].all()
    assert 0 < (maps[1] > 0)[~lungs].mean() < 0.3
    assert not maps[2:].any()


@pytest.mark.parametrize(
    ("labels", "unknown"),
    [(("No Finding",), False), (("Mass",), True), (("Fibrosis",), True), (("Lung Opacity",), False)],
)
def test_a_label_without_a_place_is_somewhere(labels: tuple[str, ...], unknown: bool) -> None:
    maps = region_maps([ImageRow(labels=labels)], label_map(), NAMES)[0]
    assert not maps[:-1].any()
    assert (maps[-1] == 255 * unknown).all()


def test_boxes_and_their_image_are_warped_alike(tmp_path: Path, folder_writer: Any, manifest_writer: Any) -> None:
    """A square painted white under its box: after any warp the map covers what is white."""
    from PIL import Image

    rows = folder_writer(tmp_path)
    for row in rows:
        image = np.asarray(Image.open(tmp_path / row["image"])).copy()
        image[:] = image // 4
        image[8:24, 12:28] = 255
        Image.fromarray(image).save(tmp_path / row["image"])
        row |= {"labels": "Pneumonia", "boxes_xywh_norm": '[["Pneumonia", 0.3, 0.2, 0.4, 0.4]]'}
    manifest_writer(tmp_path, rows)
    warp = WarpSettings(rotate_deg=20, scale=0.2, shift=0.1, elastic=0.02, gamma=0, brightness=0, contrast=0)
    images = load_images(tmp_path, DataSettings(image_size=32, warp=warp, region_maps=("Pneumonia",)))["train"]
    batch = images.draw(torch.arange(len(images)), torch.Generator().manual_seed(0))
    assert batch.regions is not None
    map_ = torch.nn.functional.adaptive_avg_pool2d(batch.regions[:, :1], (32, 32))
    white = (batch.image > 0.6).float()
    overlap = 2 * (map_ * white).sum((1, 2, 3)) / (map_ + white).sum((1, 2, 3))
    assert overlap.min() > 0.9
    plain = images.take(torch.arange(1)).regions
    assert plain is not None
    assert plain.shape == (1, 2, SIDE, SIDE)


def test_views_are_balanced_within_each_label_and_boxes_drawn_more_often() -> None:
    rows = [ImageRow(labels=("No Finding",), view="PA")] * 90 + [ImageRow(labels=("No Finding",), view="AP")] * 10
    rows += [ImageRow(labels=("Mass",), view="AP")] * 30 + [ImageRow(labels=("Edema",), view="PA")] * 10
    weights = draw_weights(rows, DrawSettings(findings={"Mass": 3.0}, balance_view=True), None)
    healthy, ap = np.arange(140) < 100, np.array([row.view == "AP" for row in rows])
    for group in (healthy, ~healthy):
        assert weights[group & ap].sum() == pytest.approx(weights[group & ~ap].sum())
    assert weights.mean() == pytest.approx(1)
    plain = draw_weights(rows, DrawSettings(boxed=2.0, findings={"Mass": 3.0}), None)
    assert plain[100] / plain[139] == pytest.approx(3)
    draws = weighted_draw(torch.from_numpy(weights), 4000, seed=1, step=5)
    assert torch.equal(draws, weighted_draw(torch.from_numpy(weights), 4000, seed=1, step=5))
    share = np.bincount(draws.numpy(), minlength=140)[ap].sum() / 4000
    assert share == pytest.approx(weights[ap].sum() / weights.sum(), abs=0.03)


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory, folder_writer: Any, manifest_writer: Any) -> Path:
    folder = tmp_path_factory.mktemp("boxed")
    rows = folder_writer(folder)
    for row in rows:
        has = "Pneumonia" in row["labels"]
        row |= {"boxes_xywh_norm": '[["Pneumonia", 0.2, 0.2, 0.3, 0.4]]' if has else "", "view": "PA"}
    manifest_writer(folder, rows)
    return folder


def test_a_denoiser_goes_on_with_regions_from_one_without(
    boxed: Path, config: Callable[..., Path], overrides: dict[str, list[str]], runs: dict[str, Path], tmp_path: Path
) -> None:
    """At first the maps change no bit; trained, they do; resumed, a run has the bits of one that was not stopped."""
    from diffusers import UNet2DConditionModel

    findings = "data.findings=[Pneumonia, Infiltration, Atelectasis, Effusion, Edema, Nodule]"
    drop = "data.draw={boxed: 2.0, balance_view: true}"
    given = [*overrides["denoiser"], *MAPS, drop, f"model.init={runs['denoiser']}/network"]
    train("denoiser", config("denoiser", steps=0), boxed, tmp_path / "start", given, "cpu")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "start/network/unet", low_cpu_mem_usage=False)
    former = UNet2DConditionModel.from_pretrained(runs["denoiser"] / "network/unet", low_cpu_mem_usage=False)
    assert list(unet.config[MAPS_KEY]) == ["Pneumonia", "Edema"]
    z, maps = torch.randn(2, 8, 4, 4), torch.rand(2, 3, 4, 4)
    tokens = torch.randn(2, 6, 8)
    with torch.no_grad():
        ours = unet(torch.cat([z, maps], dim=1), 500, tokens).sample
        assert torch.equal(ours, unet(torch.cat([z, 0 * maps], dim=1), 500, tokens).sample)
        assert torch.allclose(ours, former(z, 500, tokens).sample, atol=1e-5)
    for name, steps in (("whole", (4,)), ("parts", (2, 4))):
        for count in steps:
            train("denoiser", config("denoiser", steps=count), boxed, tmp_path / name, given, "cpu")
    whole, parts = (
        UNet2DConditionModel.from_pretrained(tmp_path / name / "network/unet", low_cpu_mem_usage=False)
        for name in ("whole", "parts")
    )
    assert whole.conv_in.weight[:, 8:].abs().sum() > 0
    states = [network.state_dict() for network in (whole, parts)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    train("denoiser", config("denoiser", steps=1), boxed, tmp_path / "more", [*given, findings], "cpu")


def test_the_loss_counts_a_region_as_often_as_the_config_says(runs: dict[str, Path]) -> None:
    from xreal_synth.training.first_stage import load_first_stage
    from xreal_synth.training.settings import DenoiserSettings
    from xreal_synth.training.tasks.denoiser import DenoiserTask

    losses = []
    for weight in (1.0, 3.0):
        torch.manual_seed(0)
        settings = DenoiserSettings(channels=(32, 32), attention=(False, True), token_width=8, region_weight=weight)
        first_stage = load_first_stage(str(runs["autoencoder"] / "network" / "vae"))
        task = DenoiserTask(settings, first_stage, DataSettings(image_size=32, region_maps=("Pneumonia",)))
        labels = torch.ones(2, 6) > 0
        regions = torch.zeros(2, 2, SIDE, SIDE)
        regions[:, 0, : SIDE // 2] = 1
        image = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
        batch = ImageBatch(image, torch.zeros(2, 32, 32).long(), labels, labels, regions=regions)
        with torch.no_grad():
            losses.append(task.loss(batch, torch.Generator().manual_seed(2)))
    plain, heavy = losses
    assert heavy["loss_in_regions"] == pytest.approx(float(plain["loss_in_regions"]), rel=1e-4)
    assert heavy["loss"] == pytest.approx(float(plain["loss"] + plain["loss_in_regions"]), rel=1e-4)
