"""Boxes of findings on images, from a CSV or a COCO file.

CSV: a row per box with the columns `image`, `finding` and `x0,y0,x1,y1` or `x,y,w,h` (pixels of the image; of
one of `width` x `height` pixels where it has these columns), or `x0n,y0n,x1n,y1n` (shares of the image). So are the
lists of NIH ChestX-ray14, of RSNA's pneumonia challenge (its boxes are called Pneumonia) and of VinDr-CXR, as they
were published. COCO: the usual JSON, a category per finding. All from the image's top left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from xreal_synth.anatomy.tables import parse_table
from xreal_synth.findings import IMAGE_LABELS, NO_FINDING, image_label
from xreal_synth.opening import parse_json
from xreal_synth.types import NormBox

ImageSize = tuple[float, float]
"""Width and height in pixels."""

PUBLISHED_SIDE: Final = (1024.0, 1024.0)
"""Pixels of the images that NIH's and RSNA's lists count in."""

OVER_THE_EDGE: Final = 0.01
"""Share of the image's side by which a box may reach out of it: hand-drawn ones do. It is cut there."""


@dataclass(frozen=True, slots=True)
class TableEntry:
    """A box as a file gives it: `at` is its line or number, `image` the name the file has for the image.

    `box` is xyxy in pixels of an image of `size` (width, height); without a size, of the image as it is stored.
    """

    at: str
    image: str
    finding: str
    box: NormBox
    size: ImageSize | None


@dataclass(frozen=True, slots=True)
class _Form:
    """Columns of one kind of list: what names image and finding, the four numbers (xywh if `sized`, else xyxy), and
    the size of image that they count in where the list does not say."""

    image: str
    finding: str
    numbers: tuple[str, str, str, str]
    sized: bool = False
    size: ImageSize | None = None

    @property
    def columns(self) -> set[str]:
        return {self.image, self.finding, *self.numbers}


_RSNA: Final = _Form("patientId", "Target", ("x", "y", "width", "height"), True, PUBLISHED_SIDE)
_FORMS: Final = (
    _Form("image", "finding", ("x0", "y0", "x1", "y1")),
    _Form("image", "finding", ("x", "y", "w", "h"), sized=True),
    _Form("image", "finding", ("x0n", "y0n", "x1n", "y1n"), size=(1.0, 1.0)),
    _Form("image_id", "class_name", ("x_min", "y_min", "x_max", "y_max")),
    _Form("Image Index", "Finding Label", ("Bbox [x", "y", "w", "h]"), True, PUBLISHED_SIDE),
    _RSNA,
)
_RSNA_FINDINGS: Final = {"0": NO_FINDING, "1": "Pneumonia"}


class BadBoxes(Exception):  # noqa: N818
    """Raised with everything that is wrong with a box file; caught where the folder is opened."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


NameOf = Callable[[str], str | None]


def read_entries(data: bytes, name: str, name_of: NameOf = image_label) -> list[TableEntry]:
    """The boxes in a file's bytes; the name's suffix says which kind it is. Raises BadBoxes.

    `name_of` gives the manifest's name of a finding, None for one that is not known, "" for one whose boxes are not
    wanted. Rows of images without finding
    (VinDr, RSNA) have no box.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in (".csv", ".json"):
        raise BadBoxes([f"{name}: wanted a .csv or a COCO .json file"])
    try:
        read = _csv if suffix == ".csv" else _coco
        found = list(read(data, name, name_of))
    except ValueError as error:
        raise BadBoxes([f"{name}: cannot be read: {error}"]) from error
    if problems := [one for one in found if isinstance(one, str)]:
        raise BadBoxes(problems)
    return [one for one in found if isinstance(one, TableEntry)]


def norm_box(entry: TableEntry, stored: tuple[int, int]) -> NormBox | str:
    """The box as shares of the image of `stored` (width, height), or what is wrong with it."""
    width, height = entry.size or stored
    x0, y0, x1, y1 = entry.box
    shares = (x0 / width, y0 / height, x1 / width, y1 / height)
    if min(shares) < -OVER_THE_EDGE or max(shares) > 1 + OVER_THE_EDGE:
        return f"{entry.at}: box {[round(v, 3) for v in entry.box]} on an image of {width:g} x {height:g}"
    cut = tuple(min(1.0, max(0.0, share)) for share in shares)
    if cut[0] >= cut[2] or cut[1] >= cut[3]:
        return f"{entry.at}: box {[round(v, 3) for v in entry.box]} has no area"
    return cut[0], cut[1], cut[2], cut[3]


