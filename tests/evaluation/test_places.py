"""Peaks in boxes, and their mean over findings, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from xreal_synth.evaluation.cases import Case
from xreal_synth.evaluation.findings import PEAK_SIDE, hit_table, mean_share, place_figures
from xreal_synth.evaluation.intervals import Bootstrap
from xreal_synth.images.manifest import ImageBox, ImageRow
from xreal_synth.types import PlacedFinding


def peak(x: int, y: int) -> int:
    return y * PEAK_SIDE + x


def test_a_peak_hits_a_box_that_its_cell_touches() -> None:
    box = (0.25, 0.5, 0.375, 0.75)  # cells 16 to 23 across, 32 to 47 down
    at = np.asarray([[peak(16, 32)], [peak(23, 47)], [peak(24, 40)], [peak(20, 31)]])
    assert hit_table(at, [[[box]]] * 4)[:, 0].tolist() == [1, 1, 0, 0]
    assert hit_table(at[2:3], [[[box, (0.37, 0.6, 0.38, 0.7)]]]).tolist() == [[1]]
    assert np.isnan(hit_table(at[:1], [[[]]])).all()


def test_the_mean_over_findings_weighs_each_alike() -> None:
    hits = np.asarray([[1.0, np.nan], [1.0, np.nan], [1.0, np.nan], [0.0, 0.0]])
    found = mean_share(hits, Bootstrap(["a", "b", "c", "d"], draws=200))
    assert found.value == pytest.approx((3 / 4 + 0) / 2)
    assert found.n == 4


def test_figures_of_what_was_asked_and_of_real_boxes() -> None:
    """Images of 64 pixels; Mass is asked for but has no real box, Edema is unknown to the locator."""
    row = ImageRow(image="a", labels=("Pneumonia",), boxes=(ImageBox("Pneumonia", (0.5, 0.5, 0.75, 0.75)),))
    asked = (
        PlacedFinding("Pneumonia", "left", "any", "box", ((0, 0, 8, 8),)),
        PlacedFinding("Mass", "left", "any", "box", ((8, 8, 16, 16),)),
    )
    cases = [Case(0, row, asked), Case(1, ImageRow(image="b"), ())]
    placed = ("Mass", "Pneumonia", "Nodule")
    shown = np.asarray([[peak(40, 40), peak(4, 4), 0], [0, 0, 0]])
    real = np.asarray([[0, peak(40, 40), 0], [0, 0, 0]])
    found, mean = place_figures(
        cases, ("Pneumonia", "Edema", "Mass"), placed, (shown, real, real), 64, Bootstrap(["a", "b"], draws=50)
    )
    assert list(found) == ["Pneumonia", "Mass"]
    pneumonia = found["Pneumonia"]
    assert [one.value for one in (pneumonia.asked, pneumonia.twin, pneumonia.real)] == [1, 0, 1]
    assert (found["Mass"].asked.value, found["Mass"].real.known) == (0, False)
    assert mean is not None
    assert mean.asked.value == 1
    assert place_figures(cases, ("Edema",), placed, (shown, real, real), 64, Bootstrap(["a", "b"])) == ({}, None)
