"""Generated images to look at and work with, one, several or a finished dataset's: a notebook shows them inline."""

from __future__ import annotations

import io
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

from xreal_synth.dataset.offsets import open_samples
from xreal_synth.dataset.source import open_source
from xreal_synth.dataset.table import FLAGS, LABEL_COLUMNS
from xreal_synth.dataset.tar import decode_sample
from xreal_synth.errors import DatasetError
from xreal_synth.export.regions import boxed_findings, shown_regions
from xreal_synth.findings import ALIASES
from xreal_synth.recipe.kinds import near
from xreal_synth.report.contact_sheet import sheet_picture
from xreal_synth.report.drawing import annotated, change_picture, plain
from xreal_synth.storage import open_store
from xreal_synth.types import GreyImage, LabelValue, Mask, PixelBox, Role, Sample, Split, sample_key

if TYPE_CHECKING:
    import os

SIDE: Final = 256
"""Pixels of each picture that is shown."""


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedImage:
    """An image with its masks, boxes and labels; in a notebook it shows itself.

    `sample` is what a dataset holds of it, `twin` the group's first image: its healthy counterfactual or, of an edit,
    the real image as it was; None where it was not asked for. `recipe` is the YAML that gives this image, "" of one
    read from a dataset or made from arrays.
    """

    sample: Sample
    twin: Sample | None = None
    recipe: str = ""

    @property
    def image(self) -> Image.Image:
        """The radiograph, mode L; `np.asarray(one.image)` is uint8 [H, W]."""
        return Image.fromarray(self.sample.image)

    @property
    def healthy(self) -> Image.Image | None:
        """The same anatomy without the findings; None where it was not asked for, and of edited real images."""
        return None if self.sample.meta.source else self._twin_image()

    @property
    def original(self) -> Image.Image | None:
        """The real image that this one was edited from, at its size; None of others."""
        return self._twin_image() if self.sample.meta.source else None

    @property
    def label_map(self) -> Mask:
        """Organ codes uint8 [H, W]: 1 left lung, 2 right lung, 3 heart, 4 aorta, 0 none of them."""
        return self.sample.anatomy

    @property
    def regions(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Where each finding is, bool [H, W] by its name."""
        sample, found = self.sample, dict[str, npt.NDArray[np.bool_]]()
        for name, region in shown_regions(sample.meta, sample.anatomy, sample.pathology):
            found[name] = region | found.get(name, False)
        return found

    @property
    def boxes(self) -> dict[str, tuple[PixelBox, ...]]:
        """Each finding's boxes by its name: half-open (x0, y0, x1, y1), pixels from the top left."""
        boxes = dict[str, tuple[PixelBox, ...]]()
        for name, box in boxed_findings(self.sample.meta):
            boxes[name] = (*boxes.get(name, ()), box)
        return boxes

    @property
    def labels(self) -> dict[str, LabelValue]:
        """1, 0 or None (unknown) by name, those of TorchXRayVision and of CheXpert together."""
        return {name: value for names in self.sample.meta.labels.values() for name, value in names.items()}

    @property
    def change(self) -> GreyImage:
        """The absolute difference from the twin, uint8 [H, W]; 0 where nothing was painted, and
        everywhere in images that have none (mode joint)."""
        return self.sample.change

    @property
    def key(self) -> str:
        """Its name in a dataset, `0000000042-v0`."""
        return self.sample.meta.key

    def picture(self) -> Image.Image:
        """Side by side: the image, the same with organs, regions and boxes drawn in, and where there is a twin that
        and the change."""
        parts = [plain(self.sample, SIDE), annotated(self.sample, SIDE)]
        if self.twin is not None and self.twin is not self.sample:
            change = change_picture(self.sample.image, self.change, self.twin.image)
            parts += [plain(self.twin, SIDE), Image.fromarray(change).resize(parts[0].size)]
        strip = Image.new("RGB", (sum(one.width for one in parts), max(one.height for one in parts)))
        for place, one in enumerate(parts):
            strip.paste(one, (place * SIDE, 0))
        return strip

    def _twin_image(self) -> Image.Image | None:
        return None if self.twin is None else Image.fromarray(self.twin.image)

    def _repr_png_(self) -> bytes:
        return _png(self.picture())

    def _repr_html_(self) -> str:
        positive = ", ".join(name for name, value in self.labels.items() if value == 1)
        shown = ", ".join(f"{name} {box}" for name, boxes in self.boxes.items() for box in boxes)
        data = b64encode(self._repr_png_()).decode()
        text = "<figure><img src='data:image/png;base64,{}'><figcaption>{}: {}<br>positive: {}</figcaption></figure>"
        return str(Markup(text).format(data, self.key, shown or "no finding", positive))  # noqa: S704 (it escapes)

    def __repr__(self) -> str:
        names = ", ".join(self.boxes) or "no finding"
        return f"<GeneratedImage {self.key}: {names}, {self.image.width} x {self.image.height}>"


class GeneratedImages(tuple[GeneratedImage, ...]):
    """Several images; in a notebook they show themselves as a sheet."""

    __slots__ = ()

    def show(self, title: str = "generated images") -> Image.Image:
        """A contact sheet: each image plain, and with its organs, regions and boxes."""
        return _sheet((one.sample for one in self), title)

    def _repr_png_(self) -> bytes:
        return _png(self.show())


class Dataset(Sequence[GeneratedImage]):
    """The images of a finished dataset, a folder or URI, read one by one.

    `dataset[3]` and `dataset["0000000003-v0"]` are images, `dataset[:8]` and `filter` datasets of fewer of them.
    `skipped` says which shards were left out and why; images named in excluded.csv are left out too. To train,
    `SyntheticDataset` and the tars themselves are faster. Raises DatasetError where there is no finished dataset.
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        import pyarrow as pa

        self.uri = str(uri)
        source = open_source(open_store(self.uri))
        self.name = source.head.name
        self._reader, tables = open_samples(source)
        self.skipped = tuple(map(str, source.skipped))
        if not tables:
            raise DatasetError(
                where=self.uri, found=f"no sound shard: {self.skipped[0]}", hint="run xreal-synth verify"
            )
        self.table = pa.concat_tables(tables, promote_options="default")
        """A pyarrow table with a row an image: key, split, findings, labels, scores, flags."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, which: int | str) -> GeneratedImage: ...
    @overload
    def __getitem__(self, which: slice) -> Dataset: ...
    def __getitem__(self, which: int | str | slice) -> GeneratedImage | Dataset:
        if isinstance(which, slice):
            return self._with(self.table.take(list(range(*which.indices(len(self))))))
        place = self._place(which) if isinstance(which, str) else int(which)
        if not -len(self) <= place < len(self):
            raise IndexError(f"image {place} of {len(self)}")
        row = self.table.select(["tar", "key", "split", "group"]).slice(place % len(self), 1).to_pylist()[0]
        sample = self._read(row["tar"], row["key"], row["split"])
        twin = sample_key(row["group"], Role.healthy.member())
        if twin == row["key"]:
            return GeneratedImage(sample, sample)
        there = self._reader.has(row["tar"], twin)
        return GeneratedImage(sample, self._read(row["tar"], twin, row["split"]) if there else None)

    def _place(self, key: str) -> int:
        keys = self.table.column("key").to_pylist()
        if key not in keys:
            raise DatasetError(where=self.uri, found=f"no image {key!r}", wanted="a key of it", hint=near(key, keys))
        return int(keys.index(key))

    def filter(self, *, finding: str | None = None, flag: str | None = None, split: Split | None = None) -> Dataset:
        """The images labelled with a finding (or "No Finding"), with a flag of the gate, in a split; all that is
        given must be so. Raises DatasetError for a name that is none."""
        import pyarrow.compute as pc

        table = self.table
        if finding is not None:
            name = ALIASES.get(finding, finding)
            self._known("finding", finding, [*(one.partition(".")[2] for one in LABEL_COLUMNS), *ALIASES])
            columns = [one for one in LABEL_COLUMNS if one.partition(".")[2] in (name, finding)]
            positive = (pc.fill_null(pc.equal(table.column(one), 1), False) for one in columns)
            table = table.filter(reduce(pc.or_, positive))
        if flag is not None:
            self._known("flag", flag, self.flags)
            table = table.filter([flag in (flags or ()) for flags in table.column(FLAGS).to_pylist()])
        if split is not None:
            self._known("split", split, ["train", "val", "test"])
            table = table.filter(pc.equal(table.column("split"), split))
        return self._with(table)

    @property
    def flags(self) -> dict[str, int]:
        """Images by each flag that the gate gave; empty where no gate was."""
        given = self.table.column(FLAGS).to_pylist() if FLAGS in self.table.column_names else []
        return dict(Counter(name for flags in given for name in flags or ()))

    def show(self, n: int = 8) -> Image.Image:
        """A contact sheet of the first n images; a notebook shows it inline."""
        if not len(self):
            raise DatasetError(where=self.uri, found="no image to show", wanted="a filter that leaves some")
        return _sheet((one.sample for one in self[:n]), f"{self.name}: {min(n, len(self))} of {len(self):,} images")

    def to_pandas(self) -> Any:
        """A pandas DataFrame, a row an image: key, group, split, findings, labels (`chexpert14.Pneumonia`), scores,
        flags."""
        return self.table.to_pandas()

    def __iter__(self) -> Iterator[GeneratedImage]:
        return (self[place] for place in range(len(self)))

    def __repr__(self) -> str:
        return f"<Dataset {self.name}: {len(self):,} images in {self.uri}>"

    def _repr_png_(self) -> bytes:
        return _png(self.show())

    def _read(self, tar: str, key: str, split: Split) -> Sample:
        sample = decode_sample(key, self._reader.members(tar, key), f"{tar}:{key}")
        return replace(sample, split=split)

    def _with(self, table: Any) -> Dataset:
        fewer = object.__new__(Dataset)
        fewer.__dict__ |= {**self.__dict__, "table": table}
        return fewer

    def _known(self, what: str, name: str, known: Iterable[str] | Mapping[str, int]) -> None:
        names = list(dict.fromkeys(known))
        if name not in names:
            wanted = f"one of {', '.join(names)}" if names else f"a dataset whose gate gave a {what}"
            raise DatasetError(where=self.uri, found=f"{what} {name!r}", wanted=wanted, hint=near(name, names))


def _sheet(samples: Iterable[Sample], title: str) -> Image.Image:
    return sheet_picture(samples, title=title)[0]


def _png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()
