"""Is the image a copy of a training image? The distance to the nearest image of an index.

An index is a safetensors file of thumbnails, made once by `xreal-synth quality index`. It says how near images of
different patients come to one another; what is nearer than nearly all of those is called a copy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from xreal_synth.errors import BundleError, faults
from xreal_synth.opening import parse_json
from xreal_synth.quality.checks import CheckEntry, CheckFile, JudgedImage, NetworkReadings, Score
from xreal_synth.types import GreyImage

THUMB: Final = 64
PERCENTILE: Final = 0.1
"""Of the distances between training images and their nearest neighbour of another patient: below it is a copy."""

Vectors = npt.NDArray[np.float32]
FORMAT: Final = "xreal-synth copy index 1"
ASKED: Final = 2000
"""Images, evenly spaced in the index, whose nearest neighbours give the threshold."""
_ROWS: Final = 1024


def thumbnail(image: GreyImage) -> Vectors:
    """An image as 64x64 grey levels without their mean [4096]; distances between two are per-pixel RMS * 64."""
    grey = reduced(image).astype(np.float32)
    return np.asarray(grey - grey.mean())


def reduced(image: GreyImage) -> npt.NDArray[np.uint8]:
    """An image as 64x64 grey levels [4096]."""
    return np.asarray(Image.fromarray(image).resize((THUMB, THUMB), Image.Resampling.BOX)).ravel()


@dataclass(frozen=True, slots=True, eq=False)
class CopyIndex:
    """Thumbnails uint8 [M, THUMB * THUMB] of images and their names; `threshold` in grey levels."""

    names: tuple[str, ...]
    thumbs: npt.NDArray[np.uint8]
    threshold: float

    def nearest(self, image: GreyImage) -> tuple[float, int]:
        """Distance in grey levels (RMS) to the nearest image, and which it is."""
        wanted = thumbnail(image)
        best, which = np.inf, -1
        for start in range(0, len(self.thumbs), _ROWS):
            rows = self.thumbs[start : start + _ROWS].astype(np.float32)
            rows -= rows.mean(axis=1, keepdims=True)
            apart = ((rows - wanted) ** 2).sum(axis=1)
            at = int(apart.argmin())
            if apart[at] < best:
                best, which = float(apart[at]), start + at
        return float(np.sqrt(best) / THUMB), which

    def measure(self, image: JudgedImage, seen: NetworkReadings) -> dict[str, float]:
        """`distance` to the nearest image of the index, root mean square in grey levels."""
        return {"distance": self.nearest(image.image)[0]}


def build_index(images: Iterable[tuple[str, str, GreyImage]]) -> CopyIndex:
    """An index of (name, patient, image); the threshold is 0 where all images are one patient's.

    Images are uint8 [H, W].
    """
    names, patients, thumbs = [], [], []
    for name, patient, image in images:
        names.append(name)
        patients.append(patient)
        thumbs.append(reduced(image))
    if not names:
        return CopyIndex((), np.zeros((0, THUMB * THUMB), np.uint8), 0.0)
    index = CopyIndex(tuple(names), np.stack(thumbs), 0.0)
    return CopyIndex(index.names, index.thumbs, _threshold(index, np.asarray(patients)))


def write_index(index: CopyIndex) -> bytes:
    """The index as a safetensors file, the same bytes of the same index: the library writes keys in any order."""
    from safetensors.numpy import save

    reported = {"format": FORMAT, "threshold": repr(index.threshold), "names": json.dumps(index.names)}
    written = save({"thumbs": index.thumbs}, reported)
    end = 8 + int.from_bytes(written[:8], "little")
    header = json.dumps(parse_json(written[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + written[end:]


class _IndexHeader(BaseModel):
    format: Literal[FORMAT]  # type: ignore[valid-type]
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    names: Annotated[tuple[str, ...], BeforeValidator(parse_json)]


def index_threshold(path: Path) -> float:
    """The threshold in an index's header; raises BundleError if it is no index."""
    return _header(path).threshold


def read_index(path: Path) -> CopyIndex:
    """The whole index; raises BundleError if it is none."""
    from safetensors.numpy import load_file

    header, thumbs = _header(path), load_file(path).get("thumbs")
    wanted = (len(header.names), THUMB * THUMB)
    if not header.names or thumbs is None or thumbs.dtype != np.uint8 or thumbs.shape != wanted:
        raise _no_index(path, "thumbnails that do not go with its names")
    return CopyIndex(header.names, thumbs, header.threshold)


def _header(path: Path) -> _IndexHeader:
    from safetensors import SafetensorError, safe_open

    try:
        opened: Any = safe_open(path, framework="numpy")
        with opened as file:
            return _IndexHeader.model_validate(file.metadata() or {})
    except ValidationError as error:
        raise _no_index(path, faults(error)) from error
    except (OSError, SafetensorError) as error:
        raise _no_index(path, f"cannot be read: {error}") from error


def _no_index(path: Path, found: str) -> BundleError:
    return BundleError(
        where=str(path), found=found, wanted=f"an index of training images ({FORMAT})",
        hint="make one: xreal-synth quality index --data IMAGES OUT.safetensors",
    )  # fmt: skip


def _threshold(index: CopyIndex, patients: npt.NDArray[np.str_]) -> float:
    """PERCENTILE of the distances between images, ASKED of them at most, and the nearest of another patient."""
    asked = np.unique(np.linspace(0, len(patients) - 1, min(len(patients), ASKED)).astype(int))
    wanted = _centred(index.thumbs[asked])
    nearest = np.full(len(asked), np.inf)
    for start in range(0, len(index.thumbs), _ROWS):
        rows = slice(start, start + _ROWS)
        others = _centred(index.thumbs[rows])
        apart = (wanted**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * wanted @ others.T
        apart[patients[asked, None] == patients[None, rows]] = np.inf
        nearest = np.minimum(nearest, apart.min(axis=1))
    known = nearest[np.isfinite(nearest)]
    return float(np.percentile(np.sqrt(np.maximum(known, 0)) / THUMB, PERCENTILE)) if len(known) else 0.0


def _centred(thumbs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    rows = thumbs.astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows


CHECK: Final = CheckEntry(
    name="copies", rank=5, open=lambda file: read_index(file).measure, needs="file",
    about="Is the image a copy of a training image? Needs an index of those images.",
    scores={
        "distance": Score(
            True, "grey levels (RMS) to the nearest training image",
            "Least distance in grey levels (RMS); left out, the index's own.", None, None, (0, 255),
        ),
    },
    file=CheckFile(
        "index", "A file made by `xreal-synth quality index`.", lambda path: {"distance": index_threshold(path)}
    ),
    hint="give the file that `xreal-synth quality index` makes of the training images; or ",
)  # fmt: skip
