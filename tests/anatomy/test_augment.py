"""Augmentation: the stream decides, codes stay codes, each setting does what it says."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doubles.schematic import schematic_mask
from xreal_synth.anatomy.augment import (
    LARGE_HEART,
    NORMAL_HEART,
    Augmentation,
    augment,
    fit_heart,
    scale_heart,
    scale_lungs,
)
from xreal_synth.anatomy.label_map import cardiothoracic_ratio, organ_areas, organ_box
from xreal_synth.anatomy.validate import validate_mask
from xreal_synth.findings import AORTA, HEART, LEFT_LUNG, LUNGS, RIGHT_LUNG
from xreal_synth.masks import bounding_box
from xreal_synth.seeds import stream

CHEST = schematic_mask(128)
PINNED = "7b7d8e08529b603e86280762f70713a056b12211cb0320a3c4bf096497d17e41"

MILD = Augmentation(rotate_deg=5, shift=0.03, scale=0.06, elastic=0.02, heart_scale=(0.9, 1.25))


def test_no_settings_no_change() -> None:
    assert np.array_equal(augment(CHEST, stream(1, 0, 0, "anatomy"), Augmentation()), CHEST)


def test_the_same_stream_gives_the_same_mask_anywhere() -> None:
    masks = [augment(CHEST, stream(1, i, 0, "anatomy"), MILD) for i in range(8)]
    assert len({mask.tobytes() for mask in masks}) == 8
    digest = hashlib.sha256(b"".join(mask.tobytes() for mask in masks)).hexdigest()
    assert digest == PINNED


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([64, 96, 128]))
def test_mild_augmentation_of_a_schematic_chest_stays_valid(seed: int, size: int) -> None:
    changed = augment(schematic_mask(size), np.random.default_rng(seed), MILD)
    assert changed.shape == (size, size)
    assert changed.dtype == np.uint8
    validate_mask(changed, "augmented")


def test_switching_one_change_off_leaves_the_others_draws() -> None:
    only_heart = Augmentation(heart_scale=(0.9, 1.25))
    shifted = Augmentation(shift=0.1, heart_scale=(0.9, 1.25))
    areas = [organ_areas(augment(CHEST, stream(1, 5, 0, "anatomy"), choice))[HEART] for choice in (only_heart, shifted)]
    assert areas[0] == pytest.approx(areas[1], rel=0.03)


def test_shift_and_scale_move_by_no_more_than_asked() -> None:
    x0, y0, x1, _ = organ_box(CHEST, LEFT_LUNG)
    for i in range(20):
        a0, b0, a1, _ = organ_box(augment(CHEST, stream(2, i, 0, "anatomy"), Augmentation(shift=0.05)), LEFT_LUNG)
        assert max(abs(a0 - x0), abs(b0 - y0)) <= 0.05 * 128 + 1
        assert abs((a1 - a0) - (x1 - x0)) <= 1
        area = organ_areas(augment(CHEST, stream(2, i, 0, "anatomy"), Augmentation(scale=0.1)))[LEFT_LUNG]
        assert 0.78 < area / organ_areas(CHEST)[LEFT_LUNG] < 1.24


def test_rotation_turns_about_the_centre_by_no_more_than_asked() -> None:
    mask = np.zeros((128, 128), dtype=np.uint8)
    mask[60:68, 100:108] = LEFT_LUNG
    angles = []
    for i in range(40):
        turned = augment(mask, stream(3, i, 0, "anatomy"), Augmentation(rotate_deg=20))
        y, x = (v.mean() + 0.5 - 64 for v in np.nonzero(turned))
        assert np.hypot(x, y) == pytest.approx(40, abs=1)
        angles.append(np.degrees(np.arctan2(y, x)))
    assert max(np.abs(angles)) < 21
    assert max(angles) > 10
    assert min(angles) < -10


@pytest.mark.parametrize("scale", [0.7, 0.9, 1.25, 1.5])
def test_heart_is_scaled_about_its_centre_under_the_aorta(scale: float) -> None:
    changed = scale_heart(CHEST, (scale, scale))
    before, after = bounding_box(CHEST == HEART), bounding_box(changed == HEART)
    assert before is not None
    assert after is not None
    assert (after[2] - after[0]) / (before[2] - before[0]) == pytest.approx(scale, abs=0.06)
    assert np.array_equal(changed == AORTA, CHEST == AORTA)
    beyond = (CHEST != HEART) & (changed != HEART)
    assert np.array_equal(changed[beyond], CHEST[beyond])


@pytest.mark.parametrize("scale", [0.7, 0.85, 1.15, 1.3])
def test_lungs_are_scaled_about_their_centre_and_the_heart_keeps_its_size(scale: float) -> None:
    changed = scale_lungs(CHEST, scale)
    validate_mask(changed, "changed")
    before, after = (bounding_box(np.isin(mask, LUNGS)) for mask in (CHEST, changed))
    assert before is not None
    assert after is not None
    for axis in (0, 1):
        grown = (after[axis + 2] - after[axis]) / (before[axis + 2] - before[axis])
        assert grown == pytest.approx(scale, abs=0.03)
        assert (after[axis] + after[axis + 2]) / 2 == pytest.approx((before[axis] + before[axis + 2]) / 2, abs=1)
    hearts = [organ_areas(mask)[HEART] for mask in (CHEST, changed)]
    assert hearts[0] == pytest.approx(hearts[1], rel=0.02)
    heart = bounding_box(changed == HEART)
    assert heart is not None
    beside = changed[(heart[1] + heart[3]) // 2, [heart[0] - 2, heart[2] + 1]]
    assert list(beside) == [RIGHT_LUNG, LEFT_LUNG], "no gap between the heart and the lungs"


def test_lungs_that_grow_out_of_the_picture_are_moved_in() -> None:
    lower = np.roll(CHEST, 30, axis=0)
    rows = np.flatnonzero(np.isin(scale_lungs(lower, 1.2), LUNGS).any(axis=1))
    free = np.flatnonzero(np.isin(lower, LUNGS).any(axis=1))
    assert rows[-1] <= 127
    assert len(rows) == pytest.approx(1.2 * len(free), abs=2)


def test_the_lungs_factor_moves_no_other_draw() -> None:
    plain, scaled = (
        augment(CHEST, stream(1, 3, 0, "anatomy"), replace(MILD, lungs_scale=scale)) for scale in (None, (1.0, 1.0))
    )
    assert np.array_equal(plain, scaled)
    drawn = [
        organ_areas(augment(CHEST, stream(1, i, 0, "anatomy"), Augmentation(lungs_scale=(0.8, 1.2))))[LEFT_LUNG]
        for i in range(40)
    ]
    assert min(drawn) < 0.8 * organ_areas(CHEST)[LEFT_LUNG] < 1.2 * organ_areas(CHEST)[LEFT_LUNG] < max(drawn)


def test_a_smaller_heart_gives_its_border_to_what_lay_beside_it() -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, 40:] = LEFT_LUNG
    mask[20:40, 20:50] = HEART
    smaller = scale_heart(mask, (0.8, 0.8))
    assert smaller[30, 49] == LEFT_LUNG
    assert smaller[30, 20] == 0
    assert smaller[30, 35] == HEART


@pytest.mark.parametrize("across", [0.7, 0.9, 1.0, 1.2, 1.5])
def test_a_heart_is_fitted_to_what_its_group_shows(across: float) -> None:
    mask = scale_heart(CHEST, (across, across))
    for large in (True, False):
        fitted = fit_heart(mask, large=large)
        ratio = cardiothoracic_ratio(fitted)
        assert ratio >= LARGE_HEART if large else ratio <= NORMAL_HEART
        fits = cardiothoracic_ratio(mask)
        assert np.array_equal(fitted, mask) == (fits >= LARGE_HEART if large else fits <= NORMAL_HEART)
        validate_mask(fitted, "fitted")
        assert np.array_equal(fitted == AORTA, mask == AORTA)


def test_a_heart_grows_to_the_patients_left() -> None:
    small = scale_heart(CHEST, (0.8, 0.8))
    before, after = (bounding_box(mask == HEART) for mask in (small, fit_heart(small, large=True)))
    assert before is not None
    assert after is not None
    assert after[2] - before[2] > 3 * (before[0] - after[0]) >= 0
