"""What a report counts, held against the plain way of counting it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doubles.fakes import fake_anatomy, fake_head
from xreal_synth.dataset.table import rejected_schema
from xreal_synth.quality.gate import SCORES
from xreal_synth.report import streamed as streamed_module
from xreal_synth.report.card import templates
from xreal_synth.report.drawing import BRIGHTER, CHANGED, DARKER, SIDES, UNIT, change_picture, reduced, within_budget
from xreal_synth.report.figures import histogram_svg, number, outline, ticks
from xreal_synth.report.picks import IMAGES, NO_FINDING, Picker, spread
from xreal_synth.report.streamed import GRID, OTHERS, Coverage, Extreme, Histogram, Streamed, Worst, refusals, stream
from xreal_synth.report.words import bound_of, words_for, worst_end
from xreal_synth.storage import LocalStore

FINITE = st.floats(-1e6, 1e6, allow_nan=False)
SPANS = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@settings(deadline=None)
@given(st.lists(st.tuples(SPANS, SPANS), min_size=1, max_size=8))
def test_coverage_counts_the_boxes_over_each_cell(spans: list[tuple[list[float], list[float]]]) -> None:
    boxes = np.array([[x0, y0, x1, y1] for (x0, x1), (y0, y1) in spans])
    coverage = Coverage()
    coverage.add(boxes[:3])
    coverage.add(boxes[3:])
    centres = (np.arange(GRID) + 0.5) / GRID
    across = (boxes[:, 0, None] <= centres) & (centres < boxes[:, 2, None])
    down = (boxes[:, 1, None] <= centres) & (centres < boxes[:, 3, None])
    wanted = (down[:, :, None] & across[:, None, :]).mean(axis=0)
    np.testing.assert_allclose(coverage.share, wanted)


@settings(deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=60), st.integers(1, 5))
def test_the_worst_are_those_of_sorting(values: list[float], most: int) -> None:
    keys = [f"{i:03d}" for i in range(len(values))]
    ends = {lowest: Worst(most, lowest=lowest) for lowest in (True, False)}
    for start in range(0, len(values), 7):
        part = slice(start, start + 7)
        for end in ends.values():
            end.add(np.array(values[part]), pa.array(keys[part]), list(range(len(values)))[part])
    images = [Extreme(value, key, int(key)) for value, key in zip(values, keys, strict=True)]
    assert ends[True].images == sorted(images, key=lambda image: (image.value, image.key))[:most]
    assert ends[False].images == sorted(images, key=lambda image: (-image.value, image.key))[:most]


@settings(deadline=None)
@given(st.lists(FINITE | st.just(float("nan")), max_size=60))
def test_histograms_leave_no_value_out(values: list[float]) -> None:
    found = Histogram(0.0, 1.0, 7)
    found.add(np.array(values[:20]))
    found.add(np.array(values[20:]))
    known = [value for value in values if value == value]
    assert found.count == found.counts.sum() == len(known)
    if not known:
        return
    assert (found.low, found.high) == (min(known), max(known))
    assert found.mean == pytest.approx(np.mean(known), rel=1e-6, abs=1e-6)
    assert found.counts[0] >= sum(value <= 0 for value in known)


def read(store: LocalStore, batch: int, monkeypatch: pytest.MonkeyPatch) -> Streamed:
    monkeypatch.setattr(streamed_module, "BATCH", batch)
    assert store.local_path is not None
    return stream(store.local_path / "samples.parquet", Picker((0, 1), frozenset({0})))


def test_batches_change_nothing(gated: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = read(gated, 4096, monkeypatch), read(gated, 3, monkeypatch)
    assert [score.name for score in whole.scores] == ["organs.heart", "change.outside", "pixels.blur"]
    for one, other in zip(whole.scores, cut.scores, strict=True):
        assert one.worst.images == other.worst.images
        np.testing.assert_array_equal(one.histogram.counts, other.histogram.counts)
    assert whole.picks == cut.picks
    assert whole.flags == cut.flags == {"pixels.blur": 1}
    assert whole.ratios.count == cut.ratios.count == 7, "one a group"
    for one_finding, other_finding in zip(whole.findings, cut.findings, strict=True):
        np.testing.assert_array_equal(one_finding.share, other_finding.share)
        assert (one_finding.images, one_finding.sides) == (other_finding.images, other_finding.sides)


def test_findings_are_counted_from_their_boxes(reported: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {one.name: one for one in read(reported, 5, monkeypatch).findings}
    assert {name: one.images for name, one in found.items()} == {"Pneumonia": 6, "Edema": 3, "Effusion": 3}
    assert found["Edema"].share is None
    assert not found["Edema"].sizes.count
    assert found["Effusion"].sides == {"right": 3}
    assert found["Effusion"].zones == {"lower": 3}
    effusion = found["Effusion"].share
    assert effusion is not None
    assert 0 < effusion.max() <= 1
    assert effusion[:, : GRID // 2].sum() > effusion[:, GRID // 2 :].sum(), "the patient's right is on the left"


def table(groups: int, shard_size: int, rare: int) -> pa.RecordBatch:
    """Groups of one image each: every third healthy, the rest Pneumonia; `rare` alone shows Mass."""
    kinds = [[] if g % 3 == 0 else [{"name": "Mass" if g == rare else "Pneumonia"}] for g in range(groups)]
    kind = pa.list_(pa.struct([("name", pa.string())]))
    return pa.RecordBatch.from_pydict({
        "key": [f"{g:010d}-{'v0' if kinds[g] else 'h'}" for g in range(groups)],
        "group": list(range(groups)),
        "member": ["v0" if one else "h" for one in kinds],
        "shard": [g // shard_size for g in range(groups)],
        "row": [1 if one else 0 for one in kinds],
        "findings": pa.array(kinds, kind),
    })  # fmt: skip


def test_images_are_picked_by_a_rule_that_reads_few_tars() -> None:
    batch, shards = table(3000, 10, 1234), range(300)
    picker = Picker(shards, frozenset({0}))
    for start in range(0, 3000, 700):
        picker.add(batch.slice(start, 700))
    picks = picker.picks()
    by_kind = {kind: [pick for pick in picks if pick.kind == kind] for kind in dict.fromkeys(p.kind for p in picks)}
    assert list(by_kind) == [NO_FINDING, "Pneumonia", "Mass"]
    assert [len(found) for found in by_kind.values()] == [IMAGES, IMAGES, 1]
    assert {pick.shard for kind in (NO_FINDING, "Pneumonia") for pick in by_kind[kind]} <= set(picker.shards)
    assert len(picker.shards) == 8
    assert (picker.shards[0], picker.shards[-1]) == (0, 299)
    assert by_kind["Mass"][0].key == "0000001234-v0"
    assert by_kind["Pneumonia"][0].images == 1999
    assert len({pick.shard for pick in by_kind["Pneumonia"]}) > 1


def test_a_dataset_that_grows_keeps_an_even_spread() -> None:
    assert spread([]) == ()
    assert spread([4, 5]) == (4, 5)
    found = spread(range(1000))
    assert len(found) == len(set(found)) == 8
    assert max(np.diff(found)) - min(np.diff(found)) <= 1


def test_many_kinds_leave_no_finding_out() -> None:
    names = [f"F{i}" for i in range(30)]
    kind = pa.list_(pa.struct([("name", pa.string())]))
    findings = [[{"name": name}] for i, name in enumerate(names) for _ in range(30 - i)]
    count = len(findings)
    batch = pa.RecordBatch.from_pydict({
        "key": [f"{g:010d}-v0" for g in range(count)], "group": list(range(count)),
        "member": ["v0"] * count, "shard": [0] * count, "row": [0] * count,
        "findings": pa.array(findings, kind),
    })  # fmt: skip
    picker = Picker([0], frozenset())
    picker.add(batch)
    picks = picker.picks()
    assert {pick.kind for pick in picks} == set(names)
    assert len(picks) <= 2 * 30


def test_reasons_are_counted_without_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = [f"blur 0.{i} is below 0.5" for i in range(5)] + [f"{name} has no place" for name in "abcdefghijklmn"]
    rows = [
        {"group": i, "attempt": 0, "row": i % 2, "shard": 0, "reason": reason, "dropped": i == 3}
        for i, reason in enumerate(reasons)
    ]
    path = tmp_path / "rejected.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=rejected_schema()), path)
    monkeypatch.setattr(streamed_module, "BATCH", 4)
    found = refusals(path)
    assert (found.reasons[0].words, found.reasons[0].attempts) == ("blur # is below #", 5)
    assert found.reasons[0].example == "blur 0.0 is below 0.5"
    assert (found.reasons[-1].words, found.reasons[-1].attempts) == (OTHERS, 3)
    assert sum(reason.attempts for reason in found.reasons) == len(reasons)
    assert found.attempts == {0: 10, 1: 9}
    assert found.dropped == {1: 1}


def test_pictures_keep_to_their_bytes() -> None:
    rng = np.random.default_rng(0)
    noise = {str(i): rng.integers(0, 256, (400, 400), dtype=np.uint8) for i in range(4)}
    free, width = within_budget(noise, 10**9)
    assert width == SIDES[0]
    whole = sum(len(one.uri) for one in free)
    tight, width = within_budget(noise, whole // 3)
    assert width < SIDES[0]
    assert sum(len(one.uri) for one in tight) <= whole // 3
    assert [one.name for one in tight] == list(noise)
    assert within_budget(noise, whole // 3) == (tight, width)
    flat = reduced(np.zeros((100, 400), np.uint8), 320)
    assert flat.shape == (80, 320)


def test_change_is_drawn_by_its_sign() -> None:
    twin = np.full((4, 4), 100, np.uint8)
    image = twin.copy()
    image[0, 0], image[1, 1] = 200, 20
    change = np.abs(image.astype(int) - twin).astype(np.uint8)
    drawn = change_picture(image, change, twin)
    assert drawn[0, 0].tolist() == BRIGHTER.tolist()
    assert drawn[1, 1].tolist() == DARKER.tolist()
    assert drawn[2, 2].tolist() == [40, 40, 40]
    assert change_picture(image, change, None)[1, 1].tolist() == CHANGED.tolist()


def area(path: str) -> float:
    """Of closed polygons, by the shoelace formula."""
    total = 0.0
    for part in re.findall(r"M([^Z]*)Z", path):
        x, y = np.array(part.split(), float).reshape(-1, 2).T
        total += abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    return total


@pytest.mark.parametrize("size", [64, 256, 512])
def test_outlines_follow_the_mask(size: int) -> None:
    mask = fake_anatomy(size, np.random.default_rng(0))
    for code in (1, 2, 3):
        share = (mask == code).mean()
        assert area(outline(mask == code)) / UNIT**2 == pytest.approx(share, rel=0.08)
    assert outline(np.zeros((64, 64), bool)) == ""
    assert 0.9 < area(outline(np.ones((64, 64), bool))) / UNIT**2 <= 1.01, "a mask may reach the edge"


def test_charts_hold_their_bars_and_lines() -> None:
    counted = Histogram(0.0, 1.0, 10)
    counted.add(np.array([0.05, 0.05, 0.95]))
    drawn = str(histogram_svg(counted, "<b>three & more</b>", [(1.5, "at most")]))
    assert drawn.count('class="bin"') == 2
    assert "&lt;b&gt;three &amp; more" in drawn
    assert "at most" in drawn
    places = [float(x) for x in re.findall(r' x1?="([\d.]+)"', drawn)]
    assert max(places) <= 320
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert [number(value) for value in (0, 0.25, 1234.5, float("nan"))] == ["0", "0.25", "1234", "-"]


@pytest.mark.parametrize(
    ("quality", "wanted"),
    [
        ({"checks": {"organs": {"action": "reject", "heart": 0.6}}}, (0.6, "refused below")),
        ({"checks": {"organs": {"action": "off"}}}, None),
        ({"checks": {"organs": {"action": "warn", "heart": True}}}, None),
        ({"checks": 3}, None),
        (None, None),
    ],
)
def test_bounds_are_read_from_the_settings(quality: object, wanted: tuple[float, str] | None) -> None:
    assert bound_of(dataclasses.replace(fake_head(), settings={"quality": quality}), "organs.heart") == wanted


def test_every_score_of_the_gate_has_words_a_worse_end_and_a_place() -> None:
    checks = {"pixels": {"action": "warn", "blur": 0.7}}
    settings: dict[str, object] = {"quality": {"checks": checks}}
    head = dataclasses.replace(fake_head(), settings=settings)
    assert bound_of(head, "pixels.blur") == (0.7, "flagged above")
    assert (worst_end("pixels.blur"), worst_end("organs.heart")) == ("high", "low")
    assert all(words_for(name) for name in SCORES)
    assert set(streamed_module.FAMILIES) <= {name.partition(".")[0] for name in SCORES}
    assert words_for("mine.score") == ""


def in_words(asked: dict[str, object]) -> dict[str, str]:
    """What the page says of these settings."""
    head = dataclasses.replace(fake_head(), settings=asked)
    page = templates(autoescape=True).get_template("report_words.html.j2").render(head=head)
    return dict(re.findall(r"<tr><th scope=\"row\">(.*?)</th><td>(.*?)</td></tr>", page))


def test_settings_in_words() -> None:
    asked: dict[str, object] = {
        "anatomy": {"source": "bank", "augment": {"rotate_deg": 4.0, "heart_scale": [0.9, 1.2]}},
        "placement": {"prior": "nih-rsna", "min_overlap": 0.6},
        "pairs": {"twin": True, "variants": 2, "sham": 0.25},
        "sampling": {"steps": 25, "guidance": 4.0, "control": "none", "mode": "branch"},
        "labels": {"unrequested": "unknown"}, "quality": {"profile": "strict", "max_attempts": 3}, "seed": 7,
    }  # fmt: skip
    words = in_words(asked)
    assert words["Anatomies"].endswith("turned up to 4°, hearts 0.9 to 1.2 times as large")
    assert "at least 60% of a box" in words["Places of findings"]
    assert "2 images with findings on each anatomy" in words["Images of a group"]
    assert "25% of the groups" in words["Images of a group"]
    assert "not made to follow the organ mask" in words["Sampling"]
    assert words["Labels nobody asked for"] == "null (unknown)"
    assert words["Checks"].startswith("profile strict")
    assert in_words({}) == {}
