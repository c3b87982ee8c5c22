"""Labels are those that TorchXRayVision's own datasets read from the same tables."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torchxrayvision as xrv

from xreal_synth.findings import CHEXPERT14, NO_FINDING, image_label
from xreal_synth.prepare.chexpert import find_chexpert
from xreal_synth.prepare.found import FoundImages, SourcePlace
from xreal_synth.prepare.mimic import PREFIX, find_mimic
from xreal_synth.prepare.nih import FINDINGS, find_nih
from xreal_synth.storage import open_store


def place(root: Path) -> SourcePlace:
    return SourcePlace(open_store(str(root)), open_store(str(root)))


def cells(draw: random.Random) -> dict[str, str]:
    return {name: draw.choice(["", "", "1.0", "0.0", "-1.0"]) for name in CHEXPERT14}


def check(found: FoundImages, dataset: Any) -> None:
    names = [image_label(name) for name in dataset.pathologies]
    assert len(found.images) == len(dataset.labels)
    for image, row in zip(found.images, dataset.labels.tolist(), strict=True):
        said = {name: value for name, value in zip(names, row, strict=True) if not math.isnan(value)}
        assert set(image.labels) - {NO_FINDING} == {name for name, value in said.items() if value == 1}
        assert set(image.unknown).isdisjoint(said)
        assert set(names) - said.keys() <= set(image.unknown)


def test_chexperts(trees: Any, tmp_path: Path) -> None:
    draw = random.Random(1)
    facts = {"Sex": "Male", "Age": "50", "Frontal/Lateral": "Frontal", "AP/PA": "AP"}
    rows = [{"Path": f"train/patient{n:05d}/study1/view1_frontal.jpg", **facts, **cells(draw)} for n in range(100)]
    trees.table(tmp_path / "train.csv", rows)
    dataset = xrv.datasets.CheX_Dataset(str(tmp_path), str(tmp_path / "train.csv"), ["*"], unique_patients=False)
    check(find_chexpert(place(tmp_path)), dataset)


def test_mimics_by_study_in_the_order_of_the_label_table(trees: Any, tmp_path: Path) -> None:
    draw = random.Random(2)
    studies = [{"subject_id": str(10 + n % 7), "study_id": str(100 + n)} for n in range(60)]
    labels = [study | cells(draw) for study in draw.sample(studies, 60)]
    metadata = [
        {"dicom_id": f"d{n}", **draw.choice(studies[:50]), "ViewPosition": "PA", "StudyDate": 2180} for n in range(100)
    ]
    shown = {row["study_id"] for row in metadata}
    files = [str(tmp_path / f"{PREFIX}-{part}.csv") for part in ("chexpert", "metadata")]
    trees.table(Path(files[0]), [row for row in labels if row["study_id"] in shown])
    trees.table(Path(files[1]), metadata)
    dataset = xrv.datasets.MIMIC_Dataset(str(tmp_path), *files, ["*"], unique_patients=False)
    found = find_mimic(place(tmp_path))
    assert [image.key for image in found.images] == dataset.csv["dicom_id"].tolist()
    check(found, dataset)


@pytest.mark.parametrize("older", [True, False])
def test_nihs(trees: Any, tmp_path: Path, older: bool) -> None:
    draw = random.Random(3)
    rows = []
    for n in range(100):
        named = draw.choice(["No Finding", "|".join(draw.sample(FINDINGS, draw.randint(1, 4)))])
        rows.append({"Image Index": f"{n:08d}_000.png", "Finding Labels": named, "Patient ID": n, "Patient Age": 50,
                     "Patient Gender" if older else "Patient Sex": "F", "View Position": "PA"})  # fmt: skip
        (tmp_path / f"{n:08d}_000.png").touch()
    trees.table(tmp_path / "Data_Entry_2017.csv", rows)
    dataset = xrv.datasets.NIH_Dataset(str(tmp_path), str(tmp_path / "Data_Entry_2017.csv"), views=["*"],
                                       unique_patients=False)  # fmt: skip
    found = find_nih(place(tmp_path))
    check(found, dataset)
    assert all((image.labels == (NO_FINDING,)) == (not any(row)) for image, row in
               zip(found.images, dataset.labels.tolist(), strict=True))  # fmt: skip
