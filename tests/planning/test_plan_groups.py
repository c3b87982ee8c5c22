"""Groups of several images: shams in exact shares, variants of several kinds, findings apart by rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xreal_synth.anatomy.regions import region_mask
from xreal_synth.anatomy.sources import AnatomySource
from xreal_synth.errors import PlacementError, RecipeError
from xreal_synth.planning.build import Geometry, Plan
from xreal_synth.planning.prior import Prior
from xreal_synth.planning.probe import probe
from xreal_synth.planning.proportions import Sequences
from xreal_synth.recipe.load import recipe_from_text

TEXT = """\
version: 1
name: groups
seed: 5
anatomies: 12
bundle: xreal-tiny
findings:
  - {weight: 1, labels: []}
  - {weight: 1, labels: [{name: Pneumonia}]}
  - weight: 2
    variants:
      - {labels: [{name: Effusion, side: right, zone: lower}]}
      - {labels: [{name: Pneumonia, side: left}, {name: Atelectasis, side: right}]}
      - {labels: [{name: Mass, box: [0.16, 0.35, 0.38, 0.60]}]}
pairs: {twin: true, sham: 0.5}
output: {uri: out/groups, shard_samples: 8}
"""
TWO = "findings=[{weight: 1, labels: [{name: Pneumonia, side: left}, {name: Infiltration, side: left}]}]"

Make = Callable[..., Plan]


@pytest.fixture
def make(ellipses: AnatomySource) -> Make:
    def build(*overrides: str) -> Plan:
        return Plan(recipe_from_text(TEXT, "r.yaml", overrides), Geometry(64, 4), ellipses, Prior.load())

    return build


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    share=st.floats(0, 1),
    weights=st.lists(st.floats(0.01, 100), min_size=2, max_size=4),
    size=st.integers(1, 40),
    shard=st.integers(0, 10**6),
)
def test_shams_are_exact_in_every_prefix_of_a_shard(
    seed: int, share: float, weights: list[float], size: int, shard: int
) -> None:
    """Each row is within one group of its share, and its shams within one of their share of its groups."""
    rows = [f"{{weight: {weight}, labels: {'[{name: Mass}]' if i else '[]'}}}" for i, weight in enumerate(weights)]
    recipe = recipe_from_text(
        TEXT, "r.yaml",
        [f"findings=[{', '.join(rows)}]", f"seed={seed}", f"pairs.sham={share}", f"output.shard_samples={size}"],
    )  # fmt: skip
    sequences, met, shams = Sequences(recipe), Counter[int](), Counter[int]()
    for slot in range(size):
        row = sequences.row(shard * size + slot)
        met[row] += 1
        shams[row] += sequences.sham(shard * size + slot)
        assert abs(met[row] - (slot + 1) * weights[row] / sum(weights)) < 1 + 1e-9
        assert shams[0] == 0
        assert all(abs(shams[row] - share * met[row]) < 1 + 1e-9 for row in range(1, len(weights)))
    again = Sequences(recipe)
    backwards = [again.sham(shard * size + slot) for slot in reversed(range(size))]
    assert backwards[::-1] == [sequences.sham(shard * size + slot) for slot in range(size)]


def test_which_groups_have_a_sham_is_no_pattern(make: Make) -> None:
    plan = make("anatomies=4000")
    sick = [index for index in range(4000) if plan.row(index)]
    has = [plan.sham(index) for index in sick]
    assert sum(has) == pytest.approx(len(sick) / 2, abs=30)
    pairs = Counter(pairwise(has))
    assert min(pairs.values()) > 300
    assert {plan.sham(index) for index in range(4000) if not plan.row(index)} == {False}


@pytest.mark.parametrize(("share", "wanted"), [(0.0, {False}), (1.0, {True})])
def test_no_sham_or_one_for_all(make: Make, share: float, wanted: set[bool]) -> None:
    plan = make(f"pairs.sham={share}", "anatomies=40")
    assert {plan.sham(index) for index in range(40) if plan.row(index)} == wanted


def test_rows_and_boxes_do_not_depend_on_shams(make: Make) -> None:
    """Adding shams adds images: the others keep anatomy, rows and boxes."""
    with_shams, without = make("pairs.sham=1"), make("pairs.sham=0")
    for index in range(12):
        ours, theirs = with_shams.sample(index, 0), without.sample(index, 0)
        assert [member for member in ours.members if member.name != "s0"] == list(theirs.members)
        assert (ours.anatomy == theirs.anatomy).all()


def test_a_sham_stands_where_the_first_variant_has_its_findings(make: Make) -> None:
    plan = make("pairs.sham=1", "pairs.variants=2")
    for spec in (plan.sample(index, 0) for index in range(12)):
        by_name = {member.name: member for member in spec.members}
        row = plan.recipe.findings[spec.row]
        images = 2 * len(row.kinds) if row.paints else 0
        assert list(by_name) == ["h", *(f"v{i}" for i in range(images)), *(["s0"] if row.paints else [])]
        if row.paints:
            assert by_name["s0"].sham == by_name["v0"].findings
            assert not by_name["s0"].findings
            assert by_name["s0"].key == f"{spec.index:010d}-s0"


def test_variants_of_one_anatomy_differ_in_finding_and_place(make: Make) -> None:
    plan = make("pairs.variants=2")
    spec = next(spec for spec in (plan.sample(index, 0) for index in range(12)) if spec.row == 2)
    shown = {member.name: member.findings for member in spec.members if member.name[0] == "v"}
    assert [[finding.name for finding in findings] for findings in shown.values()] == 2 * [
        ["Effusion"], ["Pneumonia", "Atelectasis"], ["Mass"],
    ]  # fmt: skip
    assert shown["v0"] != shown["v3"]
    assert shown["v2"][0].boxes == shown["v5"][0].boxes == ((8, 20, 28, 40),)
    assert {shown[name][0].side for name in ("v0", "v3")} == {"right"}


def test_a_variant_that_cannot_be_placed_names_its_place_in_the_recipe(make: Make) -> None:
    plan = make("findings[2].variants[2].labels[0].box=[0.0, 0.0, 0.1, 0.1]")
    index = next(index for index in range(12) if plan.row(index) == 2)
    with pytest.raises(PlacementError, match=r"findings\[2\]\.variants\[2\]\.labels\[0\]\.box"):
        plan.sample(index, 0)
    with pytest.raises(RecipeError, match=r"variants\[2\]\.labels\[0\]"):
        probe(plan, 8).require_placeable()


def test_the_probe_counts_shams_and_variants(make: Make) -> None:
    plan = make("anatomies=48", "pairs.variants=2")
    report = probe(plan)
    members = [member for index in range(48) for member in plan.sample(index, 0).members]
    assert report.images == len(members)
    assert [row.groups for row in report.rows] == [12, 12, 24]
    assert sum(row.shams for row in report.rows) == sum(member.name == "s0" for member in members) == 18
    assert report.rows[2].asked == "Effusion / Pneumonia + Atelectasis / Mass"
    reported = {count.label: count.positive for count in report.labels if count.label_set == "txrv18"}
    for name in ("Pneumonia", "Effusion", "Mass", "Atelectasis"):
        shown = sum(any(finding.name == name for finding in member.findings) for member in members)
        assert reported[name] == pytest.approx(shown)
    assert probe(make("anatomies=1000000", "pairs.sham=0.25")).images == pytest.approx(
        1e6 * (1 / 4 + (1 + 1 + 1 / 4) / 4 + (1 + 3 + 1 / 4) / 2)
    )


def test_a_sham_needs_a_row_that_can_have_one() -> None:
    with pytest.raises(RecipeError, match=r"pairs\.sham.*no row can have one"):
        recipe_from_text(TEXT, "r.yaml", ["findings=[{weight: 1, labels: []}]"])


def covered(plan: Plan, index: int) -> float:
    """The share of the first finding's region that the second one's takes."""
    spec = plan.sample(index, 0)
    first, second = (region_mask(one, spec.anatomy) for one in spec.members[1].findings)
    return float((first & second).sum() / first.sum())


def test_findings_overlap_as_the_recipe_allows(make: Make) -> None:
    shares = {}
    for rule in ("allow", "avoid", "forbid"):
        plan = make(TWO, f"placement.overlap={rule}", "anatomies=60")
        found = []
        for index in range(60):
            with suppress(PlacementError) if rule == "forbid" else nullcontext():
                found.append(covered(plan, index))
        shares[rule] = np.array(found)
    assert (shares["allow"] > 0.5).sum() > 2 * (shares["avoid"] > 0.5).sum()
    assert shares["forbid"].max() == 0
    assert len(shares["forbid"]) > 30
    left_out = make(TWO, "anatomies=60")
    assert [covered(left_out, index) for index in range(60)] == shares["avoid"].tolist()


@settings(max_examples=25, deadline=None)
@given(
    index=st.integers(0, 10**9),
    names=st.lists(st.sampled_from(["Mass", "Nodule", "Atelectasis"]), min_size=2, max_size=4),
)
def test_forbid_leaves_no_pixel_to_two_findings(index: int, names: list[str]) -> None:
    class Flat:
        source_name = "bank"

        def draw(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, str]:
            mask = np.zeros((size, size), dtype=np.uint8)
            mask[8:56, 6:26], mask[8:56, 38:58], mask[36:46, 26:44] = 2, 1, 3
            return mask, "flat"

    labels = ", ".join(f"{{name: {name}, size: [0.02, 0.1]}}" for name in names)
    recipe = recipe_from_text(
        TEXT, "r.yaml",
        [f"findings=[{{weight: 1, labels: [{labels}]}}]", "placement.overlap=forbid", f"anatomies={index + 1}"],
    )  # fmt: skip
    spec = Plan(recipe, Geometry(64, 4), Flat(), Prior.load()).sample(index, 0)
    regions = [region_mask(finding, spec.anatomy) for finding in spec.members[1].findings]
    assert len(regions) == len(names)
    assert not any((a & b).any() for a, b in combinations(regions, 2))


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ("{name: Edema}, {name: Mass}", "Mass: no place apart from Edema"),
        ("{name: Mass, box: [0.16, 0.35, 0.38, 0.6]}, {name: Pneumonia, box: [0.3, 0.4, 0.38, 0.7]}", "touches Mass"),
        ("{name: Mass, side: right}, {name: Edema}", "Edema: no place apart from Mass"),
    ],
)
def test_what_must_touch_is_refused_under_forbid(make: Make, labels: str, found: str) -> None:
    plan = make(f"findings=[{{weight: 1, labels: [{labels}]}}]", "placement.overlap=forbid", "pairs.sham=0")
    with pytest.raises(PlacementError, match=found):
        plan.sample(0, 0)


@pytest.mark.parametrize("twin", [True, False])
def test_groups_without_findings_are_edited_where_asked(make: Make, twin: bool) -> None:
    plan = make("pairs.edit_negatives=true", f"pairs.twin={str(twin).lower()}", "anatomies=60")
    painted = Counter[str]()
    for index in range(60):
        spec = plan.sample(index, 0)
        names = [member.name for member in spec.members]
        if spec.row != 0:
            assert names[-1] == "s0" or not plan.sham(index)
            continue
        assert names == (["h", "s0"] if twin else ["s0"])
        sham = spec.members[-1].sham
        assert spec.members[-1].findings == ()
        assert sham
        assert all(spec.regions[place].any() for place in sham)
        painted.update(place.name for place in sham)
    assert set(painted) == {"Pneumonia", "Effusion"}
    assert (
        plan.sample(0, 0).members
        == make("pairs.edit_negatives=true", f"pairs.twin={str(twin).lower()}").sample(0, 0).members
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["findings=[{weight: 1, labels: [{name: Pneumonia}]}]"], "`edit_negatives` without both"),
        (
            ["pairs={twin: false, edit_negatives: true}", "sampling.mode=joint"],
            "`joint` with pairs.edit_negatives: true",
        ),
    ],
)
def test_edited_negatives_want_rows_of_both_kinds_and_edits(make: Make, changes: list[str], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        make("pairs.edit_negatives=true", *changes)
