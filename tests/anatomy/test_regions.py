"""A region never leaves its boxes; the feather is exactly zero outside its region and rises inside."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.doubles.schematic import schematic_mask
from xreal_synth.anatomy.regions import feather, pathology_mask, region_mask, snap_outward
from xreal_synth.findings import FINDINGS, HEART, HEART_REGION_SCALE, LEFT_LUNG, LUNGS, LUNGS_OF, REGIONS, RIGHT_LUNG
from xreal_synth.masks import bounding_box, scale_about
from xreal_synth.types import PixelBox, PlacedFinding

CHEST = schematic_mask(64)


def _placed(region: str, *boxes: PixelBox) -> PlacedFinding:
    return PlacedFinding("Pneumonia", "any", "any", region, boxes)


def test_box_region_is_its_boxes() -> None:
    region = region_mask(_placed("box", (8, 16, 24, 32), (40, 16, 56, 24)), CHEST)
    assert region.sum() == 16 * 16 + 16 * 8
    assert bounding_box(region) == (8, 16, 56, 32)


def test_heart_region_is_the_scaled_heart_within_its_box() -> None:
    heart = CHEST == HEART
    full = region_mask(_placed("heart", (0, 0, 64, 64)), CHEST)
    assert full.sum() == pytest.approx(HEART_REGION_SCALE**2 * heart.sum(), rel=0.05)
    assert (full | heart).sum() == full.sum()
    box = bounding_box(heart)
    assert box is not None
    cut = region_mask(_placed("heart", box), CHEST)
    assert bounding_box(cut) == box
    assert not (cut & ~full).any()


def test_lungs_region_is_both_lungs_with_a_margin() -> None:
    region = region_mask(replace(_placed("lungs", (0, 0, 64, 64)), side="both"), CHEST)
    lungs = np.isin(CHEST, (1, 2))
    assert region[lungs].all()
    away = ndimage.distance_transform_edt(~lungs)
    assert away[region].max() == 2  # 64 / 32
    assert not region[away > 2].any()


SHAPES = sorted(name for name, rule in REGIONS.items() if rule.mask is not None and rule.drawn)


def test_every_finding_has_a_region_of_the_table() -> None:
    assert {finding.region for finding in FINDINGS.values()} == set(REGIONS)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_a_drawn_shape_is_a_share_of_its_lung_and_grows_with_it(name: str, side: str) -> None:
    chest, rule, smaller = schematic_mask(256), REGIONS[name], np.zeros((256, 256), dtype=bool)
    for size in (0.08, 0.2, 0.45):
        region = rule.mask(chest, side, size)
        for code in LUNGS:
            share = region[chest == code].mean()
            assert share == (pytest.approx(size, abs=0.01) if code in LUNGS_OF[side] else 0)
        assert not (smaller & ~region).any()
        away = ndimage.distance_transform_edt(~(region & np.isin(chest, LUNGS)))
        assert away[region].max() <= 256 / 32
        assert np.array_equal(region, rule.mask(chest, side, size))
        smaller = region


def test_an_effusion_fills_the_costophrenic_angle_and_climbs_the_chest_wall() -> None:
    chest = schematic_mask(256)
    region = REGIONS["costophrenic"].mask(chest, "right", 0.2) & (chest == RIGHT_LUNG)
    rows, columns = np.nonzero(chest == RIGHT_LUNG)
    lowest = columns[rows == rows.max()].min()
    assert region[rows.max(), lowest]
    assert not region[rows.min()].any()
    tops = [int(np.flatnonzero(column)[0]) for column in region.T if column.any()]
    assert tops[0] < tops[len(tops) // 2] < tops[-1], "highest at the chest wall, on the picture's left"


def test_a_pneumothorax_lies_along_the_pleura_from_the_apex_down() -> None:
    chest = schematic_mask(256)
    lung = chest == LEFT_LUNG
    region = REGIONS["pleural"].mask(chest, "left", 0.2) & lung
    rows = np.flatnonzero(lung.any(axis=1))
    assert region[rows[0]][lung[rows[0]]].all()
    assert not region[rows[-1]].any()
    widths = [int(region[row].sum()) for row in rows[len(rows) // 4 :]]
    assert all(lower <= upper + 1 for upper, lower in pairwise(widths))
    assert widths[0] > 5 > widths[-1]
    for row in rows[: len(rows) // 2]:
        assert np.flatnonzero(region[row])[-1] == np.flatnonzero(lung[row])[-1], "touches the chest wall"


def test_a_whole_lung_can_be_one_sided() -> None:
    region = REGIONS["lungs"].mask(CHEST, "left", None)
    assert region[CHEST == LEFT_LUNG].all()
    assert not region[CHEST == RIGHT_LUNG].any()


def test_scaling_up_and_the_image_border() -> None:
    organ = np.zeros((32, 32), dtype=bool)
    organ[20:32, 20:32] = True
    assert bounding_box(scale_about(organ, (1.5, 1.5))) == (17, 17, 32, 32)
    assert bounding_box(scale_about(organ, (0.5, 0.5))) == (23, 23, 29, 29)
    assert not scale_about(np.zeros_like(organ), (2.0, 2.0)).any()


def test_pathology_mask_later_wins() -> None:
    label_map = pathology_mask(
        [region_mask(_placed("box", box), CHEST) for box in ((0, 0, 16, 16), (8, 8, 24, 24))], CHEST.shape
    )
    assert label_map[4, 4] == 1
    assert label_map[12, 12] == 2
    assert label_map[30, 30] == 0
    assert label_map.dtype == np.uint8
    assert not pathology_mask([], CHEST.shape).any()


@settings(max_examples=60, deadline=None)
@given(x=st.integers(0, 50), y=st.integers(0, 50), w=st.integers(1, 40), h=st.integers(1, 40), width=st.floats(0, 30))
def test_feather_properties(x: int, y: int, w: int, h: int, width: float) -> None:
    region = np.zeros((64, 64), dtype=bool)
    region[y : y + h, x : x + w] = True
    alpha = feather(region, width)
    assert alpha.dtype == np.float32
    assert (alpha[~region] == 0.0).all()
    assert (alpha[region] > 0.0).all()
    assert alpha.max() == 1.0
    smaller = feather(region, width + 1.0)
    assert (smaller <= alpha + 1e-6).all()


def test_feather_rises_over_its_width_and_is_monotone() -> None:
    region = np.zeros((64, 64), dtype=bool)
    region[8:56, 8:56] = True
    profile = feather(region, 6.0)[32, 8:32]
    assert (np.diff(profile) >= 0).all()
    assert (profile[6:] == 1.0).all()
    assert 0 < profile[0] < 0.1
    assert profile[5] < 1.0
    assert np.array_equal(feather(region, 0.0), region.astype(np.float32))
    assert not feather(np.zeros_like(region), 4.0).any()


@given(
    low=st.tuples(st.floats(0, 60), st.floats(0, 60)),
    span=st.tuples(st.floats(0.1, 60), st.floats(0.1, 60)),
    factor=st.sampled_from([1, 4, 8, 16]),
)
def test_snapped_box_holds_the_box_and_lies_on_the_grid(
    low: tuple[float, float], span: tuple[float, float], factor: int
) -> None:
    box = (low[0], low[1], low[0] + span[0], low[1] + span[1])
    snapped = snap_outward(box, factor, 64)
    assert all(v % factor == 0 and 0 <= v <= 64 for v in snapped)
    for near, far, a, b in zip(box[:2], box[2:], snapped[:2], snapped[2:], strict=True):
        assert a <= max(0.0, near) + 1e-5
        assert b >= min(64.0, far) - 1e-5
        assert a > near - factor
        assert b < far + factor


def test_snapping_forgives_rounding() -> None:
    assert snap_outward((0.55 * 320, 0.1 * 320, 0.7 * 320, 0.3 * 320), 8, 320) == (176, 32, 224, 96)
