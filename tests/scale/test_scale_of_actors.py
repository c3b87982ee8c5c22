"""Throughput of one, two and four actors whose model only sleeps: what the engine itself loses."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.doubles.local_cluster import LocalCluster
from tests.scale.actors import measure_scale

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.alone]


LEAST = 0.97
"""Of linear. What else runs on this machine only takes away: the best of a few measurements tells of the engine."""
TRIES = 3


CALM_S = 30
"""For the load of the tests before this one to fade from the average of a minute."""


def busy() -> bool:
    return os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1)


def calm() -> bool:
    """Whether the machine is left to this test, after a while."""
    deadline = time.monotonic() + CALM_S
    while busy() and time.monotonic() < deadline:
        time.sleep(1)
    return not busy()


def test_four_actors_are_nearly_four_times_one(joined_ray: LocalCluster, tmp_path: Path) -> None:
    left_alone = calm()
    found = list[float]()
    while len(found) < TRIES and max(found, default=0.0) < LEAST:
        rows = measure_scale(
            [1, 2, 4], tmp_path / str(len(found)), shards_per_actor=4, shard_s=3.0, address=joined_ray.address
        )
        assert [row.shards for row in rows] == [4, 8, 16]
        assert rows[0].seconds > 4 * 3.0
        found.append(min(row.linear for row in rows))
    if max(found) < LEAST and (busy() or not left_alone):
        pytest.skip(f"others keep this machine busy: {found}")
    assert max(found) >= LEAST, found
