"""Small trees laid out like the public sets, and a tiny segmenter fitted to their drawn images."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from torch.nn import functional

from tests.doubles.schematic import schematic_mask
from xreal_synth.findings import CHEXPERT14
from xreal_synth.models.load import WEIGHTS
from xreal_synth.models.networks.segmenters import OrganSegmenter
from xreal_synth.models.save import read_fields, write_bundle
from xreal_synth.models.tiny import build_tiny
from xreal_synth.types import GreyImage, Mask

SIDE = 64


def draw_pair(number: int, size: int = SIDE) -> tuple[GreyImage, Mask]:
    """A drawn chest: dark lungs, bright heart and aorta, a little noise."""
    rng = np.random.default_rng([7, number])
    mask = schematic_mask(size, rng)
    image = np.select([np.isin(mask, (1, 2)), mask == 3, mask == 4], [60, 200, 230], 140)
    return (image + rng.normal(0, 4, mask.shape)).clip(0, 255).astype(np.uint8), mask


def save_image(path: Path, number: int, size: int = SIDE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_pair(number, size)[0]).save(path, quality=95)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def dicom_bytes(image: GreyImage, kind: str = "MONOCHROME2", window: bool = True, **extra: Any) -> bytes:
    """The image as 12-bit DICOM of levels 16 times as large, with a rescale of -100."""
    levels = image.astype(np.uint16) * 16
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["test"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID)
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = kind, 1
    dataset.Rows, dataset.Columns = image.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.ViewPosition = 1, -100, "AP"
    if window:
        dataset.WindowCenter, dataset.WindowWidth = 1948, 4080
    dataset.PixelData = levels.tobytes()
    for name, value in extra.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


@dataclass(frozen=True)
class Trees:
    """Builders of small public trees below a folder; each returns the set's root."""

    pair: Callable[..., tuple[GreyImage, Mask]] = draw_pair
    image: Callable[..., None] = save_image
    table: Callable[[Path, list[dict[str, Any]]], None] = write_csv
    dicom: Callable[..., bytes] = dicom_bytes

    def nih(self, root: Path) -> Path:
        """Ten images of five patients in two image folders; image 9 is of a child."""
        labels = ["No Finding", "Pneumonia", "Effusion|Infiltration", "Mass", "Edema|Hernia"]
        rows = []
        for n in range(10):
            name = f"{n // 2:08d}_{n % 2:03d}.png"
            save_image(root / f"images_{1 + n % 2:03d}" / "images" / name, n)
            rows.append(
                {
                    "Image Index": name, "Finding Labels": labels[n % 5], "Follow-up #": n % 2,
                    "Patient ID": n // 2, "Patient Age": "012Y" if n == 9 else f"{40 + n:03d}Y",
                    "Patient Gender": "FM"[n % 2], "View Position": ["PA", "AP"][n % 2],
                    "OriginalImage[Width": 2500, "Height]": 2048,
                }
            )  # fmt: skip
        write_csv(root / "Data_Entry_2017.csv", rows)
        (root / "test_list.txt").write_text("00000001_000.png\n00000001_001.png\n")
        boxes = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Infiltrate,256,512,128,256,,,\n"
        (root / "BBox_List_2017.csv").write_text(boxes)
        return root

    def chexpert(self, root: Path) -> Path:
        """Six frontal images and a lateral one of training patients, one of a validation patient."""
        rows: dict[str, list[dict[str, Any]]] = {"train": [], "valid": []}
        for n in range(8):
            split, lateral = ("valid" if n == 7 else "train"), n == 6
            name = f"{split}/patient{n // 2 + 1:05d}/study{n % 2 + 1}/view1_{'lateral' if lateral else 'frontal'}.jpg"
            if n == 7:
                name = name.replace("00004", "64541")
            save_image(root / name, 20 + n)
            cells = dict.fromkeys(CHEXPERT14, "")
            cells.update(CHEXPERT_CELLS[n])
            front = {"Frontal/Lateral": "Lateral" if lateral else "Frontal", "AP/PA": "" if lateral else "AP"}
            rows[split].append(
                {"Path": f"CheXpert-v1.0-small/{name}", "Sex": "Female", "Age": 0 if n == 5 else 60, **front, **cells}
            )
        for split, found in rows.items():
            write_csv(root / f"{split}.csv", found)
        return root

    def mimic(self, root: Path, ending: str = ".jpg") -> Path:
        """Six frontal images and a lateral one of four patients; tables gzipped as published."""
        labels, meta, splits = [], [], []
        for n in range(7):
            subject, study, name = (10000032 + n // 2, 50414267 + n, f"02aa804e-bde0afdd-112c0b34-7bc16630-4e38401{n}")
            path = root / f"files/p10/p{subject}/s{study}/{name}{ending}"
            save_image(path.with_suffix(".jpg"), 40 + n)
            if ending == ".dcm":
                path.with_suffix(".jpg").unlink()
                image = draw_pair(40 + n)[0]
                inverted = dicom_bytes(255 - image, "MONOCHROME1")
                path.write_bytes(inverted if n == 1 else dicom_bytes(image))
            cells = dict.fromkeys(CHEXPERT14, "") | CHEXPERT_CELLS[n]
            labels.append({"subject_id": subject, "study_id": study, **cells})
            view = "LATERAL" if n == 6 else ["PA", "AP"][n % 2]
            meta.append(
                {
                    "dicom_id": name,
                    "subject_id": subject,
                    "study_id": study,
                    "ViewPosition": view,
                    "StudyDate": 21800506,
                }
            )
            split = "validate" if n // 2 == 2 else "train"
            splits.append({"dicom_id": name, "study_id": study, "subject_id": subject, "split": split})
        for part, rows in (("chexpert", labels), ("metadata", meta), ("split", splits)):
            write_csv(root / f"mimic-cxr-2.0.0-{part}.csv.gz", rows)
        return root

    def folder(self, root: Path, images: int = 12) -> list[dict[str, str]]:
        """A table of one's own with masks, and its images; returns the table's rows."""
        rows = []
        for n in range(images):
            image, mask = draw_pair(60 + n)
            for name, pixels in ((f"images/f{n}.png", image), (f"masks/m{n}.png", mask)):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / name)
            finding = ["No Finding", "Pneumonia", "Pneumonia|pleural fluid", "Edema"][n % 4]
            rows.append(
                {
                    "file": f"images/f{n}.png", "pid": f"P{n // 2}", "report": finding, "unsure": "",
                    "mask": f"masks/m{n}.png", "view": "PA", "age": "50",
                }
            )  # fmt: skip
        write_csv(root / "list.csv", rows)
        return rows


