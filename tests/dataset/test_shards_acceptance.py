"""What the gate did: counted from images and refused attempts, kept in record, index and summary, summed up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from tests.doubles.fakes import fake_groups, fake_head, publish_fakes
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import open_dataset
from xreal_synth.dataset.record import added, count_acceptance, read_record
from xreal_synth.dataset.table import read_rejected
from xreal_synth.dataset.verify import verify
from xreal_synth.storage import LocalStore
from xreal_synth.types import Acceptance, ImageQuality, Rejected, Sample, ShardPlan

REJECTED = (
    Rejected(1, 0, 1, "does not fit", False, findings=("Pneumonia",)),
    Rejected(1, 3, 1, "heart .4", False, "organs.heart", "v0", ("Pneumonia",), (("organs.heart", 0.4),)),
)


def judged(flag: int) -> list[Sample]:
    """Groups 0 to 3; the image of group `flag` is flagged."""
    quality = ImageQuality("standard", {"organs.heart": 0.75, "pixels.blur": 0.5}, ())
    return [
        replace(
            sample,
            meta=replace(
                sample.meta, quality=replace(quality, flags=("pixels.blur",) if sample.meta.group == flag else ())
            ),
        )
        for sample in fake_groups(0, 4)
    ]


def test_groups_count_once_for_each_finding_and_placement_is_not_a_try() -> None:
    metas = [sample.meta for sample in judged(flag=2)]
    found = count_acceptance(metas, REJECTED)
    assert found == Acceptance(
        tried={"Effusion": 1, "No Finding": 2, "Pneumonia": 2},
        accepted={"Effusion": 1, "No Finding": 2, "Pneumonia": 1},
        reasons={"organs.heart": 1, "placement": 1},
        flags={"pixels.blur": 2},
    )
    assert added(None, None) is None
    assert added(None, found) == added(found, None) == found
    twice = added(found, found)
    assert twice is not None
    assert twice.tried["Pneumonia"] == 4


def test_record_tables_index_and_summary_tell_what_the_gate_did(tmp_path: Path) -> None:
    store, head = LocalStore(tmp_path), fake_head()
    open_dataset(store, head, "", lambda there, here: [])
    publish_fakes(store, ShardPlan(head.name, 0, 0, 4), judged(flag=2), REJECTED, gated=True)
    summary = finish(store, head)
    record = read_record(store, f"{head.name}-000000")
    assert record is not None
    assert record.gate is not None
    assert summary.gate == record.gate
    index = json.loads(store.read_bytes("index.json"))
    assert index["gate"]["reasons"] == {"organs.heart": 1, "placement": 1}
    assert index["shards"][0]["rejected"] == 2
    table = pq.read_table(tmp_path / "samples.parquet")
    assert set(table.column("quality.organs.heart").to_pylist()) == {0.75}
    assert table.column("quality.flags").to_pylist().count(["pixels.blur"]) == 2
    assert record.rejects is not None
    assert tuple(read_rejected(store.read_bytes(record.rejects.path), "rejects")) == REJECTED
    assert verify(store).problems == ()
