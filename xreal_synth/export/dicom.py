"""DICOM: each image as a secondary capture that says of itself that it is synthetic, or edited, with its segmentation.

Attributes follow DICOM PS3.3, Secondary Capture Image IOD (A.8.1). The masks lie beside the images as PNGs too.
"""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any, Final

from xreal_synth.dataset.names import ANATOMY, CHANGE, PATHOLOGY
from xreal_synth.dataset.origin import NOTICES, Origin, origin_of, pseudonym
from xreal_synth.dataset.source import OnImage, Source, each_image
from xreal_synth.dataset.table import LABEL_COLUMNS, label_columns
from xreal_synth.dataset.tar import TarSample
from xreal_synth.errors import XrealError
from xreal_synth.escaping import for_csv
from xreal_synth.export.dicom_seg import segmentation, uid
from xreal_synth.export.place import new_file, write_member
from xreal_synth.export.provenance import Provenance, provenance
from xreal_synth.types import Role, SampleMeta

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
