"""Balanced batches, and a classifier that learns a mark in memory."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
import torch

from xreal_synth.training.settings import ClassifierSettings
from xreal_synth.training.study import Phase, StudySettings, balanced_batch, image_set, scores_after
from xreal_synth.training.tasks.evaluators import build_classifier, pointed
from xreal_synth.types import NormBox

SETTINGS = StudySettings(("Pneumonia",), size=32, steps=16, batch=8, precision="fp32")
CPU = torch.device("cpu")


def marked(count: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Noise; every third image has a bright square; labels [N, 1]."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 120, (count, 32, 32)).astype(np.uint8)
    shown = np.arange(count) % 3 == 0
    images[shown, 10:20, 10:20] += 100
    return images, shown[:, None].astype(np.int64)


def test_a_batch_has_as_many_of_each_and_goes_through_all_before_any_again() -> None:
    places = [[torch.arange(3)], [torch.arange(3, 10)]]
    steps = [balanced_batch(places, 8, 5, "phase 0", step).tolist() for step in range(7)]
    for index in steps:
        assert sum(at < 3 for at in index) == 4
    common = Counter(at for index in steps for at in index if at >= 3)
    assert set(common.values()) == {4}, "28 places for seven images: four each"
    rare = Counter(at for index in steps[:3] for at in index if at < 3)
    assert set(rare.values()) == {4}
    assert steps != [balanced_batch(places, 8, 6, "phase 0", step).tolist() for step in range(7)]


def test_findings_take_turns_in_their_half() -> None:
    places = [[torch.arange(3), torch.arange(3, 5)], [torch.arange(5, 12)]]
    steps = [balanced_batch(places, 6, 5, "phase 0", step).tolist() for step in range(4)]
    for index in steps:
        assert sum(at >= 5 for at in index) == 3
    common = Counter(at for index in steps for at in index if at < 5)
    assert [common[at] for at in range(5)] == [2, 2, 2, 3, 3], "six places each for three images, and for two"


def test_a_detector_learns_where_the_mark_is() -> None:
    """A bright square anywhere, in a box."""
    rng = np.random.default_rng(2)
    images = rng.integers(60, 120, (96, 64, 64)).astype(np.uint8)
    labels, boxes = np.arange(96)[:, None] % 2, list[tuple[tuple[NormBox, ...]]]()
    for image, shown in zip(images, labels[:, 0], strict=True):
        x, y = (int(at) for at in rng.integers(0, 48, 2))
        image[y : y + 16, x : x + 16] += np.uint8(120 * shown)
        boxes.append((((x / 64, y / 64, (x + 16) / 64, (y + 16) / 64),) if shown else (),))
    settings = StudySettings(("Mass",), localise=True, size=64, steps=150, batch=8, precision="fp32")
    training = image_set(images, labels, settings, boxes)
    assert training.regions is not None
    assert training.regions[:, 0].amax(dim=(1, 2)).tolist() == [0, 255] * 48
    maps = scores_after([Phase((training,), 150)], training, settings, 0, CPU)
    assert maps.shape == (96, 1, 4, 4)
    games = pointed(torch.from_numpy(maps)[1::2], training.regions[1::2, :1].float())
    assert float(games.float().mean()) > 0.7, "a box is a sixteenth of the image"


def test_it_learns_the_mark_and_the_same_seed_gives_the_same_bits() -> None:
    images, shown = marked(24, 0)
    test = image_set(*marked(30, 1), SETTINGS)
    training = image_set(images, shown, SETTINGS)
    done: list[int] = []
    scores = scores_after([Phase((training,), 16)], test, SETTINGS, 1, CPU, lambda: done.append(1))
    assert len(done) == 16
    positive, scores = test.labels[:, 0].numpy(), scores[:, 0]
    assert scores[positive].min() > scores[~positive].max()
    again = scores_after([Phase((training,), 2)], test, SETTINGS, 1, CPU)
    assert np.array_equal(again, scores_after([Phase((training,), 2)], test, SETTINGS, 1, CPU))
    assert not np.array_equal(again, scores_after([Phase((training,), 2)], test, SETTINGS, 2, CPU))


def test_a_second_phase_goes_on_with_what_the_first_learnt() -> None:
    """What it learnt first, and unlearnt after: the second phase decides, on the first one's weights."""
    images, shown = marked(24, 0)
    test = image_set(*marked(30, 1), SETTINGS)
    right, wrong = image_set(images, shown, SETTINGS), image_set(images, 1 - shown, SETTINGS)
    positive = test.labels[:, 0].numpy()
    scores = scores_after([Phase((right,), 16), Phase((wrong,), 16)], test, SETTINGS, 1, CPU)[:, 0]
    assert scores[positive].max() < scores[~positive].min()


def test_densenet121_is_torchvisions_with_one_grey_channel() -> None:
    from torchvision.models import densenet121

    settings = StudySettings(("Pneumonia",), arch="densenet121", size=64).model()
    assert isinstance(settings, ClassifierSettings)
    own = build_classifier(settings, ("Pneumonia",))
    with torch.device("meta"):
        theirs = densenet121(num_classes=1)
    count = sum(p.numel() for p in own.parameters())
    assert count == sum(p.numel() for p in theirs.parameters()) - 2 * 64 * 7 * 7


def test_a_set_of_one_kind_is_our_own_mistake() -> None:
    images, _ = marked(6, 0)
    one = image_set(images, np.ones((6, 1), np.int64), SETTINGS)
    with pytest.raises(AssertionError):
        scores_after([Phase((one,), 1)], one, SETTINGS, 0, CPU)
