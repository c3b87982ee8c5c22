"""Ray's calls with many actors that a few processes play."""

from __future__ import annotations

import pytest

from tests.doubles.local_cluster import LocalCluster
from tests.scale.played import measure_played

pytestmark = [pytest.mark.ray]


def test_played_actors_make_every_shard(joined_ray: LocalCluster) -> None:
    seen = list[int]()
    row = measure_played(24, 0.2, 3, 1, lambda done, total: seen.append(done))
    assert seen == list(range(1, 73))
    assert (row.actors, row.shards) == (24, 24)
    assert 0 < row.busy <= 1
    assert 0 < row.loop_us < row.process_us
    assert row.limit_per_s == pytest.approx(1e6 / row.loop_us)
