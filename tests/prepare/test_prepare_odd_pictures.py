"""Images as scanners, archives and people really save them: each gives the right picture, or the right refusal."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from xreal_synth.images.manifest import BadImage, RowFault
from xreal_synth.prepare.grey import Facts, decode_dicom, decode_picture, is_dicom

Pixels = Any
SIDE = 64


def saved(image: Image.Image, kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def grey(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.asarray(pixels, np.uint8))


def turned(pixels: Pixels, orientation: int) -> bytes:
    """A JPEG whose orientation tag turns it back to `pixels`."""
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(grey(pixels).transpose(back), "JPEG", quality=95, exif=exif)


def floats(pixels: Pixels, spoilt: float | None = None) -> bytes:
    levels = np.asarray(pixels, np.float32) * 3 - 100
    if spoilt is not None:
        levels[0, 0] = spoilt
    return saved(Image.fromarray(levels), "TIFF")


def deep(pixels: Pixels, kind: str = "PNG", **how: Any) -> bytes:
    return saved(Image.fromarray(np.asarray(pixels, np.uint16) * 40 + 900), kind, **how)


PICTURES: dict[str, Callable[[Pixels], bytes]] = {
    "PNG": lambda p: saved(grey(p), "PNG"),
    "JPEG": lambda p: saved(grey(p), "JPEG", quality=95),
    "progressive JPEG in three channels": lambda p: saved(grey(p).convert("RGB"), "JPEG", quality=95, progressive=True),
    "RGBA": lambda p: saved(grey(p).convert("RGBA"), "PNG"),
    "grey with alpha": lambda p: saved(grey(p).convert("LA"), "PNG"),
    "palette of greys": lambda p: saved(grey(p).quantize(256), "PNG"),
    "16-bit PNG": deep,
    "16-bit TIFF": lambda p: deep(p, "TIFF"),
    "16-bit TIFF where white is zero": lambda p: deep(255 - p, "TIFF", tiffinfo={262: 0}),
    "8-bit TIFF, LZW": lambda p: saved(grey(p), "TIFF", compression="tiff_lzw"),
    "float TIFF": floats,
    **{f"JPEG turned by tag {n}": (lambda p, n=n: turned(p, n)) for n in range(2, 9)},
}

NO_PICTURES: dict[str, tuple[Callable[[Pixels], bytes], RowFault, str]] = {
    "nothing": (lambda _: b"", RowFault.UNREADABLE, "cannot identify"),
    "a page of HTML": (lambda _: b"<html>404</html>" * 9, RowFault.UNREADABLE, "cannot identify"),
    "half a JPEG": (lambda p: saved(grey(p), "JPEG")[:-400], RowFault.UNREADABLE, "trunc"),
    "GIF": (lambda p: saved(grey(p), "GIF"), RowFault.UNREADABLE, "wanted PNG or JPEG"),
    "CMYK": (lambda p: saved(grey(p).convert("CMYK"), "JPEG"), RowFault.COLOURED, "CMYK"),
    "LAB": (lambda p: saved(Image.merge("LAB", [grey(p)] * 3), "TIFF"), RowFault.COLOURED, "LAB"),
    "a photograph": (
        lambda p: saved(Image.merge("RGB", [grey(p), grey(p // 3), grey(255 - p)]), "JPEG"),
        RowFault.COLOURED,
        "channels",
    ),
    "two pages": (
        lambda p: saved(grey(p), "TIFF", save_all=True, append_images=[grey(p)]),
        RowFault.UNREADABLE,
        "2 frames",
    ),
    "a moving PNG": (
        lambda p: saved(grey(p), "PNG", save_all=True, append_images=[grey(255 - p)]),
        RowFault.UNREADABLE,
        "2 frames",
    ),
    "a pixel that is NaN": (lambda p: floats(p, np.nan), RowFault.BAD_VALUE, "1 pixels are not numbers"),
    "a pixel without end": (lambda p: floats(p, np.inf), RowFault.BAD_VALUE, "not numbers"),
    "16 bits of one grey": (lambda p: deep(p * 0), RowFault.ONE_COLOUR, "one colour"),
}


@pytest.fixture(scope="module")
def pixels(trees: Any) -> Pixels:
    """A drawn chest, 64 x 64, lit from one corner: every turn of it is another picture."""
    image, _ = trees.pair(5, SIDE)
    return (image * np.linspace(0.6, 1, SIDE)[:, None] * np.linspace(0.8, 1, SIDE)).astype(np.uint8)


def same(found: Pixels, wanted: Pixels) -> float:
    assert found.shape == wanted.shape
    assert found.dtype == np.uint8
    return float(np.corrcoef(found.ravel(), np.asarray(wanted, float).ravel())[0, 1])


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_read_upright_and_grey(pixels: Pixels, name: str) -> None:
    assert same(decode_picture(PICTURES[name](pixels)), pixels) > 0.99


@pytest.mark.parametrize("name", NO_PICTURES)
def test_what_is_no_grey_picture_is_refused(pixels: Pixels, name: str) -> None:
    make, fault, reason = NO_PICTURES[name]
    with pytest.raises(BadImage, match=reason) as caught:
        decode_picture(make(pixels))
    assert caught.value.fault == fault


Change = Callable[[Dataset], None]


def dicom(trees: Any, pixels: Pixels, change: Change | None = None, **extra: Any) -> bytes:
    """The picture as 12-bit DICOM without a window, changed."""
    dataset = pydicom.dcmread(io.BytesIO(trees.dicom(pixels, window=False, **extra)))
    if change is not None:
        change(dataset)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def levels_of(dataset: Dataset, levels: Pixels, bits: int, signed: bool = False) -> None:
    dataset.BitsAllocated = 8 if levels.dtype.itemsize == 1 else 16
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, int(signed)
    dataset.PixelData = levels.tobytes()


def stored(dataset: Dataset) -> Pixels:
    return np.frombuffer(dataset.PixelData, np.uint16).reshape(dataset.Rows, dataset.Columns).copy()


def padded(dataset: Dataset, value: int = 4095, limit: int | None = None, vr: str = "US") -> None:
    """A border of a tenth of the width, of the padding value or up to the limit."""
    levels = stored(dataset)
    border = np.full(levels[:, :6].shape, value, np.uint16)
    if limit is not None:
        border[::2] = limit
        dataset.add_new("PixelPaddingRangeLimit", vr, limit)
    levels[:, :6] = border
    dataset.PixelData = levels.tobytes()
    dataset.add_new("PixelPaddingValue", vr, value)


def inverted(dataset: Dataset, shape: str = "", kind: str = "MONOCHROME1") -> None:
    dataset.PixelData = (4080 - stored(dataset)).tobytes()
    dataset.PhotometricInterpretation = kind
    if shape:
        dataset.PresentationLUTShape = shape


def window(centre: Any, width: Any) -> Change:
    def change(dataset: Dataset) -> None:
        dataset.WindowCenter, dataset.WindowWidth = centre, width

    return change


def signed(dataset: Dataset) -> None:
    levels_of(dataset, (stored(dataset).astype(np.int32) - 2048).astype(np.int16), 16, signed=True)


def signed_padding(dataset: Dataset) -> None:
    signed(dataset)
    levels = np.frombuffer(dataset.PixelData, np.int16).reshape(SIDE, SIDE).copy()
    levels[:, :6] = -2048
    dataset.PixelData = levels.tobytes()
    dataset.add_new("PixelPaddingValue", "US", 65536 - 2048)


def overlay(dataset: Dataset) -> None:
    """A bit above those stored, as old overlays were kept."""
    levels = stored(dataset)
    levels[10:20, 10:50] |= 0x8000
    dataset.PixelData = levels.tobytes()


def lut(dataset: Dataset) -> None:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [4096, -100, 12], list(range(4096))
    item["LUTDescriptor"].VR, item["LUTData"].VR = "SS", "US"
    dataset.VOILUTSequence = Sequence([item])


def syntax(uid: str) -> Change:
    def change(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = uid

    return change


def view_code(meaning: str) -> Change:
    def change(dataset: Dataset) -> None:
        code = Dataset()
        code.CodeMeaning = meaning
        dataset.ViewPosition, dataset.ViewCodeSequence = "", Sequence([code])

    return change


def bare(data: bytes) -> bytes:
    """Without the preamble."""
    return data[132:]


def headless(data: bytes) -> bytes:
    """Without preamble and meta header, implicit: as old archives sent it."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    buffer = io.BytesIO()
    del dataset.file_meta
    pydicom.dcmwrite(buffer, dataset, implicit_vr=True, little_endian=True, enforce_file_format=False)
    return buffer.getvalue()


