"""Boxes from maps, and their figures beside boxes by hand."""

from __future__ import annotations

import numpy as np
import pytest

from xreal_synth.evaluation.findings import PEAK_SIDE, boxes_found, overlap, pointing_of, precision_of

ONES = np.ones((1, 3))
BOX = (0.0, 0.0, 0.5, 0.5)


def found_box(image: int, score: float, box: tuple[float, ...], finding: int = 0) -> list[float]:
    peak = int((box[1] + box[3]) / 2 * PEAK_SIDE) * PEAK_SIDE + int((box[0] + box[2]) / 2 * PEAK_SIDE)
    return [image, finding, score, peak, *box]


def test_each_part_of_a_map_over_half_its_peak_is_a_box() -> None:
    maps = np.full((1, 2, 16, 16), -6.0)
    maps[0, 0, 2:5, 3:6], maps[0, 0, 10:12, 8:14] = 3.0, 1.0
    found = boxes_found(maps)
    first, second = (found[(found[:, 1] == 0)][at] for at in (0, 1))
    assert first[4:] == pytest.approx(np.asarray([3, 2, 6, 5]) / 16, abs=1 / 32)
    assert second[4:] == pytest.approx(np.asarray([8, 10, 14, 12]) / 16, abs=1 / 32)
    assert first[2] > second[2] > 0.5
    row, column = divmod(int(first[3]), PEAK_SIDE)
    assert 8 <= row < 20
    assert 12 <= column < 24
    assert (found[:, 1] == 1).sum() == 1, "a map without any contrast is one box"


def test_overlap_is_intersection_over_union() -> None:
    assert overlap(BOX, BOX) == pytest.approx(1)
    assert overlap(BOX, (0.25, 0.0, 0.75, 0.5)) == pytest.approx(1 / 3)
    assert overlap(BOX, (0.5, 0.5, 1.0, 1.0)) == 0


def test_the_pointing_game_asks_the_highest_peak_of_images_with_boxes() -> None:
    found = np.asarray(
        [
            found_box(0, 0.4, BOX), found_box(0, 0.9, (0.6, 0.6, 0.8, 0.8)),  # misses with its higher peak
            found_box(1, 0.2, BOX), found_box(2, 0.9, BOX),
        ]
    )  # fmt: skip
    statistic = pointing_of(found, 0, [((BOX,),), ((BOX,),), ((),)])
    assert statistic(ONES).tolist() == [0.5]
    assert statistic(np.asarray([[2.0, 1.0, 5.0]])).tolist() == pytest.approx([1 / 3])


def test_average_precision_by_hand() -> None:
    """Best first: a hit, a false box on an image without, a second box on what is found, a hit; one box is missed."""
    found = np.asarray(
        [
            found_box(0, 0.9, BOX), found_box(2, 0.8, BOX), found_box(0, 0.7, (0.0, 0.0, 0.5, 0.4)),
            found_box(1, 0.6, (0.1, 0.0, 0.5, 0.5)), found_box(1, 0.5, BOX, finding=1),
        ]
    )  # fmt: skip
    boxes = [((BOX,),), ((BOX, (0.6, 0.6, 0.9, 0.9)),), ((),)]
    known = precision_of(found, 0, np.asarray([1, 1, 0]), boxes)
    assert known(ONES).tolist() == pytest.approx([(1 / 1 + 2 / 4) / 3])
    twice = known(np.asarray([[1.0, 2.0, 0.0]]))
    assert twice.tolist() == pytest.approx([(1 + 2 * 3 / 4) / 5]), "the second image counts twice, the third never"
    unknown = precision_of(found, 0, np.asarray([1, 1, -1]), boxes)
    assert unknown(ONES).tolist() == pytest.approx([(1 / 1 + 2 / 3) / 3])
