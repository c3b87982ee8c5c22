"""What the studio browses: a finished dataset by finding, flag, score and role, with real images beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from PIL import Image

from xreal_synth.dataset.table import FLAGS, LABEL_COLUMNS, QUALITY
from xreal_synth.errors import AnatomyError
from xreal_synth.generated import Dataset, GeneratedImage
from xreal_synth.images.files import ImageFiles, decode_image
from xreal_synth.images.folder import image_rows, padded, resize_image
from xreal_synth.images.manifest import BadImage
from xreal_synth.report.drawing import plain
from xreal_synth.report.words import worst_end
from xreal_synth.storage import open_store
from xreal_synth.types import Role

PAGE: Final = 12
"""Images shown at once."""
BESIDE: Final = 4
"""Images in a line."""
THUMB: Final = 256
ROLES: Final = {"all": None, "variants": Role.variant, "healthy": Role.healthy, "shams": Role.sham}

Pictures = list[tuple[Image.Image, str]]
"""With their captions."""


class RealPictures:
    """Real images of a folder: its manifest's, or all pictures in it. Raises AnatomyError, StorageError."""

    def __init__(self, place: str) -> None:
        store = open_store(place)
        self.problems: list[str] = []
        self._place = place
        self._rows = image_rows(store, place, None, self.problems)
        self._files = ImageFiles(store)

    def beside(self, findings: list[str], first: int) -> Pictures:
        """BESIDE images that the manifest labels with one of these findings, or any where none are; other ones for
        another `first`. Raises AnatomyError where none can be read."""
        alike = [row for row in self._rows if set(findings) & set(row.labels)] or self._rows
        start = first * BESIDE % len(alike)
        refused = list[str]()

        def read() -> Iterator[tuple[Image.Image, str]]:
            for row in (*alike[start:], *alike[:start]):
                try:
                    grey = decode_image(self._files.read(row.shard, row.image))
                except BadImage as bad:
                    refused.append(f"{row.image}: {bad.reason}")
                    continue
                caption = " · ".join(filter(None, (", ".join(row.labels), row.image)))
                yield Image.fromarray(resize_image(padded(grey), THUMB)), caption

        if shown := list(islice(read(), BESIDE)):
            return shown
        raise AnatomyError(where=self._place, found=refused[0], wanted="grey PNGs or JPEGs of 8 bits")


@dataclass(frozen=True, slots=True, eq=False)
class Shelf:
    """What is open: a dataset, the images of it that a filter leaves, in order, and real images to hold beside them."""

    dataset: Dataset
    real: RealPictures | None
    left: Dataset
    places: Sequence[int]

    @classmethod
    def opened(cls, folder: str, real: str) -> Shelf:
        """All images of a dataset, with the real images of a folder ("": none). Raises DatasetError, AnatomyError."""
        dataset = Dataset(folder)
        return cls(dataset, RealPictures(real) if real else None, dataset, range(len(dataset)))

    @property
    def words(self) -> str:
        """What is there and what was left out, a line each."""
        told = [f"{self.dataset.name}: {len(self.dataset):,} images", *self.dataset.skipped]
        return "\n".join([*told, *(self.real.problems[:5] if self.real else ())])

    @property
    def findings(self) -> dict[str, int]:
        """Images by each label that some have, the most frequent first."""
        counts = {
            column.partition(".")[2]: self.dataset.table.column(column).to_pylist().count(1) for column in LABEL_COLUMNS
        }
        shown = sorted((-count, name) for name, count in counts.items() if count)
        return {name: -count for count, name in shown}

    @property
    def scores(self) -> list[str]:
        """Names of the gate's scores that its images have."""
        names = self.dataset.table.column_names
        return sorted(name.removeprefix(QUALITY) for name in names if name.startswith(QUALITY) and name != FLAGS)

    def filtered(self, *, finding: str | None, flag: str | None, role: Role | None, worst_by: str | None) -> Shelf:
        """The images that are all that is given, by a score the worst first and those without it left out."""
        left = self.dataset.filter(finding=finding, flag=flag)
        members = left.table.column("member").to_pylist()
        places = [place for place, member in enumerate(members) if role in (None, Role.of(member))]
        if worst_by is not None:
            values = left.table.column(QUALITY + worst_by).to_pylist()
            known = (place for place in places if values[place] is not None)
            places = sorted(known, key=lambda place: values[place], reverse=worst_end(worst_by) == "high")
        return replace(self, left=left, places=places)

    def page(self, number: int) -> list[GeneratedImage]:
        """PAGE images, the first page being 1."""
        return [self.left[place] for place in self.places[(number - 1) * PAGE : number * PAGE]]

    def image(self, number: int) -> GeneratedImage:
        """One of the images that are left, the first being 0."""
        return self.left[self.places[number]]


def thumbnail(one: GeneratedImage) -> tuple[Image.Image, str]:
    """A small picture of an image, and its caption: key, findings, flags."""
    quality = one.sample.meta.quality
    flags = quality.flags if quality is not None else ()
    named = ", ".join(one.boxes) or ("sham" if one.sample.meta.sham else "no finding")
    caption = [f"{one.sample.meta.group}-{one.sample.meta.member}", named, *flags]
    return plain(one.sample, THUMB), " · ".join(caption)
