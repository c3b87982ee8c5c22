"""What a source of images gives: its images with labels, and what it left out, before a pixel is read."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from xreal_synth.images.manifest import BadImage, ImageBox, Refusal, RowFault
from xreal_synth.storage import Store

Kind = Literal["nih", "mimic", "chexpert", "folder"]
Blank = Literal["unknown", "negative"]
FRONTAL: Final = ("PA", "AP")

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_KEY = 80
_SLASH = "--"
_AGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([YMWD]?)\s*")
_PER_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}


@dataclass(frozen=True, slots=True)
class FolderColumns:
    """How a table of one's own names things; `rename` maps its label names to the project's."""

    table: str = ""
    image: str = "image"
    patient: str = "patient_id"
    labels: str = "labels"
    unknown: str = "unknown"
    view: str = "view"
    age: str = "age"
    sex: str = "sex"
    mask: str = ""
    split: str = ""
    separator: str = "|"
    rename: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourcePlace:
    """Where a source lies: the store of its images, that of its tables, and how its tables are read.

    `blank` is what an empty cell in a column of labels means; -1 is always unknown.
    """

    images: Store
    tables: Store
    encoding: str = "utf-8-sig"
    blank: Blank = "unknown"
    columns: FolderColumns = field(default_factory=FolderColumns)


@dataclass(frozen=True, slots=True)
class FoundImage:
    """One image of a source. `key` names what is made of it; of `files` the first that exists is read.

    `boxes` are normalised to the source's image; `mask` and `split` are given where the source has its own.
    """

    key: str
    files: tuple[str, ...]
    patient: str
    labels: tuple[str, ...]
    unknown: tuple[str, ...]
    view: str = ""
    age: str = ""
    sex: str = ""
    boxes: tuple[ImageBox, ...] = ()
    mask: str = ""
    split: str = ""

    @property
    def name(self) -> str:
        return self.files[0]


@dataclass(slots=True)
class FoundImages:
    """Everything a source's tables say: images in their order, faulty rows, and rows that were not asked for."""

    images: list[FoundImage] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    tables: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def refuse(self, file: str, fault: RowFault, reason: str) -> None:
        self.refused.append(Refusal(file, fault, reason))

    def collect(self, name: str, make: Callable[[], FoundImage]) -> None:
        """Adds the image that `make` gives, or its refusal."""
        try:
            self.images.append(make())
        except BadImage as bad:
            self.refused.append(bad.refusal(name))


def key_of(name: str) -> str:
    """A file name that is safe everywhere, without dots (they part a tar's members), one for each source name.

    `a/b.png` -> `a--b`; a name that needs more change than that gets a hash.
    """
    stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", name)
    key = _UNSAFE.sub("_", stem.replace("/", _SLASH)).strip("_")
    if key.replace(_SLASH, "/") == stem and len(key) <= _LONGEST_KEY:
        return key
    return f"{key[:_LONGEST_KEY]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def frontal(view: str) -> str:
    """PA or AP of a view as the sets write it, "" for any other."""
    name = view.strip().upper()
    return name if name in FRONTAL else ""


def years(age: str) -> str:
    """`58` of `58`, `58.0`, `058Y` or 696 months; "" where the age is not known."""
    match = _AGE.fullmatch(age.upper())
    if match is None:
        return ""
    return str(int(float(match[1]) / _PER_YEAR[match[2]]))
