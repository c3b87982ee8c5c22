"""Labels of an image: requested and implied are 1, the rest as the recipe says."""

from __future__ import annotations

import pytest

from xreal_synth.findings import CHEXPERT14, FINDINGS, TXRV18
from xreal_synth.planning.labels import labels_of
from xreal_synth.types import LabelValue


def ones(labels: dict[str, LabelValue]) -> set[str]:
    return {name for name, value in labels.items() if value == 1}


def test_placed_findings_are_labelled() -> None:
    labels = labels_of(["Pneumonia"], "negative", 0.4)
    assert list(labels) == ["chexpert14", "txrv18"]
    assert tuple(labels["chexpert14"]) == CHEXPERT14
    assert tuple(labels["txrv18"]) == TXRV18
    assert ones(labels["chexpert14"]) == {"Pneumonia", "Lung Opacity"}
    assert ones(labels["txrv18"]) == {"Pneumonia", "Lung Opacity"}


@pytest.mark.parametrize(
    ("name", "chexpert", "txrv"),
    [
        ("Effusion", {"Pleural Effusion"}, {"Effusion"}),
        ("Infiltration", {"Lung Opacity"}, {"Infiltration", "Lung Opacity"}),
        ("Nodule", {"Lung Lesion", "Lung Opacity"}, {"Nodule", "Lung Lesion", "Lung Opacity"}),
        ("Pleural_Thickening", {"Pleural Other"}, {"Pleural_Thickening"}),
        ("Emphysema", set(), {"Emphysema"}),
        (
            "Cardiomegaly",
            {"Cardiomegaly", "Enlarged Cardiomediastinum"},
            {"Cardiomegaly", "Enlarged Cardiomediastinum"},
        ),
    ],
)
def test_names_and_parents_in_both_sets(name: str, chexpert: set[str], txrv: set[str]) -> None:
    labels = labels_of([name], "negative", 0.4)
    assert ones(labels["chexpert14"]) == chexpert
    assert ones(labels["txrv18"]) == txrv


def test_every_finding_makes_no_finding_zero_and_itself_one() -> None:
    for name in FINDINGS:
        labels = labels_of([name], "negative", 0.4)
        assert labels["txrv18"][name] == 1
        assert labels["chexpert14"]["No Finding"] == 0
        assert None not in [value for one in labels.values() for value in one.values()]


def test_a_healthy_image() -> None:
    labels = labels_of([], "negative", 0.4)
    assert ones(labels["chexpert14"]) == {"No Finding"}
    assert set(labels["txrv18"].values()) == {0}


def test_a_large_heart_that_was_not_asked_for_is_not_known() -> None:
    labels = labels_of([], "negative", 0.51)
    assert labels["chexpert14"]["Cardiomegaly"] is None
    assert labels["txrv18"]["Cardiomegaly"] is None
    assert labels["chexpert14"]["No Finding"] is None
    assert labels["chexpert14"]["Edema"] == 0
    assert labels_of([], "negative", 0.5)["txrv18"]["Cardiomegaly"] == 0
    assert labels_of(["Cardiomegaly"], "negative", 0.6)["txrv18"]["Cardiomegaly"] == 1
    assert labels_of(["Edema"], "negative", 0.6)["chexpert14"]["No Finding"] == 0


def test_unknown_leaves_the_rest_open() -> None:
    labels = labels_of(["Edema"], "unknown", 0.4)
    assert labels["chexpert14"] == {
        name: 1 if name in ("Edema", "Lung Opacity") else 0 if name == "No Finding" else None for name in CHEXPERT14
    }
    assert labels_of([], "unknown", 0.4)["chexpert14"]["No Finding"] is None


def test_checked_labels_are_negative_only_where_the_classifier_sees_nothing() -> None:
    labels = labels_of(["Pneumonia"], "checked", 0.4, frozenset({"Effusion", "Nodule"}))
    assert labels["txrv18"]["Pneumonia"] == labels["chexpert14"]["Lung Opacity"] == 1
    assert labels["txrv18"]["Effusion"] == labels["chexpert14"]["Pleural Effusion"] == 0
    assert labels["txrv18"]["Nodule"] == 0
    assert labels["chexpert14"]["Lung Lesion"] is None, "a mass or another lesion would be one too"
    assert labels["txrv18"]["Edema"] is None
    assert labels["chexpert14"]["No Finding"] == 0
    assert labels_of([], "checked", 0.4)["chexpert14"]["No Finding"] is None
