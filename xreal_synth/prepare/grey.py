"""Any image as 8-bit grey levels, and as the square that networks are trained on; a DICOM image is what a viewer shows,
bright where the body is dense."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xreal_synth.anatomy.label_map import resize_mask
from xreal_synth.errors import TrainingError
from xreal_synth.images.files import DEEP, decode_image, upright
from xreal_synth.images.manifest import BadImage, ImageBox, RowFault
from xreal_synth.opening import MAX_PIXELS, UnreadableError, open_image
from xreal_synth.prepare.found import view_of, years
from xreal_synth.types import GreyImage, Mask

Fit = Literal["crop", "pad"]
PERCENTILES = (0.5, 99.5)
LOOK = 16
"""Side of the small picture by which images are compared."""
_PHOTOMETRIC = 262
"""TIFF's tag: 0 where white is zero, which Pillow minds for 8 bits alone."""
PREAMBLE = 128
MAGIC = b"DICM"
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
"""Of a file that begins without preamble: those of the meta header and of identification, little endian."""
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
MODALITIES: Final = ("", "CR", "DX", "DR", "RG", "RF", "XA", "OT", "SC", "PX")
"""Of projections, and of what says nothing."""
_CHEST: Final = re.compile("CHEST|THORA|LUNG|TORSO|RIB")


def scaled(levels: NDArray[np.float64], percentiles: tuple[float, float] = PERCENTILES) -> NDArray[np.uint8]:
    """Levels of any depth, of any shape -> uint8, from one percentile to the other; raises BadImage for one colour."""
    low, high = np.percentile(levels, percentiles)
    if not (np.isfinite(low) and np.isfinite(high)) or high <= low:
        raise BadImage(RowFault.ONE_COLOUR, "image has only one colour")
    return np.asarray(np.clip((levels - low) / (high - low) * 255 + 0.5, 0, 255), np.uint8)


def decode_picture(data: bytes) -> GreyImage:
    """A PNG, JPEG or TIFF of 8 or 16 bits -> uint8 [H, W]; deeper than 8 bits by percentiles. Raises BadImage."""
    try:
        with open_image(data) as image:
            if image.mode not in DEEP:
                return decode_image(data)
            levels = np.asarray(upright(image), np.float64)
            inverse = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    except UnreadableError as error:
        raise BadImage(RowFault.UNREADABLE, str(error)) from error
    if strange := int((~np.isfinite(levels)).sum()):
        raise BadImage(RowFault.BAD_VALUE, f"{strange} pixels are not numbers")
    return 255 - scaled(levels) if inverse else scaled(levels)


def look_of(image: GreyImage) -> str:
    """An image uint8 [S, S] as a small picture, 16 x 16 grey levels, in base64."""
    small = Image.fromarray(image).resize((LOOK, LOOK), Image.Resampling.BOX)
    return base64.b64encode(small.tobytes()).decode()


