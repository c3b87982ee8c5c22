"""Tables: one row per sample, and one row per rejected attempt, as parquet.

Columns carry the names that KEY.json uses; labels are nullable int8 under dotted names
(`chexpert14.Pneumonia`). Where a gate was, its scores stand under `quality.NAME`, its warnings in
`quality.flags`. Later versions add columns; a reader
passes over those it does not know, and takes those that are not there yet for null.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any, Final, get_args, get_type_hints

from xreal_synth import findings as vocab
from xreal_synth.dataset.meta import FACTS, PlaceJson
from xreal_synth.dataset.names import is_key, is_tar_key, tar_key
from xreal_synth.dataset.tar import TableRow
from xreal_synth.errors import DatasetError
from xreal_synth.opening import UnreadableError, read_parquet
from xreal_synth.types import NormBox, PixelBox, Rejected, SampleMeta, ShardPlan, Split

LABEL_COLUMNS: Final = tuple(f"{set_name}.{name}" for set_name, names in vocab.LABEL_SETS.items() for name in names)

QUALITY: Final = "quality."
FLAGS: Final = "quality.flags"

PARQUET_SETTINGS: Final[dict[str, Any]] = {
    "compression": "zstd", "compression_level": 3, "write_page_checksum": True, "store_schema": False
}  # fmt: skip

_WORDS: Final[dict[str, Callable[[str], bool]]] = {
    "key": is_key,
    "split": lambda text: text in get_args(Split),
    "tar": is_tar_key,
    "sha256": lambda text: re.fullmatch("[0-9a-f]{64}", text) is not None,
}


@lru_cache(maxsize=1)
def sample_schema() -> Any:
    """The pyarrow schema of `tables/*.parquet` and `samples.parquet`."""
    import pyarrow as pa

    kinds = {"findings": pa.list_(place_struct("name"))}
    facts = {
        name: (kinds.get(kind) or pa.type_for_alias(kind), fact.default is ...)
        for fact in FACTS
        for name, (kind, _) in fact.columns.items()
    }
    first = [(name, kind) for name, (kind, original) in facts.items() if original]
    added = [(name, kind) for name, (kind, original) in facts.items() if not original]
    own = [("split", pa.string()), ("shard", pa.int64()), ("tar", pa.string())]
    labels = [(column, pa.int8()) for column in LABEL_COLUMNS]
    return pa.schema([*first[:3], *own, *first[3:], ("sha256", pa.string()), *labels, *added])


def place_struct(name: str) -> Any:
    """The arrow struct of a placed finding, `name` being the field that says which."""
    import pyarrow as pa

    box = pa.list_(pa.int32())
    kinds = {
        str: pa.string(), PixelBox: box, NormBox: pa.list_(pa.float64()), tuple[PixelBox, ...]: pa.list_(box),
        float | None: pa.float64(),
    }  # fmt: skip
    fields = get_type_hints(PlaceJson).items()
    return pa.struct([(name, pa.string()), *((field, kinds[kind]) for field, kind in fields)])


def added_columns() -> frozenset[str]:
    """Columns that datasets of an earlier version may lack; null there."""
    facts = {name for fact in FACTS if fact.default is not ... for name in fact.columns}
    return frozenset(facts | {one for one in LABEL_COLUMNS if one.partition(".")[2] in vocab.LATER_LABELS})


@lru_cache(maxsize=1)
def rejected_schema() -> Any:
    """The pyarrow schema of `tables/*.rejected.parquet` and `rejected.parquet`."""
    import pyarrow as pa

    return pa.schema([
        ("group", pa.int64()), ("attempt", pa.int32()), ("row", pa.int32()), ("shard", pa.int64()),
        ("reason", pa.string()), ("dropped", pa.bool_()),
    ])  # fmt: skip


def meta_columns(meta: SampleMeta) -> dict[str, object]:
    """The columns that repeat KEY.json; where there was a gate, `quality.organs.heart` and the like too."""
    facts = {name: value(meta) for fact in FACTS for name, (_, value) in fact.columns.items()}
    columns = {**facts, **label_columns(meta)}
    if meta.quality is not None:
        columns |= {QUALITY + name: value for name, value in sorted(meta.quality.scores.items())}
        columns[FLAGS] = list(meta.quality.flags)
    return columns


def label_columns(meta: SampleMeta) -> dict[str, int | None]:
    """`chexpert14.Pneumonia` -> 1, 0 or None."""
    return {f"{kind}.{name}": meta.labels[kind][name] for kind, names in vocab.LABEL_SETS.items() for name in names}


def label_counts(metas: Iterable[SampleMeta]) -> dict[str, int]:
    """Positives per dotted label, every label named."""
    counts = dict.fromkeys(LABEL_COLUMNS, 0)
    for meta in metas:
        for column, value in label_columns(meta).items():
            counts[column] += value == 1
    return counts


def build_table(shard: ShardPlan, rows: Sequence[TableRow]) -> bytes:
    """Parquet bytes of a shard's samples, in the tar's order."""
    tar = tar_key(shard.stem)
    content = [
        {**meta_columns(row.meta), "split": row.split, "sha256": row.sha256, "shard": shard.shard, "tar": tar}
        for row in rows
    ]
    gated = [row.meta.quality for row in rows if row.meta.quality is not None]
    scores = {name for quality in gated for name in quality.scores}
    return _parquet(content, sample_schema(), {FLAGS: "names"} if gated else {}, scores)


def build_rejects(shard: ShardPlan, rejected: Sequence[Rejected]) -> bytes:
    """Parquet bytes of a shard's rejected attempts, in the order given."""
    content = [
        asdict(reject)
        | {"shard": shard.shard, "asked": list(reject.findings)}
        | {QUALITY + name: value for name, value in reject.scores}
        for reject in rejected
    ]
    scores = {name for reject in rejected for name, _ in reject.scores}
    return _parquet(content, rejected_schema(), {"check": "string", "member": "string", "asked": "names"}, scores)


