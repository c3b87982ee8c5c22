"""DICOM images as grey levels: what a viewer shows, bright where the body is dense."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xreal_synth.errors import TrainingError
from xreal_synth.images.manifest import BadImage, RowFault
from xreal_synth.prepare.grey import stretched, windowed

PREAMBLE = 128
MAGIC = b"DICM"
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")


def is_dicom(data: bytes) -> bool:
    return data[PREAMBLE : PREAMBLE + len(MAGIC)] == MAGIC


def decode_dicom(data: bytes) -> tuple[NDArray[np.uint8], str]:
    """A DICOM file's bytes -> grey levels uint8 [H, W] and its ViewPosition ("" where it has none).

    The modality's rescale comes first, then the file's VOI lookup table or window; a file without either is
    shown from its 0.5th to its 99.5th percentile. MONOCHROME1 is inverted. Raises BadImage for a file without one
    grey frame or with fewer pixels than it says, TrainingError if pydicom is not installed.
    """
    pydicom = _pydicom()
    try:
        dataset = pydicom.dcmread(io.BytesIO(data))
        kind = str(dataset.get("PhotometricInterpretation", "none"))
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
        if kind not in MONOCHROME or frames != 1:
            raise BadImage(
                RowFault.UNREADABLE, f"DICOM of {frames} frame(s), {kind}; wanted one of MONOCHROME1 or 2"
            )
        image = _shown(dataset)
    except BadImage:
        raise
    except Exception as error:  # pydicom and its decoders raise whatever a broken file leads them to
        raise BadImage(RowFault.UNREADABLE, f"DICOM: {type(error).__name__}: {error}") from error
    if image.ndim != 2:
        raise BadImage(RowFault.UNREADABLE, f"DICOM of shape {image.shape}")
    return (255 - image if kind == "MONOCHROME1" else image), str(dataset.get("ViewPosition", "") or "")


def _shown(dataset: Any) -> NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    levels = apply_modality_lut(dataset.pixel_array, dataset)
    if "WindowWidth" in dataset or "VOILUTSequence" in dataset:
        return stretched(np.asarray(apply_voi_lut(levels, dataset), np.float64))
    return windowed(np.asarray(levels, np.float64))


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise TrainingError(
            found="a DICOM image, and pydicom is not installed",
            wanted="the package that reads it",
            hint="pip install 'xreal-synth[dicom]'",
        ) from error
    return pydicom
