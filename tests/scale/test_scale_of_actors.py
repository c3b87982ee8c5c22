"""Throughput of one actor and of four whose model only sleeps: what the engine itself loses."""

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
"""For what the tests before this one have left to end."""


def busy() -> bool:
    return os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1)


def calm() -> bool:
    """Whether the machine is left to this test, after a while: half of its time at least is nobody's."""
    deadline = time.monotonic() + CALM_S
    while not (left := idle_share(2.0) > 0.5) and time.monotonic() < deadline:
        pass
    return left


def idle_share(seconds: float) -> float:
    """The part of all cores' time that nobody takes, over some seconds."""
    before = processor_times()
    time.sleep(seconds)
    passed = [now - then for now, then in zip(processor_times(), before, strict=True)]
    return passed[3] / sum(passed)


def processor_times() -> list[int]:
    """Of all cores, by what they did; the fourth is idle."""
    return [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]


def test_four_actors_are_nearly_four_times_one(joined_ray: LocalCluster, tmp_path: Path) -> None:
    left_alone = calm()
    found = list[float]()
    while len(found) < TRIES and max(found, default=0.0) < LEAST:
        rows = measure_scale(
            [1, 4], tmp_path / str(len(found)), shards_per_actor=4, shard_s=3.0, address=joined_ray.address
        )
        assert [row.shards for row in rows] == [4, 16]
        assert rows[0].seconds > 4 * 3.0
        found.append(min(row.linear for row in rows))
    if max(found) < LEAST and (busy() or not left_alone):
        pytest.skip(f"others keep this machine busy: {found}")
    assert max(found) >= LEAST, found
