"""Every kind of wrong mask is refused, and the message names the file and what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from tests.doubles.schematic import schematic_mask
from xreal_synth.anatomy.validate import validate_mask
from xreal_synth.errors import AnatomyError
from xreal_synth.findings import AORTA, HEART, LEFT_LUNG, RIGHT_LUNG
from xreal_synth.types import Mask


def _recoded(label_map: dict[int, int]) -> Mask:
    mask = schematic_mask(128)
    table = np.arange(256, dtype=np.uint8)
    for old, new in label_map.items():
        table[old] = new
    return table[mask]


def _with(code: int, rows: slice, columns: slice) -> Mask:
    mask = schematic_mask(128)
    mask[rows, columns] = code
    return mask


@pytest.mark.parametrize("size", [32, 64, 129, 256])
def test_a_chest_passes_at_any_size(size: int) -> None:
    validate_mask(schematic_mask(size), "chest.png")
    for seed in range(20):
        validate_mask(schematic_mask(size, np.random.default_rng(seed)), f"chest {seed}")


def test_the_aorta_may_be_missing() -> None:
    validate_mask(_recoded({AORTA: 0}), "chest.png")


@pytest.mark.parametrize(
    ("mask", "found"),
    [
        (schematic_mask(128)[:, :100], "100x128"),
        (schematic_mask(128).astype(np.int64), "int64"),
        (np.zeros((128, 128, 3), np.uint8), "3x128x128"),
        (schematic_mask(16), "16 pixels"),
        (_recoded({HEART: 7}), "code 7"),
        (_recoded({LEFT_LUNG: 255, HEART: 128}), "code 128, 255"),
        (_recoded({LEFT_LUNG: RIGHT_LUNG, RIGHT_LUNG: LEFT_LUNG}), "swapped"),
        (schematic_mask(128)[:, ::-1], "swapped"),
        (_recoded({LEFT_LUNG: 0}), "no left lung"),
        (_recoded({RIGHT_LUNG: 0, HEART: 0}), "no right lung and no heart"),
        (np.zeros((128, 128), np.uint8), "no left lung and no right lung and no heart"),
        (_with(AORTA, slice(30, 60), slice(55, 90)), "aorta's area"),
        (_with(HEART, slice(0, 6), slice(0, 20)), "share of the heart in one piece"),
        (schematic_mask(128)[::-1], "heart's centre in the lungs' height"),
        (_with(LEFT_LUNG, slice(0, 128), slice(66, 128)), "left lung's area"),
    ],
)
def test_a_wrong_mask_is_refused(mask: Mask, found: str) -> None:
    with pytest.raises(AnatomyError) as caught:
        validate_mask(mask, "folder/image-7.png")
    assert found in caught.value.found
    assert caught.value.where == "folder/image-7.png"
    assert caught.value.wanted
