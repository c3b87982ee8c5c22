"""The plan: constant-time draws that no other group, attempt or sample count moves."""

from __future__ import annotations

import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xreal_synth.anatomy.sources import AnatomySource, BankSource
from xreal_synth.errors import PlacementError, RecipeError
from xreal_synth.models.describe import describe
from xreal_synth.planning.build import Geometry, Plan
from xreal_synth.planning.labels import labels_of
from xreal_synth.planning.prior import Prior
from xreal_synth.planning.probe import probe
from xreal_synth.recipe.load import recipe_from_text
from xreal_synth.types import SampleSpec

TEXT = """\
version: 1
name: tiny
seed: 5
anatomies: 10
bundle: xreal-tiny
findings:
  - {weight: 1, labels: []}
  - {weight: 1, labels: [{name: Pneumonia}]}
  - {weight: 1, labels: [{name: Pneumonia, box: [0.16, 0.35, 0.38, 0.60]}]}
  - {weight: 1, labels: [{name: Effusion, side: right, zone: lower}, {name: Atelectasis}]}
output: {uri: out/tiny, shard_samples: 4}
"""

Make = Callable[..., Plan]


@pytest.fixture
def make(ellipses: AnatomySource) -> Make:
    def build(*overrides: str, source: AnatomySource = ellipses, seed: int = 5) -> Plan:
        recipe = recipe_from_text(TEXT, "r.yaml", [f"seed={seed}", *overrides])
        return Plan(recipe, Geometry(64, 4), source, Prior.load())

    return build


def same(a: SampleSpec, b: SampleSpec) -> bool:
    fields: Any = ("index", "attempt", "row", "split", "anatomy_id", "ctr", "members")
    return bool((a.anatomy == b.anatomy).all()) and all(getattr(a, f) == getattr(b, f) for f in fields)


def test_shards_cover_the_groups_once(make: Make) -> None:
    plan = make()
    shards = [plan.shard(k) for k in range(plan.shard_count)]
    assert [(shard.start, shard.stop) for shard in shards] == [(0, 4), (4, 8), (8, 10)]
    assert shards[2].stem == "tiny-000002"
    assert make("output.shard_samples=auto", "anatomies=65").shard_count == 2


def test_a_full_shard_holds_each_row_once(make: Make) -> None:
    plan = make("anatomies=400")
    for k in range(plan.shard_count):
        rows = [plan.row(i) for i in range(plan.shard(k).start, plan.shard(k).stop)]
        assert sorted(rows) == [0, 1, 2, 3]
    assert len({tuple(plan.row(4 * k + i) for i in range(4)) for k in range(100)}) > 15


@settings(max_examples=25, deadline=None)
@given(index=st.integers(0, 9), more=st.integers(10, 10**9), seed=st.integers(0, 2**63 - 1))
def test_raising_samples_moves_no_earlier_group(index: int, more: int, seed: int) -> None:
    class Flat:
        source_name = "bank"

        def draw(self, rng: np.random.Generator, size: int) -> tuple[Any, str]:
            mask = np.zeros((size, size), dtype=np.uint8)
            mask[8:56, 6:26], mask[8:56, 38:58], mask[36:46, 26:44] = 2, 1, 3
            return np.roll(mask, int(rng.integers(-2, 3)), axis=0), "flat"

    def plan(samples: int) -> Plan:
        recipe = recipe_from_text(TEXT, "r.yaml", [f"seed={seed}", f"anatomies={samples}", "split.val=0.5"])
        return Plan(recipe, Geometry(64, 4), Flat(), Prior.load())

    assert same(plan(10).sample(index, 0), plan(more).sample(index, 0))


def test_the_order_of_asking_does_not_matter(make: Make) -> None:
    forward, backward = make(), make()
    specs = [forward.sample(i, 0) for i in range(10)]
    again = [backward.sample(i, 0) for i in reversed(range(10))][::-1]
    assert all(same(a, b) for a, b in zip(specs, again, strict=True))
    assert not (specs[0].anatomy == specs[1].anatomy).all()


def test_members_and_keys(make: Make) -> None:
    keys: dict[tuple[bool, int], set[tuple[str, ...]]] = {}
    for twin in (True, False):
        plan = make(f"pairs.twin={str(twin).lower()}", "pairs.variants=2")
        for spec in (plan.sample(i, 0) for i in range(4)):
            names = tuple(member.name for member in spec.members)
            keys.setdefault((twin, len(plan.recipe.findings[spec.row].labels)), set()).add(names)
            assert all(m.key == f"{spec.index:010d}-{m.name}" for m in spec.members)
            assert all(bool(m.findings) == (m.name != "h") for m in spec.members)
    assert keys[True, 0] == keys[False, 0] == {("h",)}
    assert keys[True, 1] == keys[True, 2] == {("h", "v0", "v1")}
    assert keys[False, 1] == keys[False, 2] == {("v0", "v1")}


def test_variants_share_the_anatomy_and_have_boxes_of_their_own(make: Make) -> None:
    plan = make("pairs.variants=3", "anatomies=40")
    drawn = [plan.sample(i, 0) for i in range(40) if plan.row(i) == 1]
    assert len({m.findings[0].boxes for spec in drawn for m in spec.members}) > len(drawn)
    fixed = [plan.sample(i, 0) for i in range(40) if plan.row(i) == 2]
    assert {m.findings[0].boxes for spec in fixed for m in spec.members} == {((8, 20, 28, 40),)}


