"""DICOM: each image as a secondary capture that says of itself that it is synthetic, or edited, with its segmentation.

Attributes follow DICOM PS3.3, Secondary Capture Image IOD (A.8.1), and Segmentation IOD (A.51), as highdicom writes
them: organs and regions of findings are the segments of one object that refers to its capture. Codes are those of
pydicom's code dictionary alone. The masks lie beside the images as PNGs too.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from xreal_synth import findings as vocab
from xreal_synth.dataset.names import ANATOMY, CHANGE, PATHOLOGY
from xreal_synth.dataset.origin import NOTICES, Origin, origin_of, pseudonym
from xreal_synth.dataset.source import OnImage, Source, each_image
from xreal_synth.dataset.table import LABEL_COLUMNS, label_columns
from xreal_synth.dataset.tar import TarSample
from xreal_synth.errors import XrealError
from xreal_synth.escaping import for_csv
from xreal_synth.export.place import new_file, write_member
from xreal_synth.export.provenance import Provenance, provenance
from xreal_synth.export.regions import finding_region
from xreal_synth.types import Role, Sample, SampleMeta

IMAGES: Final = "images"
SEGMENTATIONS: Final = "segmentations"
MASKS: Final = "masks"
TABLE: Final = "labels.csv"
MANUFACTURER: Final = "xreal-synth"
LARGEST_COMMENT: Final = 10_240
_DERIVED: Final = {
    Origin.synthetic: "Drawn by a model from {drawn_from}; no patient was imaged.",
    Origin.edited: "A real image in which a model painted findings in or over.",
    Origin.real: "A real image, resized; nothing was painted.",
}
_MEMBERS: Final = {Role.healthy: 0, Role.variant: 1, Role.sham: 2}

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


def need_pydicom() -> None:
    """Raises XrealError where pydicom or highdicom is not installed."""
    for package in ("pydicom", "highdicom"):
        if importlib.util.find_spec(package) is None:
            raise XrealError(
                found=f"the DICOM export needs {package}, which is not installed",
                hint="pip install 'xreal-synth[dicom]'",
            )


def write_dicom(source: Source, folder: Path, on_image: OnImage) -> None:
    """Writes `images/SPLIT/KEY.dcm`, `segmentations/SPLIT/KEY.dcm`, masks/KEY.SUFFIX.png and `labels.csv`.

    An anatomy is a patient with one study; a group is a series, and its images are the instances, their
    segmentations another. An image without organ mask and finding has no segmentation. The same dataset gives the
    same files, byte for byte, with the same pydicom and highdicom. Raises XrealError without them.
    """
    need_pydicom()
    reported = provenance(source)
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "segmentation", "key", "split", "patient_id", "sop_instance_uid", *LABEL_COLUMNS])
        for image in each_image(source, on_image):
            meta, split = image.sample.meta, image.sample.split
            header = image_header(image, split, reported)
            segments = segmentation(image, header, reported)
            name = _save(header, folder, f"{IMAGES}/{split}/{meta.key}.dcm")
            segmented = _save(segments, folder, f"{SEGMENTATIONS}/{split}/{meta.key}.dcm") if segments else ""
            for suffix in (ANATOMY, PATHOLOGY, CHANGE):
                write_member(folder, f"{MASKS}/{meta.key}.{suffix}", image, suffix)
            row = [name, segmented, meta.key, split, header.PatientID, header.SOPInstanceUID]
            table.writerow(map(for_csv, [*row, *label_columns(meta).values()]))


def _save(one: Any, folder: Path, name: str) -> str:
    one.save_as(new_file(folder, name), enforce_file_format=True)
    return name


def image_header(image: TarSample, split: str, reported: Provenance) -> Any:
    """The pydicom Dataset of an image, pixels included.

    The instance's UID follows from digest, key and the image's own bytes, so that no two different images
    ever share one.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    meta = image.sample.meta
    subject = pseudonym(meta)
    one = Dataset()
    one.SpecificCharacterSet = "ISO_IR 192"
    one.SOPClassUID = SecondaryCaptureImageStorage
    one.SOPInstanceUID = uid(meta.digest, "instance", meta.key, image.sha256)
    one.SyntheticData = "NO" if origin_of(meta) is Origin.real else "YES"
    one.StudyInstanceUID = uid(meta.digest, "study", subject)
    one.SeriesInstanceUID = uid(meta.digest, "series", str(meta.group))
    _describe(one, meta, split, reported)
    _nobody(one, meta)
    _add_pixels(one, image)
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    return one


