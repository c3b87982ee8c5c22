"""The classifier's loss and figures by hand, and both of its builds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from xreal_synth.errors import TrainingError
from xreal_synth.models.networks.conditioning import FINDINGS
from xreal_synth.models.networks.finding_classifier import FindingClassifier, peaks, pooled_logits
from xreal_synth.models.networks.segmenters import PyramidSegmenter
from xreal_synth.training.export import export_parts
from xreal_synth.training.images import ImageBatch, TrainingImages
from xreal_synth.training.run import train
from xreal_synth.training.settings import ClassifierSettings, DataSettings
from xreal_synth.training.tasks.evaluators import (
    ClassifierTask,
    areas,
    bars,
    build_classifier,
    place_loss,
    pointed,
    positive_weights,
)

SETTINGS = ClassifierSettings(kind="densenet", inner_size=32, blocks=(1, 1), width=8, growth=4, smoothing=0)
SIDE = 32


def batch_of(labels: torch.Tensor, known: torch.Tensor) -> ImageBatch:
    image = torch.rand(len(labels), 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return ImageBatch(image, torch.zeros(len(labels), SIDE, SIDE, dtype=torch.long), labels, known)


def task_for(labels: torch.Tensor) -> ClassifierTask:
    torch.manual_seed(0)
    empty = torch.zeros(len(labels), SIDE, SIDE, dtype=torch.uint8)
    images = TrainingImages(empty, empty, labels, torch.ones_like(labels), DataSettings(image_size=SIDE))
    return ClassifierTask(SETTINGS, build_classifier(SETTINGS, FINDINGS), images)


def test_positives_weigh_as_much_as_negatives_up_to_a_limit() -> None:
    labels = torch.tensor([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    known = torch.ones_like(labels)
    assert positive_weights(labels, known, 2.5).tolist() == pytest.approx([0.4, 2.5, 2.5])
    often = positive_weights(labels, known, 9.0, torch.tensor([3.0, 1, 1, 1]))
    assert often.tolist() == pytest.approx([1 / 5, 5.0, 6.0]), "an image drawn three times is three images"
    known[0, 1] = False
    assert positive_weights(labels, known, 9.0).tolist() == pytest.approx([1 / 3, 2.0, 4.0])


def test_an_unknown_label_costs_nothing() -> None:
    labels = torch.zeros(3, 6, dtype=torch.bool)
    labels[0, :2] = True
    task = task_for(labels)
    task.module.eval()
    known = torch.ones_like(labels)
    known[:, 1] = False
    other = labels.clone()
    other[:, 1] = ~other[:, 1]
    draw = torch.Generator().manual_seed(0)
    loss = task.loss(batch_of(labels, known), draw)["loss"]
    assert torch.equal(loss, task.loss(batch_of(other, known), draw)["loss"])
    assert not torch.equal(loss, task.loss(batch_of(other, torch.ones_like(known)), draw)["loss"])
    nothing = task.loss(batch_of(labels, torch.zeros_like(known)), draw)["loss"]
    assert float(nothing.detach()) == 0


def test_the_loss_is_weighted_cross_entropy() -> None:
    labels = torch.tensor([[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0]], dtype=torch.bool)
    task = task_for(labels)
    task.module.eval()
    batch = batch_of(labels, torch.ones_like(labels))
    found = task.loss(batch, torch.Generator())["loss"]
    chances = task.network(batch.image).sigmoid().double().detach()
    by_hand = 0.0
    for image in range(3):
        for finding in range(5):
            chance = float(chances[image, finding])
            positive = bool(labels[image, finding])
            by_hand += float(task.weights[finding]) * -math.log(chance) if positive else -math.log(1 - chance)
    assert float(found.detach()) == pytest.approx(by_hand / 15, rel=1e-5)


def test_areas_count_pairs_and_leave_out_unknown_labels() -> None:
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(40, 2, generator=draw)
    labels = torch.randint(-1, 2, (40, 2), generator=draw)
    labels[:, 1] = 1
    first, second = areas(logits, labels)
    positive, negative = (logits[labels[:, 0] == kind, 0] for kind in (1, 0))
    assert first == pytest.approx(float((positive[:, None] > negative[None]).float().mean()), abs=1e-6)
    assert math.isnan(second)


def test_scores_are_over_all_images_seen_and_only_once() -> None:
    labels = torch.zeros(4, 6, dtype=torch.bool)
    labels[:2, 0] = True
    task = task_for(labels)
    task.module.eval()
    for half in (slice(0, 2), slice(2, 4)):
        whole = batch_of(labels, torch.ones_like(labels))
        task.loss(
            ImageBatch(whole.image[half], whole.label_map[half], labels[half], whole.known[half]), torch.Generator()
        )
    seen = task.take_seen()
    found = task.scores([seen[:1], seen[1:]])
    assert set(found) == {"auc_Pneumonia", "auc"}
    assert 0 <= found["auc"] <= 1
    assert task.take_seen() == []


@pytest.mark.parametrize(
    ("network", "width"),
    [
        (FindingClassifier("densenet", 32, (1, 2), width=8, growth=4), (8 + 4) // 2 + 2 * 4),
        (FindingClassifier("resnet", 32, (1, 1)), 128),
    ],
)
def test_features_are_pooled_and_exposure_does_not_matter(network: FindingClassifier, width: int) -> None:
    network.eval()
    image = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0)) * 0.5
    features = network.features(image)
    assert features.shape == (2, width)
    assert torch.equal(network(image), network.logits_of(features))
    assert torch.allclose(network(image), network(image + 0.25), atol=1e-3)


def test_a_map_is_pooled_between_its_mean_and_its_peak_and_comes_back_from_its_file(tmp_path: Path) -> None:
    network = FindingClassifier("resnet", 64, (1, 1, 1), findings=("Mass", "Edema"), places=True).eval()
    image = torch.rand(3, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    maps = network.maps(image)
    assert maps.shape == (3, 2, 4, 4)
    logits = network(image)
    assert torch.equal(logits, pooled_logits(maps))
    assert (logits > maps.mean(dim=(2, 3))).all()
    assert (logits < maps.amax(dim=(2, 3))).all()
    assert torch.allclose(pooled_logits(maps.new_full((1, 1, 4, 4), -2.5)), torch.tensor(-2.5))
    network.save_pretrained(tmp_path)
    again = FindingClassifier.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    assert torch.equal(again(image), logits)


def test_a_peak_is_inside_where_its_region_is() -> None:
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 0, 1, 2] = maps[0, 1, 3, 0] = 1.0
    regions = torch.zeros(1, 2, 16, 16)
    regions[0, :, 4:8, 8:12] = 0.4
    assert pointed(maps, regions).tolist() == [[1, 0]]
    assert pointed(maps, torch.zeros_like(regions)).tolist() == [[-1, -1]]
    assert peaks(maps, 4).tolist() == [[6, 12]]


def test_the_loss_of_places_by_hand() -> None:
    """Two images of 2 x 2 cells: one with a region in the first cell, one without the finding, or unknown."""
    maps = torch.tensor([[1.0, -1.0, -2.0, -3.0], [0.5, 0.0, -0.5, 2.0]]).reshape(2, 1, 2, 2)
    regions = torch.zeros(2, 1, 4, 4)
    regions[0, 0, :2, :2] = 1
    away = [math.log1p(math.exp(logit)) for logit in maps.flatten().tolist()]
    pooled = math.log(sum(math.exp(4 * logit) for logit in (-1.0, -2.0, -3.0)) / 4) / 4
    placed = 3 * (math.log1p(math.exp(-1)) + sum(away[1:4]) / 3 + math.log1p(math.exp(pooled))) / 3
    weight = torch.tensor([3.0])
    for absent, rest in ((True, sum(away[4:]) / 4), (False, 0.0)):
        found = place_loss(maps, regions, torch.tensor([[False], [absent]]), weight)
        assert float(found) == pytest.approx((placed + rest) / 2, rel=1e-5)


def test_a_classifier_with_places_learns_where(
    tmp_path: Path, config: Callable[..., Path], folder_writer: Any, manifest_writer: Any
) -> None:
    """A white square under every box: after a few steps the map's peak is mostly in it."""
    from PIL import Image

    rows = folder_writer(tmp_path, 12)
    for number, row in enumerate(rows):
        left = 5 * (number % 5)
        picture = Image.open(tmp_path / row["image"])
        if number % 3:
            picture.paste(255, (left, 10, left + 12, 22))
        row["boxes_xywh_norm"] = f'[["Mass", {left / 40}, 0.25, 0.3, 0.3]]' if number % 3 else ""
        row["labels"] = "Mass" if number % 3 else "No Finding"
        picture.save(tmp_path / row["image"])
    manifest_writer(tmp_path, rows)
    given = [
        "data.findings=[Mass]", "data.region_maps=[Mass]", "model.place_weight=1", "model.growth=8", "loop.lr=0.01",
        "loop.batch=8", "loop.schedule=constant", "loop.ema_decay=0.5",
    ]  # fmt: skip
    train("classifier", config("classifier", steps=40, validate_every=40), tmp_path, tmp_path / "out", given)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    last = lines[-1]
    assert last["pointing_Mass"] == last["pointing"] == 1.0
    assert last["loss"] == pytest.approx(last["image_loss"] + last["place_loss"])
    assert last["place_loss"] < lines[0]["place_loss"] / 2


