"""The fault table of `bench chaos`, row by row, on the tests' Ray head with nodes of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from xreal_synth.engine.chaos.table import FAULTS, Fault, chosen, tried
from xreal_synth.errors import XrealError

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def bed(joined_ray, tmp_path_factory) -> Iterator:
    from xreal_synth.engine.chaos.bed import Bed

    yield Bed(joined_ray, tmp_path_factory.mktemp("chaos"))
    joined_ray.remove_nodes()


@pytest.mark.parametrize("fault", chosen([]), ids=lambda fault: fault.name)
def test_fault(fault: Fault, bed):
    row = tried(fault, bed)
    assert row.wrong == ()
    assert row.bytes_equal
    assert (row.lost, row.doubled, row.exit_code) == (0, 0, fault.exit_code)


def test_the_table_finds_what_is_wrong(bed):
    """A run that leaves a shard with other bytes, one too few and one that verify does not like, is a failed row."""
    from xreal_synth.engine.chaos.bed import Seen

    def trial(bed):
        out = bed.output()
        bed.drive(out)
        (out / "shards/chaos-000001.tar").write_bytes(b"other")
        (out / "records/chaos-000002.json").unlink()
        seen = Seen(0)
        bed.check(seen, out)
        return seen

    row = tried(Fault("sabotage", "", "", 75, trial), bed)
    assert not row.ok
    assert not row.bytes_equal
    assert row.lost == 1
    assert any("exit code 0, documented 75" in wrong for wrong in row.wrong)
    assert any("chaos-000001.tar" in wrong for wrong in row.wrong)
    assert any("verify" in wrong for wrong in row.wrong)


def test_unknown_fault_is_named():
    with pytest.raises(XrealError, match="no fault meteor"):
        chosen(["actor-killed", "meteor"])
    assert [fault.name for fault in chosen(["disk-full", "actor-killed"])] == ["actor-killed", "disk-full"]
    assert json.dumps(list(FAULTS))
