"""Whatever is placed satisfies what was asked, on the box that is delivered; what cannot be says why."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doubles.schematic import schematic_mask
from xreal_synth.anatomy.label_map import organ_box
from xreal_synth.anatomy.regions import region_mask
from xreal_synth.errors import PlacementError
from xreal_synth.findings import FINDINGS, LEFT_LUNG, LUNGS, LUNGS_OF, REGIONS, RIGHT_LUNG
from xreal_synth.masks import bounding_box
from xreal_synth.planning.chest import Chest, Ground
from xreal_synth.planning.placement import place
from xreal_synth.planning.prior import Prior
from xreal_synth.recipe.findings import FindingLabel
from xreal_synth.seeds import stream
from xreal_synth.types import Mask, PixelBox, PlacedFinding, Side, Zone

CHEST = schematic_mask(256)
PRIOR = Prior.load()
CODE = {"left": LEFT_LUNG, "right": RIGHT_LUNG}
SIDES: tuple[Side, ...] = ("any", "left", "right", "both")
ZONES: tuple[Zone, ...] = ("any", "upper", "middle", "lower")
BOXED = sorted(name for name, finding in FINDINGS.items() if finding.region == "box")


def _place(
    anatomy: Mask = CHEST, *, seed: int = 0, factor: int = 8, overlap: float = 0.6, **label: object
) -> PlacedFinding:
    finding = FindingLabel.model_validate(label)
    ground = Ground(Chest(anatomy, ""), PRIOR, factor, overlap)
    return place(finding, ground, stream(seed, 0, 0, "boxes"))


def _share(anatomy: Mask, box: PixelBox, organ_codes: tuple[int, ...]) -> float:
    x0, y0, x1, y1 = box
    return float(np.isin(anatomy[y0:y1, x0:x1], organ_codes).mean())


def _size(anatomy: Mask, box: PixelBox, code: int) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) / float((anatomy == code).sum())


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    name=st.sampled_from(BOXED),
    side=st.sampled_from(SIDES),
    zone=st.sampled_from(ZONES),
    size=st.sampled_from([None, (0.05, 0.35), (0.2, 0.3), (0.02, 0.08)]),
    overlap=st.sampled_from([0.0, 0.4, 0.6]),
    layout=st.sampled_from([(256, 8), (64, 4), (128, 16)]),
)
def test_a_placed_box_has_all_that_was_asked(
    seed: int,
    name: str,
    side: Side,
    zone: Zone,
    size: tuple[float, float] | None,
    overlap: float,
    layout: tuple[int, int],
) -> None:
    pixels, factor = layout
    anatomy = schematic_mask(pixels, np.random.default_rng(seed % 97))
    try:
        placed = _place(anatomy, seed=seed, factor=factor, overlap=overlap, name=name, side=side, zone=zone, size=size)
    except PlacementError as error:
        reason = error.found
    else:
        _check(placed, anatomy, factor, FindingLabel(name=name, side=side, zone=zone, size=size), overlap)
        return
    assert f"{name}: no box" in reason
    assert "in 200 tries" in reason
    assert layout != (256, 8), "at this resolution every one of these can be placed"


def _check(placed: PlacedFinding, anatomy: Mask, factor: int, label: FindingLabel, overlap: float) -> None:
    side, zone, size, pixels = label.side, label.zone, label.size, anatomy.shape[0]
    lungs = ("left", "right") if side == "both" else (placed.side,)
    assert placed.region == "box"
    assert side in ("any", placed.side)
    assert len(placed.boxes) == len(lungs)
    for lung, box in zip(lungs, placed.boxes, strict=True):
        assert all(v % factor == 0 and 0 <= v <= pixels for v in box)
        assert _share(anatomy, box, (CODE[lung],)) >= overlap
        _, y0, _, y1 = organ_box(anatomy, CODE[lung])
        edges = [0, y0 + (y1 - y0) / 3, y0 + (y1 - y0) * 2 / 3, pixels]
        if zone != "any":
            k = ("upper", "middle", "lower").index(zone)
            inside = min(box[3], edges[k + 1]) - max(box[1], edges[k])
            assert inside >= 0.5 * (box[3] - box[1]) - 1e-6
            assert placed.zone == zone
        if size is not None:
            assert size[0] <= _size(anatomy, box, CODE[lung]) <= size[1]
    if side != "both":
        assert placed.size == pytest.approx(_size(anatomy, placed.boxes[0], CODE[placed.side]))
    region = region_mask(placed, anatomy)
    assert bounding_box(region) == placed.box_xyxy


def test_the_stream_decides() -> None:
    first = [_place(seed=i, name="Pneumonia") for i in range(20)]
    assert first == [_place(seed=i, name="Pneumonia") for i in range(20)]
    assert len(set(first)) > 15
    sides = Counter(placed.side for placed in first)
    assert set(sides) == {"left", "right"}


def test_sides_are_the_patients() -> None:
    left, right = (_place(name="Pneumonia", side=side) for side in ("left", "right"))
    assert left.box_xyxy[0] + left.box_xyxy[2] > 256 > right.box_xyxy[0] + right.box_xyxy[2]


def test_both_sides_share_one_placement() -> None:
    placed = _place(name="Pneumonia", side="both", size=(0.1, 0.3))
    assert placed.side == "both"
    assert placed.size is not None
    assert 0.1 <= placed.size <= 0.3
    assert placed.boxes[0][0] >= placed.boxes[1][2]


def test_heart_and_lung_findings_follow_the_organ() -> None:
    heart = _place(name="Cardiomegaly")
    assert (heart.region, heart.side, heart.zone, heart.size) == ("heart", "any", "any", None)
    assert np.array_equal(region_mask(heart, CHEST), REGIONS["heart"].mask(CHEST, "any", None))
    lungs = _place(name="Edema")
    assert (lungs.region, lungs.side) == ("lungs", "both")
    assert np.array_equal(region_mask(lungs, CHEST), REGIONS["lungs"].mask(CHEST, "both", None))
    assert region_mask(lungs, CHEST)[np.isin(CHEST, LUNGS)].all()
    assert all(v % 8 == 0 for v in heart.box_xyxy + lungs.box_xyxy)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    name=st.sampled_from(["Effusion", "Pneumothorax"]),
    side=st.sampled_from(SIDES),
    size=st.sampled_from([None, (0.05, 0.1), (0.2, 0.5)]),
)
def test_a_placed_shape_has_all_that_was_asked(
    seed: int, name: str, side: Side, size: tuple[float, float] | None
) -> None:
    anatomy = schematic_mask(256, np.random.default_rng(seed % 97))
    placed = _place(anatomy, seed=seed, name=name, side=side, size=size)
    low, high = size or FINDINGS[name].size
    region = region_mask(placed, anatomy)
    assert (placed.region, side in ("any", placed.side)) == (FINDINGS[name].region, True)
    assert low <= placed.size <= high
    inside = region[np.isin(anatomy, LUNGS_OF[placed.side])].mean()
    assert inside == pytest.approx(placed.size, abs=0.01)
    assert len(placed.boxes) == len(LUNGS_OF[placed.side])
    for box in placed.boxes:
        part = np.zeros_like(region)
        part[box[1] : box[3], box[0] : box[2]] = True
        x0, y0, x1, y1 = bounding_box(region & part)
        assert all(v % 8 == 0 for v in box)
        assert all(abs(a - b) < 8 for a, b in zip(box, (x0, y0, x1, y1), strict=True))


def test_a_box_over_the_whole_lung_is_in_no_zone() -> None:
    x0, y0, x1, y1 = (v / 256 for v in organ_box(CHEST, RIGHT_LUNG))
    third = (y1 - y0) / 3
    assert _place(name="Infiltration", box=(x0, y0, x1, y1), overlap=0.1).zone == "any"
    assert _place(name="Infiltration", box=(x0, y0, x1, y0 + 1.5 * third), overlap=0.1).zone == "upper"


def test_the_zone_of_a_shape_is_that_of_its_box() -> None:
    low = [_place(seed=i, name="Effusion", zone="lower", size=(0.05, 0.15)) for i in range(20)]
    assert {placed.zone for placed in low} == {"lower"}
    with pytest.raises(PlacementError, match=r"the lung's base .* lies in the upper zone in none of 8"):
        _place(name="Effusion", zone="upper")


def test_a_fixed_box_of_a_finding_with_a_shape_is_a_box() -> None:
    placed = _place(name="Effusion", box=(0.22, 0.60, 0.36, 0.75))
    assert (placed.region, placed.size, len(placed.boxes)) == ("box", None, 1)


def test_edema_can_be_one_sided() -> None:
    placed = _place(name="Edema", side="left")
    assert (placed.side, placed.region, len(placed.boxes)) == ("left", "lungs", 1)
    assert not region_mask(placed, CHEST)[CHEST == RIGHT_LUNG].any()


def test_a_fixed_box_is_snapped_outward() -> None:
    placed = _place(name="Pneumonia", box=(0.22, 0.40, 0.36, 0.55))
    assert placed.boxes == ((56, 96, 96, 144),)
    assert (placed.side, placed.zone, placed.size) == ("right", "middle", None)


def test_a_fixed_box_outside_the_organs_says_how_far() -> None:
    with pytest.raises(PlacementError) as caught:
        _place(name="Pneumonia", box=(0.0, 0.0, 0.1, 0.1))
    assert "has 0% of its area in the lungs" in caught.value.found
    assert "at least 60%" in caught.value.wanted
    assert _place(name="Pneumonia", box=(0.0, 0.0, 0.1, 0.1), overlap=0.0).boxes == ((0, 0, 32, 32),)


def test_what_cannot_be_placed_says_why() -> None:
    with pytest.raises(PlacementError) as caught:
        _place(name="Pneumonia", side="left", zone="lower", overlap=1.0, size=(0.9, 1.0))
    assert "no box of 0.9 to 1 of the left lung's area with at least 100% of its area" in caught.value.found
    assert "in the left lung's lower zone in 200 tries" in caught.value.found
    with pytest.raises(PlacementError, match="nor box with at least 100%") as either:
        _place(schematic_mask(64), factor=32, name="Nodule", overlap=1.0)
    assert "left lung" in either.value.found
    assert "right lung" in either.value.found


def test_a_size_below_the_latent_grid_names_the_smallest_box() -> None:
    with pytest.raises(PlacementError, match=r"smallest box, 4x4 px, is 0\.0"):
        _place(schematic_mask(64), factor=4, name="Nodule", side="left", size=(0.005, 0.01))
