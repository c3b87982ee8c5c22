"""The segmentations of the DICOM export, read back by highdicom and by pydicom, pixel for pixel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xreal_synth import findings as vocab
from xreal_synth.dataset.source import open_source, read_shards
from xreal_synth.export.dicom import FINDINGS, ORGANS, image_header, segmentation
from xreal_synth.export.provenance import provenance
from xreal_synth.export.regions import finding_region
from xreal_synth.storage import LocalStore
from xreal_synth.types import Sample

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

LABELS = {"left_lung": "Left lung", "right_lung": "Right lung", "heart": "Heart", "aorta": "Aorta"}


def wanted(sample: Sample) -> list[tuple[str, np.ndarray]]:
    organs = [(LABELS[name], sample.anatomy == code) for name, code in vocab.ORGANS.items()]
    return organs + [
        (finding.name, finding_region(finding, value, sample.anatomy, sample.pathology))
        for value, finding in enumerate(sample.meta.findings, start=1)
    ]


def test_masks_come_back_as_the_capture_has_its_pixels(dicom: Path, images: dict[str, Sample]) -> None:
    paths = {path.stem: path for path in (dicom / "segmentations").rglob("*.dcm")}
    assert set(paths) == set(images)
    for key, path in paths.items():
        read = highdicom.seg.segread(path)
        captured = pydicom.dcmread(dicom / "images" / path.relative_to(dicom / "segmentations"))
        right = wanted(images[key])
        assert [one.SegmentLabel for one in read.SegmentSequence] == [label for label, _ in right]
        masks = read.get_pixels_by_source_instance([captured.SOPInstanceUID])
        np.testing.assert_array_equal(masks, np.stack([mask for _, mask in right], axis=-1)[None])
        frames = pydicom.dcmread(path).pixel_array
        np.testing.assert_array_equal(frames, np.stack([mask for _, mask in right]))
        for same in ("PatientID", "StudyInstanceUID", "SyntheticData", "InstanceNumber", "PatientOrientation"):
            assert read[same].value == captured[same].value
        assert read.SeriesInstanceUID != captured.SeriesInstanceUID


def test_a_finding_that_a_later_one_hides_is_whole(dicom: Path, images: dict[str, Sample]) -> None:
    read = highdicom.seg.segread(dicom / "segmentations/train/0000000008-v0.dcm")
    assert read.SegmentsOverlap == "YES"
    below, above = pydicom.dcmread(dicom / "segmentations/train/0000000008-v0.dcm").pixel_array[-2:]
    assert (below & above).any()
    assert (below.sum(), above.sum()) == (16 * 16, 12 * 16)


def test_segments_are_coded(dicom: Path) -> None:
    read = pydicom.dcmread(dicom / "segmentations/train/0000000009-v0.dcm")
    coded = {
        one.SegmentLabel: (
            one.SegmentedPropertyCategoryCodeSequence[0].CodeValue,
            kind.CodeValue,
            [side.CodeMeaning for side in kind.get("SegmentedPropertyTypeModifierCodeSequence", [])],
            [region.CodeMeaning for region in one.get("AnatomicRegionSequence", [])],
        )
        for one in read.SegmentSequence
        for kind in one.SegmentedPropertyTypeCodeSequence
    }
    assert coded == {
        "Left lung": ("91723000", "39607008", ["Left"], []),
        "Right lung": ("91723000", "39607008", ["Right"], []),
        "Heart": ("91723000", "80891009", [], []),
        "Aorta": ("91723000", "15825003", [], []),
        "Effusion": ("49755003", "60046008", ["Bilateral"], ["Pleura"]),
        "Cardiomegaly": ("49755003", "49755003", [], ["Heart"]),
    }
    assert {one.SegmentAlgorithmType for one in read.SegmentSequence} == {"AUTOMATIC"}
    assert set(FINDINGS) == set(vocab.FINDINGS)
    assert set(ORGANS) == set(vocab.ORGANS)


def test_nothing_is_of_this_day_and_nothing_is_measured(dicom: Path) -> None:
    for path in (dicom / "segmentations").rglob("*.dcm"):
        read = pydicom.dcmread(path)
        dated = {one.keyword: one.value for one in read.iterall() if one.VR in ("DA", "TM", "DT") and one.value}
        assert dated == {"ContentDate": "19700101", "ContentTime": "000000"}
        assert not {one.keyword for one in read.iterall()} & {"PixelSpacing", "ViewPosition", "FrameOfReferenceUID"}


def test_masks_that_images_do_not_follow_are_no_segments(dataset: Path) -> None:
    source = open_source(LocalStore(dataset))
    reported = replace(provenance(source), follows_masks=False)
    labels = {}
    for _, _, images in read_shards(source):
        for image in images:
            one = segmentation(image, image_header(image, "train", reported), reported)
            labels[image.sample.meta.key] = one and [part.SegmentLabel for part in one.SegmentSequence]
    assert labels["0000000009-h"] is None
    assert labels["0000000009-v0"] == ["Effusion", "Cardiomegaly"]
