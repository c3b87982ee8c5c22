"""Rows stand in exact proportion in every prefix, in random order, without bias."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xreal_synth.planning.proportions import RowSequence

_weights = st.lists(
    st.integers(1, 20) | st.floats(0.01, 10.0) | st.sampled_from([5e-324, 1e-300, 1e-9, 1e9, 1e300, 1 / 3]),
    min_size=1,
    max_size=8,
)


def row_sequence(weights: list[float], n: int, rng: np.random.Generator) -> list[int]:
    sequence = RowSequence(weights, n, rng)
    return [sequence.row(slot) for slot in range(n)]


def check_prefixes(weights: list[float], rows: list[int]) -> None:
    total = sum(map(Fraction, weights))
    shares = [Fraction(weight) / total for weight in weights]
    counts = [0] * len(weights)
    for length, row in enumerate(rows, 1):
        counts[row] += 1
        assert all(abs(c - length * share) < 1 for c, share in zip(counts, shares, strict=True))


@settings(max_examples=60, deadline=None)
@given(_weights, st.integers(0, 80), st.integers(0, 2**32))
def test_every_prefix_is_within_one_of_its_share(weights: list[float], n: int, seed: int) -> None:
    rows = row_sequence(weights, n, np.random.default_rng(seed))
    assert len(rows) == n
    check_prefixes(weights, rows)


@pytest.mark.parametrize("weights", [[4, 4, 1, 1], [0.1] * 10, [1000, 1], [0.7, 0.2, 0.33, 0.01]])
def test_long_shards(weights: list[float]) -> None:
    rows = row_sequence(weights, 600, np.random.default_rng(0))
    check_prefixes(weights, rows)
    assert rows != row_sequence(weights, 600, np.random.default_rng(1))


def test_the_order_is_random() -> None:
    orders = {tuple(row_sequence([1, 1, 1], 3, np.random.default_rng(seed))) for seed in range(100)}
    assert len(orders) == 6


def test_each_row_has_its_share_of_every_slot() -> None:
    weights, slots, draws = [5.0, 3.0, 1.5, 0.5], 7, 3000
    counts = [Counter[int]() for _ in range(slots)]
    for seed in range(draws):
        for slot, row in enumerate(row_sequence(weights, slots, np.random.default_rng(seed))):
            counts[slot][row] += 1
    for slot in range(slots):
        for row, weight in enumerate(weights):
            share = weight / 10
            assert abs(counts[slot][row] / draws - share) < 5 * (share * (1 - share) / draws) ** 0.5


def test_rows_can_be_asked_for_in_any_order() -> None:
    whole = row_sequence([3, 2, 1], 50, np.random.default_rng(4))
    lazy = RowSequence([3, 2, 1], 50, np.random.default_rng(4))
    assert [lazy.row(slot) for slot in (30, 2, 49, 30)] == [whole[slot] for slot in (30, 2, 49, 30)]
