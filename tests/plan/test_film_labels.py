"""A real film's labels: its own stay, what is painted in or over counts, and the rest is not known."""

from __future__ import annotations

from xreal_synth.plan.film_labels import film_labels
from xreal_synth.types import OwnFinding, PlacedFinding, SourceFilm
from xreal_synth.vocab import CHEXPERT14, LABEL_SETS, NO_FINDING, TXRV18

BOX = (8, 8, 16, 16)


def film(*labels: str, kept: tuple[str, ...] = (), healed: tuple[str, ...] = ()) -> SourceFilm:
    own = [OwnFinding(name, BOX) for name in kept] + [OwnFinding(name, BOX, BOX) for name in healed]
    return SourceFilm("a.png", "0" * 64, labels, tuple(own))


def placed(*names: str) -> list[PlacedFinding]:
    return [PlacedFinding(name, "left", "lower", "box", (BOX,)) for name in names]


def known(source: SourceFilm, *added: str) -> dict[str, int]:
    """The labels that are known, by name; both sets must agree where they share a name."""
    found: dict[str, int] = {}
    for names in film_labels(source, placed(*added)).values():
        for name, value in names.items():
            if value is not None:
                assert found.setdefault(name, value) == value
    return found


def test_own_labels_stay_and_the_rest_is_unknown() -> None:
    assert known(film("Effusion")) == {"Effusion": 1, "Pleural Effusion": 1, NO_FINDING: 0}
    assert known(film("Hernia")) == {"Hernia": 1, NO_FINDING: 0}
    assert known(film()) == {}


def test_a_film_without_finding_has_none_until_one_is_painted_in() -> None:
    healthy = film(NO_FINDING)
    everything = {name for names in LABEL_SETS.values() for name in names}
    assert known(healthy) == {name: int(name == NO_FINDING) for name in everything}
    sick = known(healthy, "Pneumonia")
    assert {name for name, value in sick.items() if value} == {"Pneumonia", "Lung Opacity"}
    assert set(sick) == everything


def test_boxes_count_as_labels() -> None:
    assert known(film(kept=("Mass",)))["Mass"] == 1


def test_what_is_painted_over_is_absent_but_its_parents_are_not_known() -> None:
    """Another finding, not labelled, may make the film a Lung Opacity's."""
    gone = known(film("Pneumonia", healed=("Pneumonia",)))
    assert gone == {"Pneumonia": 0}
    assert known(film("Pneumonia", "Edema", healed=("Pneumonia",)))["Lung Opacity"] == 1
    nodule = known(film("Nodule", healed=("Nodule",)))
    assert nodule == {"Nodule": 0}


def test_a_finding_with_a_box_left_or_painted_anew_is_still_there() -> None:
    assert known(film("Mass", kept=("Mass",), healed=("Mass",)))["Mass"] == 1
    assert known(film("Mass", healed=("Mass",)), "Mass")["Mass"] == 1


def test_a_label_is_absent_where_every_finding_that_makes_it_is() -> None:
    absent = known(film(healed=("Mass", "Nodule", "Lung Lesion")))
    assert absent["Lung Lesion"] == 0
    assert "Lung Opacity" not in absent
    assert NO_FINDING not in absent


def test_every_label_has_a_value_or_none() -> None:
    labels = film_labels(film("Effusion"), [])
    assert (tuple(labels["chexpert14"]), tuple(labels["txrv18"])) == (CHEXPERT14, TXRV18)
