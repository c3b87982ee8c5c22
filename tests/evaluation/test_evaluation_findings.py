"""AUC, F1 and rises against counts by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_auroc

from xreal_synth.evaluation.cases import Case
from xreal_synth.evaluation.findings import area, finding_figures, label_table, macro_f1
from xreal_synth.evaluation.intervals import Bootstrap
from xreal_synth.images.manifest import ImageRow
from xreal_synth.types import PlacedFinding


def single(count: int) -> Bootstrap:
    return Bootstrap([str(at) for at in range(count)], draws=200)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), levels=st.integers(2, 30))
def test_area_counts_pairs_with_ties_half(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, levels, 25) / levels, rng.integers(-1, 2, 25)
    labels[:2] = 0, 1
    won = [float(p > n) + 0.5 * float(p == n) for p in scores[labels == 1] for n in scores[labels == 0]]
    found = area(scores, labels, single(25))
    assert found.value == pytest.approx(np.mean(won))
    assert found.ci_low <= found.ci_high
    kept = labels >= 0
    library = binary_auroc(torch.from_numpy(scores[kept]), torch.from_numpy(labels[kept]))
    assert found.value == pytest.approx(float(library), abs=1e-6)


def test_area_needs_both_kinds() -> None:
    assert not area(np.arange(4.0), np.array([1, 1, 1, -1]), single(4)).known


def test_a_draw_of_one_patient_twice_counts_its_pairs_twice() -> None:
    scores, labels = np.array([0.9, 0.1, 0.5]), np.array([1, 1, 0])
    found = area(scores, labels, Bootstrap(["a", "b", "c"], draws=4000))
    # draws with both kinds: aac 1, bbc 0, abc and acc.. in between
    assert (found.value, found.ci_low, found.ci_high) == (0.5, 0.0, 1.0)


def test_macro_f1_by_hand() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, -1, 0]])
    logits = np.array([[2.0, 2, 2], [-1, 1, -1], [1, 1, -1], [-1, 5, -1]])
    first, second = 2 * 1 / (2 * 1 + 1 + 1), 2 * 2 / (2 * 2 + 1)
    assert macro_f1(logits, labels, single(4)).value == pytest.approx((first + second) / 2)


def test_rises_are_against_the_images_own_twin() -> None:
    shown = PlacedFinding("Pneumonia", "left", "any", "box", ((0, 0, 8, 8),))
    row, other = ImageRow(image="a", labels=("Pneumonia",)), replace(shown, name="Edema")
    cases = [*(Case(at, row, (shown,)) for at in range(3)), Case(3, ImageRow(), ()), Case(4, ImageRow(), (other,))]
    made = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]]).T
    twins = np.array([[0.0, 3.0, 1.0, 4.0, 4.0]]).T
    logits = (made, twins, np.zeros((5, 1)))
    figures, f1, f1_real = finding_figures(cases, ("Mass", "Pneumonia"), ("Pneumonia",), logits, single(5))
    assert list(figures) == ["Pneumonia"]
    assert (f1.value, f1_real.value) == (pytest.approx(2 * 3 / (5 + 3)), 0)
    found = figures["Pneumonia"]
    assert found.rises.value == pytest.approx(2 / 3)
    assert found.change.value == pytest.approx((1 - 1 + 2) / 3)
    assert (found.rises_unasked.value, found.rises_unasked.n) == (1.0, 1)
    assert (found.positives, found.auc_real.value) == (3, 0.5)


def test_labels_are_one_nought_or_unknown() -> None:
    table = label_table([(frozenset({"Edema"}), frozenset({"Mass"})), (frozenset(), frozenset())], ["Mass", "Edema"])
    assert table.tolist() == [[-1, 1], [0, 0]]