DICOMS: dict[str, Change | None] = {
    "as it is": None,
    "padding": padded,
    "padding up to a limit": lambda d: padded(d, 4000, 4095),
    "padding without the sign that the pixels have": signed_padding,
    "padding below": lambda d: padded(d, 0),
    "MONOCHROME1": inverted,
    "MONOCHROME1, inverse presentation": lambda d: inverted(d, "INVERSE"),
    "MONOCHROME2, inverse presentation": lambda d: inverted(d, "INVERSE", "MONOCHROME2"),
    "identity presentation": lambda d: setattr(d, "PresentationLUTShape", "IDENTITY"),
    "a window of no width": window(1000, 0),
    "a window without values": window("", ""),
    "several windows": window([1948, 100], [4080, 10]),
    "a sigmoid window": lambda d: (window(1948, 6000)(d), setattr(d, "VOILUTFunction", "SIGMOID"))[0],
    "a lookup table": lut,
    "signed": signed,
    "8 bits": lambda d: levels_of(d, (stored(d) // 16).astype(np.uint8), 8),
    "14 bits": lambda d: levels_of(d, stored(d) * 4, 14),
    "16 bits": lambda d: levels_of(d, stored(d) * 16, 16),
    "a slope of half": lambda d: setattr(d, "RescaleSlope", 0.5),
    "one frame, said": lambda d: setattr(d, "NumberOfFrames", 1),
    "CHEST": lambda d: setattr(d, "BodyPartExamined", "CHEST_TO_ABDOMEN"),
    "implicit": syntax(ImplicitVRLittleEndian),
    "deflated": syntax(DeflatedExplicitVRLittleEndian),
    "RLE": lambda d: d.compress(RLELossless),
    "a stuck overlay bit": overlay,
}


@pytest.mark.parametrize("name", DICOMS)
def test_dicom_is_read_as_it_is_written(trees: Any, pixels: Pixels, name: str) -> None:
    found, facts = decode_dicom(dicom(trees, pixels, DICOMS[name]))
    border = 6 if name.startswith("padding") else 0
    assert same(found[:, border:], pixels[:, border:]) > 0.985
    assert found[:, border:].std() > 30
    assert not found[:, :border].any()
    assert facts == Facts("AP")


@pytest.mark.parametrize("strip", [bare, headless])
def test_dicom_without_its_head_is_dicom(trees: Any, pixels: Pixels, strip: Callable[[bytes], bytes]) -> None:
    data = strip(dicom(trees, pixels))
    assert is_dicom(data)
    assert same(decode_dicom(data)[0], pixels) > 0.99


@pytest.mark.parametrize("make", PICTURES.values())
def test_a_picture_is_no_dicom(pixels: Pixels, make: Callable[[Pixels], bytes]) -> None:
    assert not is_dicom(make(pixels))


@pytest.mark.parametrize("name", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"])
def test_dicom_as_archives_compress_it(trees: Any, pixels: Pixels, tmp_path: Path, name: str) -> None:
    gdcm = pytest.importorskip("gdcm")
    (tmp_path / "plain.dcm").write_bytes(dicom(trees, pixels))
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(tmp_path / "plain.dcm"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(tmp_path / "packed.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    packed = (tmp_path / "packed.dcm").read_bytes()
    assert np.array_equal(decode_dicom(packed)[0], decode_dicom(dicom(trees, pixels))[0])


def no_pixels(dataset: Dataset) -> None:
    del dataset.PixelData


def only_padding(dataset: Dataset) -> None:
    dataset.PixelData = b"\xff\x0f" * SIDE * SIDE
    dataset.add_new("PixelPaddingValue", "US", 4095)


def nan_pixels(dataset: Dataset) -> None:
    levels = stored(dataset).astype(np.float32)
    levels[0, 0] = np.nan
    del dataset.PixelData
    for tag in ("BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, tag)
    dataset.BitsAllocated, dataset.FloatPixelData = 32, levels.tobytes()


NO_DICOMS: dict[str, tuple[Change, str]] = {
    "many frames": (lambda d: setattr(d, "NumberOfFrames", 2), "NumberOfFrames is 2"),
    "a palette": (lambda d: setattr(d, "PhotometricInterpretation", "PALETTE COLOR"), "Photometric.* PALETTE"),
    "colours": (lambda d: setattr(d, "PhotometricInterpretation", "RGB"), "PhotometricInterpretation is RGB"),
    "a slice": (lambda d: setattr(d, "Modality", "CT"), "Modality is CT"),
    "a breast": (lambda d: setattr(d, "Modality", "MG"), "Modality is MG"),
    "a hand": (lambda d: setattr(d, "BodyPartExamined", "HAND"), "BodyPartExamined is HAND"),
    "oblong pixels": (lambda d: setattr(d, "PixelAspectRatio", [4, 3]), "PixelAspectRatio"),
    "pixels of two sides": (lambda d: setattr(d, "PixelSpacing", [0.2, 0.3]), "PixelSpacing"),
    "more rows than pixels": (lambda d: setattr(d, "Rows", 200), "DICOM"),
    "a plane of gigabytes": (lambda d: (setattr(d, "Rows", 65535), setattr(d, "Columns", 65535))[0], "Rows is 65535"),
    "no pixels": (no_pixels, "DICOM"),
    "NaN": (nan_pixels, "FloatPixelData"),
    "nothing but padding": (only_padding, "PixelPaddingValue"),
    "a window beside the picture": (window(9000, 2), "WindowCenter 9000"),
}


@pytest.mark.parametrize("name", NO_DICOMS)
def test_what_is_no_grey_projection_of_a_chest_is_refused_by_its_tag(trees: Any, pixels: Pixels, name: str) -> None:
    change, reason = NO_DICOMS[name]
    with pytest.raises(BadImage, match=reason):
        decode_dicom(dicom(trees, pixels, change))


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (lambda d: setattr(d, "PatientAge", "045Y"), Facts("AP", "45")),
        (lambda d: setattr(d, "PatientAge", "018M"), Facts("AP", "1")),
        (lambda d: setattr(d, "PatientSex", "F"), Facts("AP", "", "F")),
        (lambda d: setattr(d, "PatientSex", "O"), Facts("AP")),
        (lambda d: setattr(d, "ViewPosition", "LL"), Facts("LATERAL")),
        (lambda d: setattr(d, "ViewPosition", ""), Facts("")),
        (view_code("postero-anterior"), Facts("PA")),
        (view_code("left lateral"), Facts("LATERAL")),
    ],
)
def test_dicom_says_whose_and_how(trees: Any, pixels: Pixels, change: Change, facts: Facts) -> None:
    assert decode_dicom(dicom(trees, pixels, change))[1] == facts
