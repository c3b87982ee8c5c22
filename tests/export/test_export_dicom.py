"""The DICOM export, read back by pydicom."""

from __future__ import annotations

import csv
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xreal_synth.dataset.source import open_source, read_shards
from xreal_synth.errors import XrealError
from xreal_synth.export.dicom import image_header, need_pydicom, uid, write_dicom
from xreal_synth.export.provenance import provenance
from xreal_synth.storage import LocalStore
from xreal_synth.types import Sample

pydicom = pytest.importorskip("pydicom")

REQUIRED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber", "Modality", "SeriesInstanceUID", "SeriesNumber",
    "ConversionType", "InstanceNumber", "PatientOrientation", "SOPClassUID", "SOPInstanceUID",
)  # fmt: skip
"""Attributes of type 1 and 2 in the modules of a secondary capture (PS3.3, A.8.1), pixels aside."""


def test_pixels_come_back(dicom: Path, images: dict[str, Sample]) -> None:
    files = {path.stem: path for path in (dicom / "images").rglob("*.dcm")}
    assert set(files) == set(images)
    for key, path in files.items():
        read = pydicom.dcmread(path)
        np.testing.assert_array_equal(read.pixel_array, images[key].image)
        assert read.pixel_array.dtype == np.uint8
        assert read.PhotometricInterpretation == "MONOCHROME2"


def test_a_file_says_that_it_is_synthetic_and_nobodys(dicom: Path) -> None:
    read = pydicom.dcmread(dicom / "images/train/0000000009-v0.dcm")
    assert read[0x0008, 0x001C].value == "YES"
    assert read.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert list(read.ImageType) == ["DERIVED", "SECONDARY"]
    assert (read.Modality, read.ConversionType) == ("OT", "SYN")
    assert [name for name in REQUIRED if name not in read] == []
    for empty in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName"):
        assert not read[empty].value
    assert read.PatientID == "SYNTHETIC-dddddddd-0000000009"
    assert str(read.PatientName).startswith("SYNTHETIC")
    assert "not for diagnosis" in read.StudyDescription
    assert "requested: Effusion (side both, zone lower), box 8,32,24,48 and 40,32,56,48" in read.ImageComments
    assert "requested: Cardiomegaly" in read.ImageComments
    healthy = pydicom.dcmread(dicom / "images/val/0000000000-h.dcm")
    assert "requested: no finding" in healthy.ImageComments


def test_images_edited_from_real_ones_say_so(dataset: Path) -> None:
    source = open_source(LocalStore(dataset))
    reported = {}
    for _, _, images in read_shards(source):
        for image in images:
            meta = replace(image.sample.meta, anatomy_source="images", anatomy_id="Doe^John.png")
            edited = replace(image, sample=replace(image.sample, meta=meta))
            reported[meta.key] = image_header(edited, "train", provenance(source))
    real, edited = reported["0000000001-h"], reported["0000000001-v0"]
    assert (real.SyntheticData, edited.SyntheticData) == ("NO", "YES")
    assert "edited by a model" in edited.ImageComments
    assert "as it is" in real.ImageComments
    assert real.PatientID.startswith("IMAGE-")
    assert (
        len({one.PatientID for one in reported.values()})
        == len({one.StudyInstanceUID for one in reported.values()})
        == 1
    )
    assert len({one.SeriesInstanceUID for one in reported.values()}) == 10
    assert not any("Doe" in str(one) or "does not show a patient" in str(one) for one in reported.values())


def test_every_value_is_as_the_standard_allows(dicom: Path) -> None:
    pydicom.config.settings.reading_validation_mode = pydicom.config.RAISE
    try:
        for path in dicom.rglob("*.dcm"):
            read = pydicom.dcmread(path)
            for element in read:
                assert element.value is not None
            assert read.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
            assert path.read_bytes()[128:132] == b"DICM"
    finally:
        pydicom.config.settings.reading_validation_mode = pydicom.config.WARN


def test_uids_name_instances_series_and_studies(dicom: Path) -> None:
    paths = (dicom / "images").rglob("*.dcm")
    read = {path.stem: pydicom.dcmread(path, stop_before_pixels=True) for path in paths}
    assert len({one.SOPInstanceUID for one in read.values()}) == 18
    assert len({one.SeriesInstanceUID for one in read.values()}) == 10
    twin, variant, other = (read[key] for key in ("0000000001-h", "0000000001-v0", "0000000002-h"))
    assert twin.StudyInstanceUID == variant.StudyInstanceUID != other.StudyInstanceUID
    assert twin.PatientID == variant.PatientID != other.PatientID
    assert (twin.InstanceNumber, variant.InstanceNumber) == (1, 2)


def test_uid_is_a_uuid_under_2_25() -> None:
    made = uid("a", "b")
    assert made == uid("a", "b") != uid("ab", "")
    assert pydicom.uid.UID(made).is_valid
    assert len(made) <= 64
    number = uuid.UUID(int=int(made.removeprefix("2.25.")))
    assert (number.version, number.variant) == (8, uuid.RFC_4122)


def test_the_same_dataset_makes_the_same_files(dataset: Path, dicom: Path, tmp_path: Path) -> None:
    again = tmp_path
    write_dicom(open_source(LocalStore(dataset)), again, lambda done, total: None)
    names = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert len(names) == 18 * 5 + 1
    assert all((again / name).read_bytes() == (dicom / name).read_bytes() for name in names)


def test_table_and_masks(dicom: Path, images: dict[str, Sample]) -> None:
    with (dicom / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == list(images)
    for row in rows:
        read = pydicom.dcmread(dicom / row["file"], stop_before_pixels=True)
        assert (row["sop_instance_uid"], row["patient_id"]) == (read.SOPInstanceUID, read.PatientID)
        sample = images[row["key"]]
        label = sample.meta.labels["txrv18"]["Hernia"]
        assert row["txrv18.Hernia"] == ("" if label is None else str(label))
        with Image.open(dicom / "masks" / f"{row['key']}.pathology.png") as mask:
            np.testing.assert_array_equal(np.asarray(mask), sample.pathology)


def test_without_pydicom_the_hint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(XrealError, match=r"pip install 'xreal-synth\[dicom\]'"):
        need_pydicom()
