"""Throughput of one, two and four actors whose model only sleeps: what the engine itself loses."""

from __future__ import annotations

import os

import pytest

from xreal_synth.engine.chaos.ray_scale import measure_scale

pytestmark = [pytest.mark.ray, pytest.mark.slow]


LEAST = 0.8
"""With shards of 3 s on two cores that also run Ray and the tests; `bench scale` with longer ones tells what the
engine itself loses."""
BUSY = os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1)


@pytest.mark.skipif(
    BUSY, reason="others keep this machine busy: actors would wait for a core, not for the engine"
)
def test_four_actors_are_nearly_four_times_one(joined_ray, tmp_path):
    rows = measure_scale(
        [1, 2, 4], tmp_path, shards_per_actor=4, shard_s=3.0, address=joined_ray.address
    )  # fmt: skip
    assert [row.shards for row in rows] == [4, 8, 16]
    assert rows[0].seconds > 4 * 3.0
    assert all(row.linear >= LEAST for row in rows), rows
