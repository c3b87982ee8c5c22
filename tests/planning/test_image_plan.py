"""Plans on real images: which image a group shows, what is painted over, and where findings go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xreal_synth.errors import PlacementError, RecipeError
from xreal_synth.findings import LEFT_LUNG, RIGHT_LUNG
from xreal_synth.images.folder import ImageFolder
from xreal_synth.planning.build import Geometry, Plan
from xreal_synth.planning.prior import Prior
from xreal_synth.planning.probe import probe
from xreal_synth.recipe.findings import ImagesFolder
from xreal_synth.recipe.load import recipe_from_text
from xreal_synth.types import MemberSpec, SampleSpec

TEXT = """\
version: 1
name: images
anatomies: 12
bundle: xreal-tiny
anatomy: {source: {images: {path: FOLDER, boxes: boxes.csv}}}
findings:
  - {weight: 1, labels: []}
pairs: {twin: true}
output: {uri: out/images, shard_samples: 6}
"""
Make = Callable[..., Plan]
SIZE, FACTOR = 64, 4


@pytest.fixture
def make(image_folder: Callable[..., Path]) -> Make:
    def build(*rows: str, places: str = "", folder: Path | None = None, **overrides: object) -> Plan:
        folder = folder or image_folder()
        reported = [f"findings=[{', '.join(rows)}]"] if rows else []
        if places:
            (folder / "places.csv").write_text(places)
            reported.append("anatomy.source.images.places=places.csv")
        reported += [f"{key.replace('__', '.')}={value}" for key, value in overrides.items()]
        recipe = recipe_from_text(TEXT, overrides=reported)
        settings = ImagesFolder(path=str(folder), boxes="boxes.csv", places="places.csv" if places else None)
        return Plan(recipe, Geometry(SIZE, FACTOR), ImageFolder(settings, SIZE), Prior.load())

    return build


def images(plan: Plan, groups: range) -> list[str]:
    return [plan.chest(i, 0, plan.row(i)).id for i in groups]


def variant(spec: SampleSpec) -> MemberSpec:
    twin, edited = spec.members
    assert (twin.name, twin.findings) == ("h", ())
    assert twin.source is not None
    assert not twin.source.removed
    return edited


def on_grid(box: tuple[int, ...]) -> bool:
    return all(value % FACTOR == 0 for value in box)


def test_images_come_in_turn(make: Make) -> None:
    plan = make(anatomies=24)
    assert sorted(images(plan, range(6))) == sorted(images(plan, range(6, 12))) == [f"{n}.png" for n in "abcdef"]
    assert images(plan, range(6)) != images(plan, range(6, 12))
    assert images(make(folder=_folder(plan), seed=1), range(6)) != images(plan, range(6))
    listed = make(folder=_folder(plan), anatomy__source__images__order="listed")
    assert images(listed, range(8)) == [f"{name}.png" for name in "abcdefab"]


def _folder(plan: Plan) -> Path:
    assert isinstance(plan.source, ImageFolder)
    return Path(plan.source._where)


def test_raising_samples_and_other_attempts_move_no_image(make: Make) -> None:
    plan = make("{weight: 1, labels: [{name: Pneumonia}]}")
    more = make("{weight: 1, labels: [{name: Pneumonia}]}", folder=_folder(plan), anatomies=10**9)
    for i in range(12):
        assert plan.sample(i, 0).members == more.sample(i, 0).members
        assert plan.sample(i, 0).anatomy_id == plan.sample(i, 4).anatomy_id
    assert plan.sample(0, 0).members != plan.sample(0, 4).members
    assert more.sample(10**9 - 1, 0).image is not None


def test_rows_take_the_images_that_they_can_use(make: Make) -> None:
    plan = make(
        "{weight: 1, labels: [{name: Edema}], images: healthy}",
        "{weight: 1, labels: [], edit: {remove: all}}",
        "{weight: 1, labels: [], edit: {remove: [Effusion, Nodule]}}",
    )
    shown: dict[int, set[str]] = {}
    for i in range(120):
        shown.setdefault(plan.row(i), set()).add(plan.chest(i, 0, plan.row(i)).id[0])
    assert shown == {0: set("ae"), 1: set("bcd"), 2: set("d")}


def test_the_image_as_it_is(make: Make) -> None:
    plan = make()
    spec = next(spec for spec in (plan.sample(i, 0) for i in range(6)) if spec.anatomy_id == "c.png")
    (twin,) = spec.members
    assert twin.source is not None
    assert twin.source.labels == ("Mass", "Pneumonia")
    assert [(own.name, own.box, own.removed) for own in twin.source.findings] == [
        ("Pneumonia", (13, 24, 24, 38), None), ("Mass", (40, 33, 48, 40), None),
    ]  # fmt: skip
    assert isinstance(plan.source, ImageFolder)
    assert spec.image is not None
    assert np.array_equal(spec.image, plan.source.image(2, SIZE))
    assert (spec.ctr, spec.anatomy.any()) == (pytest.approx(0.46, abs=0.1), True)


def test_removed_findings_are_painted_over_with_a_margin_on_the_grid(make: Make) -> None:
    plan = make("{weight: 1, labels: [{name: Effusion, side: left}], edit: {remove: [Mass]}}")
    edited = variant(plan.sample(0, 0))
    assert edited.source is not None
    pneumonia, mass = edited.source.findings
    assert pneumonia.removed is None
    assert mass.removed is not None
    assert on_grid(mass.removed)
    x0, y0, x1, y1 = mass.removed
    assert (x0 <= 40 - 2, y0 <= 33 - 2, x1 >= 48 + 2, y1 >= 40 + 2) == (True,) * 4
    assert [finding.name for finding in edited.findings] == ["Effusion"]


@pytest.mark.parametrize(("side", "code"), [("left", LEFT_LUNG), ("right", RIGHT_LUNG)])
def test_moved_findings_keep_their_size_and_leave_their_place(make: Make, side: str, code: int) -> None:
    plan = make(f"{{weight: 1, labels: [], edit: {{move: {{findings: [Pneumonia], side: {side}}}}}}}", anatomies=40)
    seen = set()
    for i in range(40):
        spec = plan.sample(i, 0)
        edited = variant(spec)
        assert edited.source is not None
        own = next(own for own in edited.source.findings if own.name == "Pneumonia")
        (finding,) = edited.findings
        ((x0, y0, x1, y1),) = finding.boxes
        assert (finding.name, finding.side) == ("Pneumonia", side)
        assert on_grid((x0, y0, x1, y1))
        assert 0 <= (x1 - x0) - (own.box[2] - own.box[0]) < 2 * FACTOR
        assert 0 <= (y1 - y0) - (own.box[3] - own.box[1]) < 2 * FACTOR
        assert (spec.anatomy[y0:y1, x0:x1] == code).mean() >= 0.6
        assert own.removed is not None
        away = np.ones((SIZE, SIZE), dtype=bool)
        away[own.removed[1] : own.removed[3], own.removed[0] : own.removed[2]] = False
        assert away[y0:y1, x0:x1].mean() >= 0.75
        seen.add((spec.anatomy_id, finding.boxes))
    assert len(seen) > 4


def test_resized_findings_grow_about_their_centre(make: Make) -> None:
    plan = make("{weight: 1, labels: [], edit: {resize: {findings: [Mass], scale: [2, 3]}}}")
    (finding,) = variant(plan.sample(0, 0)).findings
    ((x0, y0, x1, y1),) = finding.boxes
    assert on_grid((x0, y0, x1, y1))
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == (pytest.approx(44, abs=FACTOR), pytest.approx(36.5, abs=FACTOR))
    assert 16 <= x1 - x0 <= 24 + 2 * FACTOR
    assert 14 <= y1 - y0 <= 21 + 2 * FACTOR


def test_findings_go_into_the_places_given(make: Make) -> None:
    places = "image,finding,x0,y0,x1,y1\na.png,Pneumonia,60,40,80,60\na.png,Pneumonia,20,40,30,60\na.png,Mass,1,1,9,9\n"
    plan = make("{weight: 1, labels: [], edit: {add: [Pneumonia]}}", places=places)
    assert set(images(plan, range(12))) == {"a.png"}
    (finding,) = variant(plan.sample(0, 0)).findings
    assert finding.boxes == ((40, 24, 56, 40), (12, 24, 20, 40))
    assert (finding.name, finding.side) == ("Pneumonia", "both")
    both = make("{weight: 1, labels: [], edit: {add: all}}", places=places, folder=_folder(plan))
    assert [one.name for one in variant(both.sample(0, 0)).findings] == ["Pneumonia", "Mass"]


def test_images_without_masks_take_fixed_and_own_boxes_only(make: Make, image_folder: Callable[..., Path]) -> None:
    folder = image_folder(manifest=None)
    for mask in (folder / "masks").iterdir():
        mask.unlink()
    plan = make(
        "{weight: 1, labels: [{name: Pneumonia, box: [0.1, 0.1, 0.3, 0.3]}]}",
        "{weight: 1, labels: [], edit: {resize: {findings: [Mass], scale: [2, 3]}}}",
        folder=folder,
    )
    spec = next(spec for spec in (plan.sample(i, 0) for i in range(6)) if spec.row == 0)
    assert (spec.ctr, spec.anatomy.any()) == (None, False)
    assert variant(spec).findings[0].boxes == ((4, 4, 20, 20),)
    with pytest.raises(RecipeError) as caught:
        make(
            "{weight: 1, labels: [{name: Pneumonia}, {name: Edema}]}",
            "{weight: 1, labels: [], edit: {move: {findings: [Mass]}}}",
            folder=folder,
        )
    reported = {problem.path: problem for problem in caught.value.problems}
    assert list(reported) == ["findings[0].labels[0]", "findings[0].labels[1]", "findings[1].edit.move"]
    assert "6 of 6 images have no organ mask" in reported["findings[0].labels[0]"].found
    assert "xreal-synth prepare" in reported["findings[0].labels[0]"].hint


def test_rows_that_no_image_can_serve_are_reported_at_once(make: Make) -> None:
    with pytest.raises(RecipeError) as caught:
        make(
            "{weight: 1, labels: [], edit: {remove: [Nodule]}}",
            "{weight: 1, labels: [], edit: {remove: [Mass]}, images: healthy}",
        )
    assert [problem.path for problem in caught.value.problems] == ["findings[0].edit", "findings[1].edit"]


def test_a_patients_images_share_a_split_whatever_the_group(make: Make) -> None:
    plan = make(anatomies=600, split="{val: 0.3, test: 0.3}")
    found: dict[str, set[str]] = {}
    for i in range(600):
        found.setdefault(images(plan, range(i, i + 1))[0], set()).add(plan.split(i))
    assert all(len(splits) == 1 for splits in found.values())
    assert found["b.png"] == found["c.png"]
    assert len(set.union(*found.values())) > 1


def test_a_image_that_cannot_be_used_is_refused_with_the_reason(make: Make) -> None:
    plan = make("{weight: 1, labels: [{name: Pneumonia}]}", anatomy__source__images__order="listed")
    folder = _folder(plan)
    (folder / "masks" / "b.png").write_bytes((folder / "masks" / "a.png").read_bytes()[:-40])
    plan = make("{weight: 1, labels: [{name: Pneumonia}]}", folder=folder, anatomy__source__images__order="listed")
    with pytest.raises(PlacementError, match=r"masks/b\.png"):
        plan.sample(1, 0)
    report = probe(plan, budget_s=60)
    assert (report.rows[0].placed, report.rows[0].tried) == (10, 12)
    assert report.rows[0].reasons[0][0].where == "masks/b.png"


def test_the_probe_counts_images_and_their_own_labels(make: Make) -> None:
    plan = make(
        "{weight: 1, labels: []}", "{weight: 1, labels: [], edit: {remove: [Pneumonia]}}", anatomies=120,
        output__shard_samples=12,
    )  # fmt: skip
    report = probe(plan, budget_s=60)
    assert report.images == 60 + 2 * 60
    assert [row.asked for row in report.rows] == ["the image as it is", "remove Pneumonia"]
    table = {(one.label_set, one.label): one for one in report.labels}
    as_is = [plan.chest(i, 0, 0).id[0] for i in range(120) if plan.row(i) == 0]
    healthy, sick = (sum(name in names for name in as_is) for names in ("ae", "bc"))
    removed = table["txrv18", "Pneumonia"]
    assert removed.negative == pytest.approx(60 + healthy)
    assert removed.positive == pytest.approx(60 + sick)
    assert removed.unknown == pytest.approx(60 - healthy - sick)
    assert table["chexpert14", "No Finding"].positive == pytest.approx(healthy)