@dataclass(frozen=True, slots=True)
class Square:
    """The square of `side` source pixels that is shown, its corner at (x, y); it reaches beyond a padded image."""

    x: int
    y: int
    side: int

    @classmethod
    def of(cls, width: int, height: int, fit: Fit) -> Square:
        """Centred: the largest inside the image (crop), or the smallest round it (pad)."""
        side = min(width, height) if fit == "crop" else max(width, height)
        return cls((width - side) // 2, (height - side) // 2, side)

    def image(self, image: GreyImage, size: int) -> GreyImage:
        """The image in this square, uint8 [size, size]; black beyond the image."""
        return np.asarray(self._cut(image).resize((size, size), Image.Resampling.LANCZOS))

    def mask(self, mask: Mask, size: int) -> Mask:
        """A mask of the image's size in this square, uint8 [size, size]."""
        return resize_mask(np.asarray(self._cut(mask)), size)

    def boxes(self, boxes: tuple[ImageBox, ...], width: int, height: int) -> tuple[ImageBox, ...]:
        """Boxes normalised to the image -> normalised to the square; what lies outside is cut off or left out."""
        found = []
        for boxed in boxes:
            pixels = np.array(boxed.box) * (width, height, width, height)
            x0, y0, x1, y1 = ((pixels - (self.x, self.y, self.x, self.y)) / self.side).clip(0, 1).tolist()
            if x1 > x0 and y1 > y0:
                found.append(ImageBox(boxed.name, (x0, y0, x1, y1)))
        return tuple(found)

    def _cut(self, pixels: NDArray[np.uint8]) -> Image.Image:
        return Image.fromarray(pixels).crop((self.x, self.y, self.x + self.side, self.y + self.side))


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts that an image's file tells, "" where it does not: PA, AP or another view, age in years, M or F."""

    view: str = ""
    age: str = ""
    sex: str = ""


def is_dicom(data: bytes) -> bool:
    """With the preamble, or without, as some archives write it."""
    if data[PREAMBLE : PREAMBLE + len(MAGIC)] == MAGIC:
        return True
    return data[:2] in _FIRST_GROUPS and data[2:4] < b"\x20\x00" and len(data) > PREAMBLE


def decode_dicom(data: bytes) -> tuple[NDArray[np.uint8], Facts]:
    """A DICOM file's bytes -> grey levels uint8 [H, W], and what the file says of them.

    The modality's rescale comes first, then the file's VOI lookup table or window; a file without one that can be
    used is shown from its 0.5th to its 99.5th percentile. MONOCHROME1 and an inverse presentation are inverted.
    Padding has no part in this and is black. Raises BadImage for what is not one grey projection of a chest or has
    fewer pixels than it says, TrainingError if pydicom is not installed.
    """
    try:
        import pydicom
        from pydicom.uid import ImplicitVRLittleEndian
    except ImportError as error:
        raise TrainingError(
            found="a DICOM image, and pydicom is not installed",
            wanted="the package that reads it",
            hint="pip install 'xreal-synth[dicom]'",
        ) from error

    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        _check_dicom(dataset)
        if "TransferSyntaxUID" not in dataset.file_meta:  # no meta header: what pydicom found the file to be
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        levels = dataset.pixel_array
        if levels.ndim != 2:
            raise BadImage(RowFault.UNREADABLE, f"DICOM: pixels of shape {levels.shape}")
        image = _shown(levels, dataset)
        facts = _facts(dataset)
    except BadImage:
        raise
    except Exception as error:  # pydicom and its decoders raise whatever a broken file leads them to
        raise BadImage(RowFault.UNREADABLE, f"DICOM: {type(error).__name__}: {error}") from error
    return image, facts


def _check_dicom(dataset: Any) -> None:
    """Raises BadImage with the tag that says that this is not one grey projection of a chest."""
    frames, (rows, columns) = int(_text(dataset, "NumberOfFrames") or 1), (dataset.Rows, dataset.Columns)
    aspect = [float(one) for one in dataset.get("PixelAspectRatio", None) or (1, 1)]
    spacing = [float(one) for one in dataset.get("PixelSpacing", None) or (1, 1)]
    body = _text(dataset, "BodyPartExamined").upper()
    wrong = {
        "PhotometricInterpretation": (_text(dataset, "PhotometricInterpretation") in MONOCHROME, MONOCHROME),
        "NumberOfFrames": (frames == 1, ("1",)),
        "Modality": (_text(dataset, "Modality").upper() in MODALITIES, MODALITIES[1:]),
        "BodyPartExamined": (not body or _CHEST.search(body) is not None, ("CHEST",)),
        "PixelAspectRatio": (aspect[0] == aspect[-1], ("1:1",)),
        "PixelSpacing": (abs(spacing[0] / spacing[-1] - 1) < 0.01, ("as wide as high",)),
        "Rows": (rows * columns <= MAX_PIXELS, (f"{MAX_PIXELS:,} pixels at most",)),
    }
    for tag, (right, wanted) in wrong.items():
        if not right:
            raise BadImage(
                RowFault.UNREADABLE,
                f"DICOM: {tag} is {_text(dataset, tag) or 'not there'}, wanted {' or '.join(wanted)}",
            )


def _text(dataset: Any, tag: str) -> str:
    value = dataset.get(tag, None)
    return "" if value is None else str(value).strip()


def _shown(levels: NDArray[Any], dataset: Any) -> NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    padding = _padding(levels, dataset)
    if not np.isfinite(levels).all():
        raise BadImage(RowFault.BAD_VALUE, "DICOM: FloatPixelData has pixels that are not numbers")
    rescaled = apply_modality_lut(levels, dataset)
    voi = "VOILUTSequence" in dataset or _has_window(dataset)
    shown = np.asarray(apply_voi_lut(rescaled, dataset) if voi else rescaled, np.float64)
    image = np.zeros(levels.shape, np.uint8)
    if padding.all():
        raise BadImage(RowFault.ONE_COLOUR, "DICOM: every pixel is PixelPaddingValue")
    try:
        image[~padding] = scaled(shown[~padding], (0, 100) if voi else PERCENTILES)
    except BadImage as bad:
        window = f": WindowCenter {_text(dataset, 'WindowCenter')}, WindowWidth {_text(dataset, 'WindowWidth')}"
        raise BadImage(bad.fault, bad.reason + (window if voi else "")) from bad
    inverse = dataset.PhotometricInterpretation == "MONOCHROME1" or _text(dataset, "PresentationLUTShape") == "INVERSE"
    return np.where(padding, 0, 255 - image).astype(np.uint8) if inverse else image


def _has_window(dataset: Any) -> bool:
    """Whether the file's first window is one: a centre, and a width of at least a level."""
    values = []
    for tag in ("WindowCenter", "WindowWidth"):
        given = dataset.get(tag, None)
        first = given if isinstance(given, int | float | str) or given is None else next(iter(given), None)
        values.append(float(first) if first not in (None, "") else float("nan"))
    return bool(np.isfinite(values).all()) and values[1] >= 1


def _padding(levels: NDArray[Any], dataset: Any) -> NDArray[np.bool_]:
    """Pixels that PixelPaddingValue, or the range up to PixelPaddingRangeLimit, says are no image."""
    value = dataset.get("PixelPaddingValue", None)
    if value is None or not np.issubdtype(levels.dtype, np.integer):
        return np.zeros(levels.shape, np.bool_)
    other = dataset.get("PixelPaddingRangeLimit", None)
    ends = np.array([_number(one) for one in (value, value if other is None else other)]).astype(levels.dtype)
    return np.asarray((levels >= ends.min()) & (levels <= ends.max()))


def _number(value: Any) -> int:
    """A tag that some write with the wrong sign's type: then pydicom leaves its two bytes."""
    return int.from_bytes(value, "little") if isinstance(value, bytes) else int(value)


def _facts(dataset: Any) -> Facts:
    view = _text(dataset, "ViewPosition")
    for code in dataset.get("ViewCodeSequence", None) or ():
        view = view or _text(code, "CodeMeaning")
    side = "LATERAL" if "lateral" in view.casefold() or view in ("LL", "RL") else view
    sex = _text(dataset, "PatientSex").upper()
    return Facts(view_of(side), years(_text(dataset, "PatientAge")), sex if sex in ("M", "F") else "")