def images_by_name(ids: Iterable[str]) -> dict[str, str | None]:
    """Every name that a box file may have for an image -> its id: whole, without folder, without suffix.

    None where a name fits several images.
    """
    names: dict[str, set[str]] = {}
    whole = list(ids)
    for image in whole:
        path = PurePosixPath(image)
        for name in (path.name, path.stem):
            names.setdefault(name, set()).add(image)
    found = {name: next(iter(images)) if len(images) == 1 else None for name, images in names.items()}
    return {**found, **{image: image for image in whole}}


def image_of(name: str, images: Mapping[str, str | None]) -> str | None:
    """The id of the image that a box file names, None if the folder does not hold it (or several such)."""
    path = PurePosixPath(name.replace("\\", "/"))
    return next((image for key in (str(path), path.name, path.stem) if (image := images.get(key))), None)


def boxes_by_image(entries: Iterable[TableEntry], ids: Iterable[str]) -> tuple[dict[str, list[TableEntry]], int]:
    """The boxes of each of these images that has some, and how many boxes are of others."""
    names, found = images_by_name(ids), dict[str, list[TableEntry]]()
    for entry in entries:
        found.setdefault(image_of(entry.image, names) or "", []).append(entry)
    return found, len(found.pop("", ()))


def _csv(data: bytes, name: str, name_of: NameOf) -> Iterator[TableEntry | str]:
    """The boxes, and what is wrong with others."""
    table = parse_table(data, {"image"})
    columns = table.columns
    forms = [form for form in _FORMS if form.columns <= set(columns)]
    if len(forms) != 1:
        wanted = "image, finding and x0,y0,x1,y1 or x,y,w,h (pixels) or x0n,y0n,x1n,y1n (shares)"
        yield f"{name}: columns {', '.join(columns) or 'none'}, wanted {wanted}"
        return
    (form,) = forms
    yield from (f"{name}, line {line}: more or fewer cells than columns" for line in table.torn)
    for row, line in zip(table.rows, table.lines, strict=True):
        finding = row[form.finding]
        finding = _RSNA_FINDINGS.get(finding, finding) if form is _RSNA else finding
        known = name_of(finding)
        if known == "" or (known == NO_FINDING and not any(row[key] for key in form.numbers)):
            continue
        at = f"{name}, line {line}"
        try:
            numbers = [float(row[key]) for key in form.numbers]
            size = form.size
            if size is None and row.get("width"):
                size = (float(row["width"]), float(row["height"]))
            yield _entry(at, row[form.image], finding, known, numbers, size, form.sized)
        except (TypeError, ValueError, KeyError) as error:
            yield f"{at}: {_said(error)}"


def _coco(data: bytes, name: str, name_of: NameOf) -> Iterator[TableEntry | str]:
    """The boxes, and what is wrong with others."""
    content: Any = parse_json(data.decode("utf-8-sig"))
    try:
        images = {image["id"]: image for image in content["images"]}
        categories = {category["id"]: str(category["name"]) for category in content["categories"]}
        annotations = list(content["annotations"])
    except (TypeError, KeyError) as error:
        yield f"{name}: not COCO ({_said(error)}): wanted images, categories and annotations"
        return
    for number, one in enumerate(annotations):
        at = f"{name}, annotation {number}"
        try:
            image, finding = images[one["image_id"]], categories[one["category_id"]]
            if (known := name_of(finding)) == "":
                continue
            size = (float(image["width"]), float(image["height"])) if "width" in image else None
            numbers = [float(value) for value in one["bbox"]]
            yield _entry(at, str(image["file_name"]), finding, known, numbers, size, True)
        except (TypeError, ValueError, KeyError) as error:
            yield f"{at}: {_said(error)}"


def _said(error: Exception) -> str:
    return f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)


def _entry(
    at: str, image: str, finding: str, known: str | None, numbers: list[float], size: ImageSize | None, sized: bool
) -> TableEntry:
    """Raises ValueError; `known` is the manifest's name of the finding."""
    x, y, a, b = numbers
    if known is None or known == NO_FINDING:
        raise ValueError(f"unknown finding {finding!r}; known are {', '.join(IMAGE_LABELS[1:])}")
    if not all(map(math.isfinite, numbers)) or (size is not None and min(size) <= 0):
        raise ValueError("not a box")
    return TableEntry(at, image, known, (x, y, x + a, y + b) if sized else (x, y, a, b), size)
