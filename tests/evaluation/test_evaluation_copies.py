"""A planted training image is found, in both metrics' way of counting."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from xreal_synth.evaluation.intervals import Bootstrap
from xreal_synth.evaluation.measurements import ImagePairs, ImageSet
from xreal_synth.evaluation.privacy import count_copies, nearest, standardised
from xreal_synth.images.manifest import ImageRow
from xreal_synth.quality.copies import thumbnail

RNG = np.random.default_rng(0)
TRAINING = RNG.normal(size=(60, 16)).astype(np.float32)
PATIENTS = np.array([str(at // 2) for at in range(60)])


def seen(features: npt.NDArray[np.float32], small: npt.NDArray[np.uint8], patients: npt.NDArray[np.str_]) -> ImageSet:
    rows, rest = [ImageRow(image=f"training{at}") for at in range(len(features))], np.empty(0)
    return ImageSet(
        features=features, logits=rest, rings=rest, reduced=small, dice=rest, peaks=rest.astype(int), groups=patients,
        labels=rest.astype(int), paired=rest, flagged=rest.astype(bool), inception=rest.astype(np.float32),
        sources=np.asarray(rows, object), pairs=ImagePairs(),
    )  # fmt: skip


def test_a_planted_copy_is_flagged_and_named() -> None:
    small = np.random.default_rng(1).integers(0, 255, (80, 64 * 64), dtype=np.uint8)
    made = RNG.normal(size=(10, 16)).astype(np.float32)
    made[3], small[63] = TRAINING[41] + 1e-3, small[41]
    names = [f"image{n}" for n in range(10)]
    real = seen(RNG.normal(size=(10, 16)).astype(np.float32), small[70:], np.array(names))
    sets = seen(made, small[60:70], np.array(names)), real, seen(TRAINING, small[:60], PATIENTS)
    figures = count_copies(names, *sets, Bootstrap(names))
    assert list(figures) == ["pixels", "features"]
    for found in figures.values():
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
