"""The classifier's loss and figures by hand, and both of its builds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xreal_synth.models.networks.finding_classifier import FindingClassifier
from xreal_synth.models.networks.label_tokens import FINDINGS
from xreal_synth.models.networks.pyramid_segmenter import PyramidSegmenter
from xreal_synth.training.export import export_parts
from xreal_synth.training.images import ImageBatch, TrainingImages
from xreal_synth.training.settings.classifier import ClassifierSettings
from xreal_synth.training.settings.common import DataSettings
from xreal_synth.training.tasks.classifier import (
    ClassifierTask,
    areas,
    bars,
    build_classifier,
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
            ImageBatch(whole.image[half], whole.label_map[half], labels[half], whole.known[half]),
            torch.Generator(),
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