def _describe(one: Any, meta: SampleMeta, split: str, reported: Provenance) -> None:
    """Study, series, equipment and what was drawn."""
    origin = origin_of(meta)
    one.ImageType = ["DERIVED", "SECONDARY"]
    one.Modality = "OT"
    one.ConversionType = "WSD" if origin is Origin.real else "SYN"
    one.Manufacturer = MANUFACTURER
    one.SecondaryCaptureDeviceManufacturer = MANUFACTURER
    one.SecondaryCaptureDeviceManufacturerModelName = f"{reported.bundle.name} {reported.bundle.hash[:12]}"[:64]
    one.SecondaryCaptureDeviceSoftwareVersions = reported.made_with.get("xreal-synth", "unknown")
    one.BodyPartExamined = "CHEST"
    one.PatientOrientation = ["L", "F"]
    if origin is Origin.synthetic:
        one.BurnedInAnnotation = "NO"
    one.LossyImageCompression = "00"
    one.StudyID = "1"
    kind = "SYNTHETIC" if origin is Origin.synthetic else "EDITED"
    one.StudyDescription = f"{kind} chest X-ray, not for diagnosis"
    one.SeriesDescription = f"{kind} {reported.dataset}"[:64]
    one.SeriesNumber = meta.group % 2**31
    healthy = meta.member == Role.healthy
    one.InstanceNumber = 1 if healthy else 2 * int(meta.member[1:]) + 1 + _MEMBERS[Role.of(meta.member)]
    one.ImageComments = comment(meta, split, reported)[:LARGEST_COMMENT]
    one.DerivationDescription = (
        f"{_DERIVED[origin].format(drawn_from=reported.drawn_from)} Model {reported.bundle.name}, recipe digest "
        f"{meta.digest}, key {meta.key}."
    )


def comment(meta: SampleMeta, split: str, reported: Provenance) -> str:
    """What was asked for and where, one line each; boxes are x0, y0, x1, y1 in pixels, half-open."""
    lines = [NOTICES[origin_of(meta)], f"key: {meta.key}; split: {split}; dataset: {reported.dataset}"]
    for place in (*meta.findings, *meta.sham):
        boxes = " and ".join(",".join(map(str, box)) for box in place.boxes)
        asked = f"requested: {place.name} (side {place.side}, zone {place.zone})"
        lines.append(f"{'sham edit: painted with the healthy prompt' if meta.sham else asked}, box {boxes}")
    if not meta.findings:
        lines.append("requested: no finding")
    lines.append("A label says what was asked for at that place, not what a radiologist read there.")
    lines.append(f"licence: {reported.licence}; use: {reported.use_restriction}")
    return "\r\n".join(lines)


def _nobody(one: Any, meta: SampleMeta) -> None:
    """The patient module and the dates, with nothing in them that could be taken for a person's."""
    one.PatientID = pseudonym(meta)
    one.PatientName = one.PatientID.replace("-", "^", 1)
    one.PatientComments = NOTICES[origin_of(meta)]
    for empty in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
                  "ReferringPhysicianName"):  # fmt: skip
        setattr(one, empty, "")


def _add_pixels(one: Any, image: TarSample) -> None:
    pixels = image.sample.image
    one.SamplesPerPixel = 1
    one.PhotometricInterpretation = "MONOCHROME2"
    one.Rows, one.Columns = pixels.shape
    one.BitsAllocated = one.BitsStored = 8
    one.HighBit = 7
    one.PixelRepresentation = 0
    one.WindowCenter, one.WindowWidth = 128, 256
    data = pixels.tobytes()
    one.add_new("PixelData", "OB", data + b"\0" * (len(data) % 2))


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
    hashes = [hashlib.sha256(image.member(suffix)).digest() for suffix in (ANATOMY, PATHOLOGY)]
    masks = hashlib.sha256(b"".join(hashes)).hexdigest()
    one = Segmentation(
        source_images=[capture], segmentation_type=SegmentationTypeValues.BINARY, omit_empty_frames=False,
        pixel_array=np.stack([segment.mask for segment in segments], axis=-1)[None].astype(np.uint8),
        segment_descriptions=[_description(number, one, reported) for number, one in enumerate(segments, start=1)],
        series_instance_uid=uid(meta.digest, "segmentations", str(meta.group)),
        series_number=2**30 + capture.SeriesNumber % 2**30, series_description=capture.SeriesDescription,
        sop_instance_uid=uid(meta.digest, "segmentation", meta.key, image.sha256, masks),
        instance_number=capture.InstanceNumber, manufacturer=capture.Manufacturer,
        manufacturer_model_name=capture.SecondaryCaptureDeviceManufacturerModelName,
        software_versions=capture.SecondaryCaptureDeviceSoftwareVersions,
        device_serial_number=reported.bundle.hash[:12], transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label="CHEST", content_description="Organs and the regions in which findings were asked for",
    )  # fmt: skip
    one.SyntheticData, one.PatientOrientation = capture.SyntheticData, capture.PatientOrientation
    _take_out_the_present(one, uid(meta.digest, "dimensions"))
    return one


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
