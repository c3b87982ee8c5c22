"""The gate on a real Ray: what is refused, drawn again and dropped does not depend on how many actors there are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.doubles.fake_backend import FakeImages
from xreal_synth.dataset.verify import verify
from xreal_synth.engine.ray_driver import generate
from xreal_synth.engine.schedule import Limits
from xreal_synth.run.setup import Run
from xreal_synth.storage import LocalStore

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("joined_ray")]

GATED = {
    "quality__profile": "standard",
    "quality__checks": json.dumps({"seam": {"action": "off"}, "change": {"action": "off"}}),
    "quality__max_attempts": 1,
}
BLANK = frozenset({(0, 0), (3, 0), (3, 1), (6, 0), (7, 0), (11, 0)})
"""Group 3 is dropped, the others have a second anatomy."""


@pytest.fixture(scope="module")
def made(
    open_fault_run: Callable[..., Run], joined_ray: object, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """The same recipe by one actor and by two."""
    folders = {actors: tmp_path_factory.mktemp(f"gated-{actors}") for actors in (1, 2)}
    for actors, folder in folders.items():
        run = open_fault_run(**GATED, compute__actors=actors)
        summary = generate(
            run, LocalStore(folder), backend=FakeImages(blank=BLANK), limits=Limits(tick_s=0.1, drain_s=60)
        )
        assert (summary.exit_code, summary.groups, summary.dropped, summary.rejected) == (0, 11, 1, 6)
        assert summary.gate is not None
        assert summary.gate.reasons == {"pixels.range": 6}
        assert sum(summary.gate.tried.values()) == sum(summary.gate.accepted.values()) + 6
    return folders


def test_actor_count_changes_neither_images_nor_verdicts(
    made: dict[int, Path], tar_hashes: Callable[[Path], dict[str, str]]
) -> None:
    assert tar_hashes(made[1]) == tar_hashes(made[2])
    for name in ("samples.parquet", "rejected.parquet"):
        assert pq.read_table(made[1] / name).equals(pq.read_table(made[2] / name)), name
    assert json.loads((made[1] / "index.json").read_text())["gate"]["reasons"] == {"pixels.range": 6}
    assert verify(LocalStore(made[2])).problems == ()


def test_proportions_are_the_plans_but_for_what_was_dropped(
    made: dict[int, Path], open_fault_run: Callable[..., Run]
) -> None:
    plan = open_fault_run(**GATED).plan
    for folder in made.values():
        table = pq.read_table(folder / "samples.parquet").to_pylist()
        rows = {row["group"]: row["row"] for row in table}
        assert rows == {group: plan.row(group) for group in range(12) if group != 3}
        assert Counter(row["attempt"] for row in table if row["group"] in (0, 6, 7, 11)).keys() == {1}
