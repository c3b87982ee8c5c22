"""`make faults`: what clusters do to a run, done to a real Ray of this machine with nodes of its own.

Actors, nodes and drivers are killed, disks filled, files cut, shards poisoned; images are drawn without networks.
After each fault the dataset must be whole, byte for byte that of an undisturbed run, and the exit code as documented.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.doubles.local_cluster import LocalCluster
from tests.faults import on_actors, on_datasets, on_drivers, on_nodes, on_storage  # noqa: F401
from tests.faults.bed import Bed, Seen
from tests.faults.table import FAULTS, Fault

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def bed(joined_ray: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Bed:
    return Bed(joined_ray, tmp_path_factory.mktemp("faults"))


def test_the_table_is_whole() -> None:
    assert len(FAULTS) == 28


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(fault: Fault, bed: Bed, record_property: Callable[[str, object], None]) -> None:
    seen, seconds = fault.tried(bed)
    after = "" if seen.detected_s is None else f"{seen.detected_s:.1f} s"
    record_property("row", [fault.name, after, seen.retried, seen.exit_code, f"{seconds:.1f} s", fault.follows])
    assert seen.wrong == []
    assert seen.bytes_equal


def test_the_table_finds_what_is_wrong(bed: Bed) -> None:
    """A run that leaves a shard with other bytes, one too few and one that verify does not like, is a failed row."""

    def trial(bed: Bed) -> Seen:
        out = bed.output()
        bed.drive(out)
        (out / "shards/chaos-000001.tar").write_bytes(b"other")
        (out / "records/chaos-000002.json").unlink()
        seen = Seen(0)
        bed.check(seen, out)
        return seen

    seen, _ = Fault("sabotage", "", "", 75, trial).tried(bed)
    assert not seen.bytes_equal
    assert seen.lost == 1
    assert any("exit code 0, documented 75" in wrong for wrong in seen.wrong)
    assert any("chaos-000001.tar" in wrong for wrong in seen.wrong)
    assert any("verify" in wrong for wrong in seen.wrong)
