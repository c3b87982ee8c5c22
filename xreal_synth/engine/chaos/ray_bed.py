"""A bed on a cluster of its own, for the command line."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from xreal_synth.engine.chaos.bed import Bed
from xreal_synth.engine.chaos.ray_cluster import local_cluster

HEAD_CPUS = 3


@contextmanager
def own_bed(cpus: int = HEAD_CPUS) -> Iterator[Bed]:
    """Starts a head on loopback, joins it, and ends it with all that was started; datasets go with it."""
    with tempfile.TemporaryDirectory(prefix="xreal-chaos-") as folder, local_cluster(cpus) as cluster:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        yield Bed(cluster, Path(folder))
