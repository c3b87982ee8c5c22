"""Hugging Face: parquet files by split that load_dataset reads with images, masks, labels and boxes.

Written with pyarrow; the types that the datasets library needs beyond arrow's own (images) stand in the
files' metadata, as that library writes them.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from xreal_synth import findings as vocab
from xreal_synth.dataset.meta import finding_fields, sham_fields
from xreal_synth.dataset.names import ANATOMY, CHANGE, HUB_SPLITS, IMAGE, PATHOLOGY
from xreal_synth.dataset.origin import Origin, origin_of
from xreal_synth.dataset.source import OnImage, Source, each_image
from xreal_synth.dataset.table import place_struct
from xreal_synth.dataset.tar import TarSample

DATA: Final = "data"
IMAGE_COLUMNS: Final = {"image": IMAGE, "anatomy": ANATOMY, "pathology": PATHOLOGY, "change": CHANGE}
FILE_BYTES: Final = 400_000_000
ROW_GROUP: Final = 100


def write_hf(source: Source, folder: Path, on_image: OnImage, file_bytes: int = FILE_BYTES) -> None:
    """Writes `data/SPLIT-NNNNN-of-NNNNN.parquet`, each of about `file_bytes` of images at most.

    A row has the image, its two masks and its change from the twin as PNG bytes, key, group,
    member and prompt, the findings painted in with their boxes (half-open xyxy, in pixels and as shares), a
    sham's regions, the findings a real image came with, and both label sets with null for unknown.
    """
    (folder / DATA).mkdir()
    with ExitStack() as stack:
        splits: dict[str, _SplitFiles] = {}
        for image in each_image(source, on_image):
            name = HUB_SPLITS[image.sample.split]
            if name not in splits:
                splits[name] = stack.enter_context(_SplitFiles(folder / DATA, name, file_bytes))
            splits[name].add(image)
    for files in splits.values():
        files.name_with_total()


def image_row(image: TarSample) -> dict[str, object]:
    """An image as a row."""
    meta = image.sample.meta
    origin = origin_of(meta)
    return {
        **{name: {"bytes": image.member(end), "path": f"{meta.key}.{end}"} for name, end in IMAGE_COLUMNS.items()},
        **{name: getattr(meta, name) for name in ("key", "group", "member", "prompt")},
        "findings": [finding_fields(finding, meta.image_size) for finding in meta.findings],
        "sham": [sham_fields(place, meta.image_size) for place in meta.sham],
        "existing_findings": [
            {"name": own.name, "box_xyxy": list(own.box), "painted_over": own.removed is not None}
            for own in (meta.source.findings if meta.source is not None else ())
        ],
        **meta.labels,
        "ctr": meta.ctr,
        "synthetic": origin is Origin.synthetic,
        "origin": origin.value,
    }


def schema() -> Any:
    """The pyarrow schema, with the datasets library's feature types in its metadata."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    finding, sham = place_struct("name"), place_struct("of")
    own = pa.struct([("name", pa.string()), ("box_xyxy", pa.list_(pa.int32())), ("painted_over", pa.bool_())])
    labels = [(name, pa.struct([(label, pa.int8()) for label in names])) for name, names in vocab.LABEL_SETS.items()]
    plain = pa.schema([
        *((column, image) for column in IMAGE_COLUMNS), ("key", pa.string()), ("group", pa.int64()),
        ("member", pa.string()), ("prompt", pa.string()), ("findings", pa.list_(finding)),
        ("sham", pa.list_(sham)), ("existing_findings", pa.list_(own)), *labels, ("ctr", pa.float64()),
        ("synthetic", pa.bool_()), ("origin", pa.string()),
    ])  # fmt: skip
    features = {
        field.name: {"_type": "Image"} if field.name in IMAGE_COLUMNS else _feature(field.type) for field in plain
    }
    return plain.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: Any) -> dict[str, Any]:
    """The datasets library's description of an arrow type."""
    if pa.types.is_struct(kind):
        return {kind.field(i).name: _feature(kind.field(i).type) for i in range(kind.num_fields)}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    names = {"double": "float64"}
    return {"dtype": names.get(str(kind), str(kind)), "_type": "Value"}


class _SplitFiles:
    """A split's parquet files, one open at a time; a row group of images in memory."""

    def __init__(self, folder: Path, split: str, file_bytes: int) -> None:
        self._folder, self._split, self._file_bytes = folder, split, file_bytes
        self._schema = schema()
        self._rows: list[dict[str, object]] = []
        self._writer: Any = None
        self._size = self._files = 0

    def __enter__(self) -> _SplitFiles:
        return self

    def add(self, image: TarSample) -> None:
        size = sum(map(len, image.members))
        if self._size and self._size + size > self._file_bytes:
            self._close()
        self._size += size
        self._rows.append(image_row(image))
        if len(self._rows) == ROW_GROUP:
            self._flush()

    def __exit__(self, *_: object) -> None:
        self._close()

    def name_with_total(self) -> None:
        """The names that the Hub expects, once it is known how many files there are."""
        for number in range(self._files):
            total = f"{self._split}-{number:05d}-of-{self._files:05d}.parquet"
            self._path(number).rename(self._folder / total)

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._split}-{number:05d}.parquet"

    def _flush(self) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path(self._files), self._schema, compression="zstd")
            self._files += 1
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()

    def _close(self) -> None:
        if self._rows:
            self._flush()
        if self._writer is not None:
            self._writer.close()
        self._writer, self._size = None, 0