def test_first_attempts_share_anatomy_and_boxes_later_ones_draw_anew(make: Make) -> None:
    plan = make("quality.max_attempts=2")
    index = next(i for i in range(4) if plan.row(i) == 1)
    specs = [plan.sample(index, attempt) for attempt in plan.attempts]
    assert [spec.attempt for spec in specs] == [0, 1, 2, 3]
    assert specs[0].members == specs[1].members
    assert (specs[0].anatomy == specs[1].anatomy).all()
    assert len({spec.anatomy.tobytes() for spec in specs}) == 3
    assert {spec.row for spec in specs} == {1}


def test_splits_follow_the_group_and_their_shares(make: Make) -> None:
    plan = make("split={val: 0.2, test: 0.1}", "anatomies=4000")
    counts = Counter(plan.split(i) for i in range(4000))
    assert counts["val"] == pytest.approx(800, abs=110)
    assert counts["test"] == pytest.approx(400, abs=85)
    wider = make("split={val: 0.2, test: 0.1}", "anatomies=4000", "findings[0].weight=9")
    assert all(plan.split(i) == wider.split(i) for i in range(200))
    assert {make().split(i) for i in range(50)} == {"train"}


def test_findings_of_one_image_are_kept_apart(make: Make) -> None:
    row = "findings=[{weight: 1, labels: [{name: Pneumonia, side: left}, {name: Infiltration, side: left}]}]"
    plan = make(row, "anatomies=40")
    hidden = 0
    for index in range(40):
        first, second = plan.sample(index, 0).members[0].findings
        a, b = first.boxes[0], second.boxes[0]
        shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        hidden += shared > 0.5 * (a[2] - a[0]) * (a[3] - a[1])
    assert hidden <= 6


def test_a_box_outside_the_organs_names_its_place_in_the_recipe(make: Make) -> None:
    plan = make("findings[2].labels[0].box=[0.0, 0.0, 0.1, 0.1]")
    index = next(i for i in range(4) if plan.row(i) == 2)
    with pytest.raises(PlacementError, match=r"findings\[2\]\.labels\[0\]\.box"):
        plan.sample(index, 0)
    report = probe(plan)
    assert [row.placeable for row in report.rows] == [1.0, 1.0, 0.0, 1.0]
    with pytest.raises(RecipeError, match=r"findings\[2\]\.labels\[0\]\.box[\s\S]*min_overlap") as caught:
        report.require_placeable("r.yaml")
    assert len(caught.value.problems) == 1


def test_the_probe_counts_what_the_plan_makes(make: Make) -> None:
    plan = make("pairs.twin=true", "pairs.variants=2")
    report = probe(plan)
    report.require_placeable()
    made = Counter[str]()
    for spec in (plan.sample(i, 0) for i in range(10)):
        made["images"] += len(spec.members)
        made["groups", spec.row] += 1  # type: ignore[index]
        made["Pneumonia"] += sum(any(f.name == "Pneumonia" for f in m.findings) for m in spec.members)
    assert report.images == made["images"]
    assert (report.samples, report.shards, report.probed) == (10, 3, 10)
    assert [row.groups for row in report.rows] == [made["groups", r] for r in range(4)]  # type: ignore[index]
    table = {(one.label_set, one.label): one for one in report.labels}
    assert table["txrv18", "Pneumonia"].positive == made["Pneumonia"]
    assert all(one.positive + one.negative + one.unknown == pytest.approx(made["images"]) for one in report.labels)
    assert all(row.tried >= 8 for row in report.rows)


def test_large_hearts_make_cardiomegaly_unknown_in_the_probe(make: Make, large_hearts: AnatomySource) -> None:
    plan = make(source=large_hearts)
    assert plan.sample(0, 0).ctr > 0.5
    report = probe(plan)
    assert report.large_hearts == 1.0
    table = {(one.label_set, one.label): one for one in report.labels}
    assert table["chexpert14", "Cardiomegaly"].unknown == report.images
    assert table["chexpert14", "No Finding"].positive == 0


def test_a_bank_heart_agrees_with_what_its_group_shows(make: Make) -> None:
    bank = BankSource(describe("xreal-tiny").root / "anatomy_bank")
    plan = make(
        "anatomies=60", "findings[1].labels=[{name: Cardiomegaly}]", "findings[2].labels=[{name: Edema}]", source=bank
    )
    shown = {plan.row(i): [] for i in range(4)}
    for index in range(60):
        spec = plan.sample(index, 0)
        shown[spec.row].append(spec.ctr)
        for member in spec.members:
            labels = labels_of([finding.name for finding in member.findings], "negative", spec.ctr)
            assert None not in labels["chexpert14"].values() or (spec.row == 1 and member.name == "h")
    assert min(shown.pop(1)) >= 0.55
    assert max(ratio for ratios in shown.values() for ratio in ratios) <= 0.5
    table = {(one.label_set, one.label): one for one in probe(plan).labels}
    assert table["txrv18", "Cardiomegaly"].unknown == probe(plan).rows[1].groups * plan.recipe.pairs.twin


def test_a_billion_groups_plan_in_constant_time_and_space(make: Make) -> None:
    plan = make("anatomies=1000000000", "output.shard_samples=10000", "findings[0].weight=1.37")
    tracemalloc.start()
    begun = time.perf_counter()
    report = probe(plan, budget_s=0.2)
    plan.sample(999_999_999, 0)
    spent, (_, peak) = time.perf_counter() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.shards == 100_000
    assert sum(row.groups for row in report.rows) == pytest.approx(1e9)
    assert peak < 50e6
    assert spent < 20
