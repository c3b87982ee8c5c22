"""A real image's labels: its own stay, what is painted in or over counts, and the rest is not known."""

from __future__ import annotations

from xreal_synth.findings import CHEXPERT14, LABEL_SETS, NO_FINDING, TXRV18
from xreal_synth.planning.labels import image_labels
from xreal_synth.types import ExistingFinding, PlacedFinding, SourceImage

BOX = (8, 8, 16, 16)


def image(*labels: str, kept: tuple[str, ...] = (), removed: tuple[str, ...] = ()) -> SourceImage:
    own = [ExistingFinding(name, BOX) for name in kept] + [ExistingFinding(name, BOX, BOX) for name in removed]
    return SourceImage("a.png", "0" * 64, labels, tuple(own))


def placed(*names: str) -> list[PlacedFinding]:
    return [PlacedFinding(name, "left", "lower", "box", (BOX,)) for name in names]


def known(source: SourceImage, *added: str) -> dict[str, int]:
    """The labels that are known, by name; both sets must agree where they share a name."""
    found: dict[str, int] = {}
    for names in image_labels(source, placed(*added)).values():
        for name, value in names.items():
            if value is not None:
                assert found.setdefault(name, value) == value
    return found


def test_own_labels_stay_and_the_rest_is_unknown() -> None:
    assert known(image("Effusion")) == {"Effusion": 1, "Pleural Effusion": 1, NO_FINDING: 0}
    assert known(image("Hernia")) == {"Hernia": 1, NO_FINDING: 0}
    assert known(image()) == {}


def test_a_image_without_finding_has_none_until_one_is_painted_in() -> None:
    healthy = image(NO_FINDING)
    everything = {name for names in LABEL_SETS.values() for name in names}
    assert known(healthy) == {name: int(name == NO_FINDING) for name in everything}
    sick = known(healthy, "Pneumonia")
    assert {name for name, value in sick.items() if value} == {"Pneumonia", "Lung Opacity"}
    assert set(sick) == everything


def test_boxes_count_as_labels() -> None:
    assert known(image(kept=("Mass",)))["Mass"] == 1


def test_what_is_painted_over_is_absent_but_its_parents_are_not_known() -> None:
    """Another finding, not labelled, may make the image a Lung Opacity's."""
    gone = known(image("Pneumonia", removed=("Pneumonia",)))
    assert gone == {"Pneumonia": 0}
    assert known(image("Pneumonia", "Edema", removed=("Pneumonia",)))["Lung Opacity"] == 1
    nodule = known(image("Nodule", removed=("Nodule",)))
    assert nodule == {"Nodule": 0}


def test_a_finding_with_a_box_left_or_painted_anew_is_still_there() -> None:
    assert known(image("Mass", kept=("Mass",), removed=("Mass",)))["Mass"] == 1
    assert known(image("Mass", removed=("Mass",)), "Mass")["Mass"] == 1


def test_a_label_is_absent_where_every_finding_that_makes_it_is() -> None:
    absent = known(image(removed=("Mass", "Nodule", "Lung Lesion")))
    assert absent["Lung Lesion"] == 0
    assert "Lung Opacity" not in absent
    assert NO_FINDING not in absent


def test_every_label_has_a_value_or_none() -> None:
    labels = image_labels(image("Effusion"), [])
    assert (tuple(labels["chexpert14"]), tuple(labels["txrv18"])) == (CHEXPERT14, TXRV18)
