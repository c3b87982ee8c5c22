"""DICOM SEG: an image's organs and regions of findings as the segments of one object that refers to its capture.

Attributes follow DICOM PS3.3, Segmentation IOD (A.51), as highdicom writes them. Codes are those of pydicom's code
dictionary alone.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from xreal_synth import findings as vocab
from xreal_synth.dataset.names import ANATOMY, PATHOLOGY
from xreal_synth.dataset.tar import TarSample
from xreal_synth.export.provenance import Provenance
from xreal_synth.export.regions import finding_region
from xreal_synth.types import Sample

ABNORMAL: Final = "SCT.MorphologicallyAbnormalStructure"
ANATOMICAL: Final = "SCT.AnatomicalStructure"
SIDES: Final = {"left": "SCT.Left", "right": "SCT.Right", "both": "SCT.Bilateral"}
ORGANS: Final = {
    "left_lung": ("SCT.Lung", "left"), "right_lung": ("SCT.Lung", "right"), "heart": ("SCT.Heart", "any"),
    "aorta": ("SCT.Aorta", "any"),
}  # fmt: skip
"""Property type and side."""
FINDINGS: Final = {
    **dict.fromkeys(("Atelectasis", "Consolidation", "Pneumonia", "Lung Opacity"), ("DCM.Opacity", "SCT.Lung")),
    "Infiltration": ("DCM.Infiltrate", "SCT.Lung"),
    "Edema": ("SCT.PulmonaryEdema", "SCT.Lung"),
    "Emphysema": ("DCM.AbnormalLucency", "SCT.Lung"),
    "Fibrosis": ("SCT.Fibrosis", "SCT.Lung"),
    "Nodule": ("SCT.Nodule", "SCT.Lung"),
    "Mass": ("SCT.Mass", "SCT.Lung"),
    "Lung Lesion": ("SCT.Lesion", "SCT.Lung"),
    "Pneumothorax": ("SCT.Pneumothorax", "SCT.Pleura"),
    "Effusion": ("SCT.PleuralEffusion", "SCT.Pleura"),
    "Pleural_Thickening": (ABNORMAL, "SCT.Pleura"),
    "Cardiomegaly": (ABNORMAL, "SCT.Heart"),
}
"""Property type, as near as the dictionary has it, and anatomic region."""
NO_DATE: Final = "19700101", "000000"
"""Content date and time: a dataset knows none, and the standard wants one."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment's label, coded concepts (SCHEME.Keyword), side and pixels, bool [H, W]."""

    label: str
    category: str
    kind: str
    region: str | None
    side: str
    mask: npt.NDArray[np.bool_]


def uid(*parts: str) -> str:
    """A UID under 2.25, from a UUID made of the sha256 of the parts (RFC 9562, version 8)."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()[:16]
    bits = int.from_bytes(digest, "big")
    bits = bits & ~(0xF << 76) & ~(0x3 << 62) | (8 << 76) | (2 << 62)
    return f"2.25.{uuid.UUID(int=bits).int}"


def segments_of(sample: Sample, *, follows_masks: bool) -> Iterator[Segment]:
    """The organs there are, none where images do not follow their masks, then each finding that was painted in."""
    for name, code in vocab.ORGANS.items():
        if follows_masks and (mask := sample.anatomy == code).any():
            kind, side = ORGANS[name]
            yield Segment(name.replace("_", " ").capitalize(), ANATOMICAL, kind, None, side, mask)
    for value, finding in enumerate(sample.meta.findings, start=1):
        kind, region = FINDINGS.get(finding.name, (ABNORMAL, None))
        mask = finding_region(finding, value, sample.anatomy, sample.pathology)
        yield Segment(finding.name, ABNORMAL, kind, region, finding.side, mask)


def segmentation(image: TarSample, capture: Any, reported: Provenance) -> Any | None:
    """The highdicom Segmentation of an image, a frame per segment, or None where it has no segment.

    It has the capture's patient and study and, as the capture, no frame of reference, pixel spacing or view: a
    dataset knows none. The same image gives the same bytes with the same highdicom.
    """
    meta = image.sample.meta
    from highdicom.seg import Segmentation, SegmentationTypeValues
    from pydicom.uid import ExplicitVRLittleEndian

    segments = list(segments_of(image.sample, follows_masks=reported.follows_masks))
    if not segments:
        return None
    one = Segmentation(
        source_images=[capture], segmentation_type=SegmentationTypeValues.BINARY, omit_empty_frames=False,
        pixel_array=np.stack([segment.mask for segment in segments], axis=-1)[None].astype(np.uint8),
        segment_descriptions=[_description(number, one, reported) for number, one in enumerate(segments, start=1)],
        series_instance_uid=uid(meta.digest, "segmentations", str(meta.group)),
        series_number=2**30 + capture.SeriesNumber % 2**30, series_description=capture.SeriesDescription,
        sop_instance_uid=uid(meta.digest, "segmentation", meta.key, image.sha256, _masks_digest(image)),
        instance_number=capture.InstanceNumber, manufacturer=capture.Manufacturer,
        manufacturer_model_name=capture.SecondaryCaptureDeviceManufacturerModelName,
        software_versions=capture.SecondaryCaptureDeviceSoftwareVersions,
        device_serial_number=reported.bundle.hash[:12], transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label="CHEST", content_description="Organs and the regions in which findings were asked for",
    )  # fmt: skip
    one.SyntheticData, one.PatientOrientation = capture.SyntheticData, capture.PatientOrientation
    _take_out_the_present(one, uid(meta.digest, "dimensions"))
    return one


def _masks_digest(image: TarSample) -> str:
    """The sha256 of the masks that the segments are made of."""
    masks = (image.member(suffix) for suffix in (ANATOMY, PATHOLOGY))
    return hashlib.sha256(b"".join(hashlib.sha256(mask).digest() for mask in masks)).hexdigest()


def _description(number: int, segment: Segment, reported: Provenance) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from highdicom.sr import CodedConcept

    version = reported.made_with.get("xreal-synth", "unknown")
    by = AlgorithmIdentificationSequence("xreal-synth", _code("DCM.ArtificialIntelligence"), version)
    described = SegmentDescription(
        segment_number=number, segment_label=segment.label[:64],
        segmented_property_category=_code(segment.category), segmented_property_type=_code(segment.kind),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC, algorithm_identification=by,
        anatomic_regions=[_code(segment.region)] if segment.region else None,
    )  # fmt: skip
    if segment.side in SIDES:
        side = CodedConcept.from_code(_code(SIDES[segment.side]))
        described.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return described


def _code(name: str) -> Any:
    from pydicom.sr.codedict import codes

    scheme, keyword = name.split(".")
    return getattr(getattr(codes, scheme), keyword)


def _take_out_the_present(one: Any, dimensions: str) -> None:
    """Replaces what highdicom fills in from the clock and at random, and an acquisition that never was."""
    for keyword in ("InstanceCreationDate", "InstanceCreationTime", "ContributingEquipmentSequence"):
        delattr(one, keyword)
    one.ContentDate, one.ContentTime = NO_DATE
    for item in (*one.DimensionIndexSequence, *one.DimensionOrganizationSequence):
        item.DimensionOrganizationUID = dimensions
