"""Measures against numbers that can be read off drawn rectangles."""

from __future__ import annotations

import numpy as np
import pytest

from xreal_synth.anatomy.label_map import cardiothoracic_ratio, organ_areas, organ_box, organ_boxes, resize_mask
from xreal_synth.errors import AnatomyError
from xreal_synth.findings import HEART, LEFT_LUNG, RIGHT_LUNG
from xreal_synth.masks import bounding_box
from xreal_synth.types import Mask


def _blocks() -> Mask:
    """Right lung x 10..40, left lung x 60..90, heart x 40..70 (half over the left lung)."""
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[20:80, 10:40] = RIGHT_LUNG
    mask[20:80, 60:90] = LEFT_LUNG
    mask[50:80, 40:70] = HEART
    return mask


def test_boxes_and_areas_are_half_open_and_in_pixels() -> None:
    mask = _blocks()
    assert organ_box(mask, RIGHT_LUNG) == (10, 20, 40, 80)
    assert organ_boxes(mask) == ((60, 20, 90, 80), (10, 20, 40, 80), (40, 50, 70, 80), None)
    assert organ_areas(mask) == (10000 - 4200, 1500, 1800, 900, 0)
    assert bounding_box(mask == 4) is None


def test_cardiothoracic_ratio_is_heart_over_chest_width() -> None:
    assert cardiothoracic_ratio(_blocks()) == pytest.approx(30 / 80)


def test_cardiothoracic_ratio_without_heart_is_zero() -> None:
    mask = _blocks()
    mask[mask == HEART] = 0
    assert cardiothoracic_ratio(mask) == 0.0


def test_cardiothoracic_ratio_of_lungs_without_a_common_row() -> None:
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[10:40, 10:40] = RIGHT_LUNG
    mask[60:90, 60:90] = LEFT_LUNG
    mask[40:60, 40:60] = HEART
    assert cardiothoracic_ratio(mask) == pytest.approx(20 / 80)


def test_nearest_resize_keeps_codes_and_places() -> None:
    mask = _blocks()
    double = resize_mask(mask, 200)
    assert organ_areas(double) == tuple(4 * area for area in organ_areas(mask))
    assert np.array_equal(resize_mask(double, 100), mask)
    assert organ_box(resize_mask(mask, 50), RIGHT_LUNG) == (5, 10, 20, 40)


def test_only_square_masks_are_resized() -> None:
    with pytest.raises(AnatomyError, match="100x90"):
        resize_mask(_blocks()[:90], 64)
