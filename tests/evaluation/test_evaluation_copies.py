"""A planted training image is found, in both metrics' way of counting."""

from __future__ import annotations

import numpy as np
import pytest

from xreal_synth.evaluation.intervals import Bootstrap
from xreal_synth.evaluation.privacy import count_copies, nearest, standardised
from xreal_synth.quality.copies import thumbnail

RNG = np.random.default_rng(0)
TRAINING = RNG.normal(size=(60, 16)).astype(np.float32)
PATIENTS = np.array([str(at // 2) for at in range(60)])


def test_a_planted_copy_is_flagged_and_named() -> None:
    made = RNG.normal(size=(10, 16)).astype(np.float32)
    made[3] = TRAINING[41] + 1e-3
    real = RNG.normal(size=(10, 16)).astype(np.float32)
    images, training = tuple(f"image{n}" for n in range(10)), tuple(f"training{n}" for n in range(60))
    bootstrap = Bootstrap(list(images))
    found = count_copies((made, real, TRAINING), PATIENTS, bootstrap, (images, training))
    assert found.flagged == (("image3", "training41"),)
    assert found.made.value == pytest.approx(0.1)
    assert found.real.value == 0
    assert found.median_made > found.threshold


def test_neighbours_of_the_same_patient_do_not_count() -> None:
    twice = TRAINING.copy()
    twice[1::2] = twice[::2] + 1e-4
    own, _ = nearest(twice, twice)
    assert own.max() == 0
    apart, which = nearest(twice, twice, (PATIENTS, PATIENTS))
    assert apart.min() > 0.5
    assert not (PATIENTS[which] == PATIENTS).any()


def test_nearest_is_the_least_of_all_distances() -> None:
    images = RNG.normal(size=(300, 16)).astype(np.float32)
    apart, which = nearest(images, TRAINING)
    by_hand = np.linalg.norm(images[:, None].astype(float) - TRAINING[None].astype(float), axis=2)
    assert apart == pytest.approx(by_hand.min(axis=1))
    assert np.array_equal(which, by_hand.argmin(axis=1))


def test_thumbnails_forget_exposure() -> None:
    image = (RNG.random((128, 128)) * 100).astype(np.uint8)
    assert thumbnail(image).shape == (64 * 64,)
    assert thumbnail(image) == pytest.approx(thumbnail(image + 50), abs=1)
    assert float(np.abs(thumbnail(image).mean())) < 1e-3


def test_features_weigh_alike_once_standardised() -> None:
    scaled = standardised(TRAINING * 9 + 4, TRAINING * 9 + 4)
    assert scaled.mean(0) == pytest.approx(np.zeros(16), abs=1e-4)
    assert scaled.std(0) == pytest.approx(np.ones(16), abs=1e-3)