@pytest.mark.parametrize("change", ["model.place_weight=1", "data.region_maps=[Edema]"])
def test_places_and_region_maps_go_together(
    change: str, data: Path, config: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="go together"):
        train("classifier", config("classifier"), data, tmp_path, [change])


def test_a_pyramid_segmenter_sees_and_gives_the_images_size(tmp_path: Path) -> None:
    network = PyramidSegmenter(inner_size=32, blocks=(1, 1), width=16)
    image = torch.rand(2, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    assert network(image).shape == (2, 5, 40, 40)
    assert network.segment(image).dtype == torch.uint8
    network.save_pretrained(tmp_path)
    again = PyramidSegmenter.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    assert torch.equal(network(image), again(image))


def test_bars_are_as_long_as_the_chance() -> None:
    picture = bars(torch.tensor([[0.5, 1.0]]), torch.tensor([[True, False]]), 8)[0, 0]
    assert picture[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert picture[2].tolist() == [0.5] * 8
    assert picture[4].tolist() == [1.0] * 8
    assert picture[6].tolist() == [0.0] * 8


def test_an_exported_classifier_keeps_its_batch_norm(runs: dict[str, Path], tmp_path: Path) -> None:
    assert export_parts(tmp_path, classifier=runs["classifier"]) == ["classifier"]
    weights = load_file(tmp_path / "classifier" / "diffusion_pytorch_model.safetensors")
    trained = load_file(runs["classifier"] / "network" / "classifier" / "diffusion_pytorch_model.safetensors")
    assert weights.keys() == trained.keys()
    counts = [name for name in weights if name.endswith("num_batches_tracked")]
    assert counts
    assert {int(weights[name]) for name in counts} == {4}
    assert {w.dtype for name, w in weights.items() if name not in counts} == {torch.float16}
    assert json.loads((tmp_path / "classifier" / "config.json").read_text())["findings"]