def read_table(data: bytes, where: str, schema: Any = None) -> Any:
    """A pyarrow table with at least the schema's columns (those of samples, if none is given), of its types; raises
    DatasetError otherwise.

    Of columns that a later version added nulls stand for what an earlier one has not.
    """
    import pyarrow as pa

    schema = sample_schema() if schema is None else schema
    try:
        table = read_parquet(data)
    except UnreadableError as error:
        raise DatasetError(where=where, found=f"cannot be read as parquet ({error})") from error
    for field in schema if not table.schema.equals(schema) else ():
        if field.name not in table.column_names and field.name in added_columns():
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        once = table.column_names.count(field.name) == 1
        found = table.schema.field(field.name).type if once else None
        if found != field.type:
            raise DatasetError(where=where, found=f"column {field.name}: {found}", wanted=str(field.type))
    if "split" in schema.names:
        _check_words(table, where)
    return table


def _check_words(table: Any, where: str) -> None:
    """Raises DatasetError for a key, split, member or tar that no dataset has: files are named by them."""
    for column, is_one in _WORDS.items():
        for value in table.column(column).unique().to_pylist():
            if not isinstance(value, str) or not is_one(value):
                raise DatasetError(
                    where=where, found=f"{column} {str(value)[:80]!r}", wanted=f"a dataset's {column}",
                    hint="get the dataset again from where it was made",
                )  # fmt: skip


def with_splits(table: Any, names: Sequence[str]) -> Any:
    """The table with these splits, one a row."""
    import pyarrow as pa

    at = table.column_names.index("split")
    return table.set_column(at, "split", pa.array(names, pa.string()))


def read_rejected(data: bytes, where: str) -> list[Rejected]:
    """The rejected attempts of one shard's reject table."""
    rows = read_table(data, where, rejected_schema()).to_pylist()
    return [
        Rejected(
            row["group"], row["attempt"], row["row"], row["reason"], row["dropped"],
            check=row.get("check") or "placement", member=row.get("member") or "",
            findings=tuple(row.get("asked") or ()),
            scores=tuple((name.removeprefix(QUALITY), value) for name, value in row.items()
                         if name.startswith(QUALITY) and value is not None),
        )
        for row in rows
    ]  # fmt: skip


def _parquet(rows: list[dict[str, object]], schema: Any, more: Mapping[str, str], scores: Iterable[str]) -> bytes:
    """The rows under the schema, `more` columns (strings, or lists of names) and those of these scores."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"string": pa.string(), "names": pa.list_(pa.string())}
    for name, kind in more.items():
        schema = schema.append(pa.field(name, kinds[kind]))
    for name in sorted(scores):
        schema = schema.append(pa.field(QUALITY + name, pa.float64()))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, **PARQUET_SETTINGS)
    return buffer.getvalue()