CHEXPERT_CELLS: list[dict[str, Any]] = [
    {"No Finding": "1.0", "Support Devices": "1.0"},
    {"Pleural Effusion": "1.0", "Pneumonia": "-1.0", "Edema": "0.0"},
    {"Pneumonia": "1.0", "Lung Opacity": "1.0", "Cardiomegaly": "0.0"},
    {"Atelectasis": "-1.0"},
    {"Edema": "1.0"},
    {"No Finding": "1.0"},
    {"No Finding": "1.0"},
    {"Pneumothorax": "1.0", "Edema": "-1.0"},
]


@pytest.fixture(scope="session")
def trees() -> Trees:
    return Trees()


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a segmenter of a few thousand weights that knows drawn chests."""
    folder = tmp_path_factory.mktemp("bundle")
    build_tiny(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = OrganSegmenter(32, (8, 8))
        pairs = [draw_pair(1000 + n) for n in range(16)]
        images = torch.from_numpy(np.stack([image for image, _ in pairs]))[:, None].float() / 255
        label_map = torch.from_numpy(np.stack([mask for _, mask in pairs])).long()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
        for _ in range(80):
            loss = functional.cross_entropy(network(images), label_map, weight=torch.tensor([1.0, 1, 1, 1, 4]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.save_pretrained(folder / "segmenter")
    assert (folder / "segmenter" / WEIGHTS).is_file()
    return write_bundle(folder, read_fields(folder / "bundle.json")).root
