"""The reader of finished datasets: their shards, each checked against its record before it is used.

`excluded.csv` names images that its readers leave out, with the reason; the shards stay as they are.
`SyntheticDataset` and the exports honour it. Whoever opens the tars with other tools must read it too. An image is
taken in again when its line, or the file, is removed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xreal_synth.dataset.check import record_problems
from xreal_synth.dataset.head import DatasetHead, read_head
from xreal_synth.dataset.index import SplitOf, splits_of
from xreal_synth.dataset.names import EXCLUDED, FOLDERS, numbers_up_to, parse_key, record_key, shards_in, stem_of
from xreal_synth.dataset.record import Tally, read_record, stamp
from xreal_synth.dataset.table import read_table
from xreal_synth.dataset.tar import TarSample, read_samples
from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.escaping import for_csv, from_csv
from xreal_synth.storage import Store, local_copy
from xreal_synth.types import ShardRecord

OnImage = Callable[[int, int], None]
"""Called with images done and images in all."""

COLUMNS = ("key", "reason")
"""Of excluded.csv."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A shard that was left out, and why."""

    shard: str
    reason: str

    def __str__(self) -> str:
        return f"shard {self.shard} is left out: {self.reason}"


@dataclass(slots=True)
class Source:
    """A dataset's shards that have a sound record, and those that are left out.

    `skipped` grows while images are read, when a tar or a table is not what its record says. `excluded` are keys
    of images that are left out (excluded.csv), `counted` has what `each_image` or `check_shards` has read.
    """

    store: Store
    head: DatasetHead
    records: tuple[ShardRecord, ...]
    split_of: SplitOf
    skipped: list[Skipped] = field(default_factory=list)
    excluded: frozenset[str] = frozenset()
    counted: Tally = field(default_factory=Tally)

    @property
    def images(self) -> int:
        """Images that the records name, without those excluded."""
        here = {record.shard for record in self.records}
        excluded = sum(parse_key(key).group // self.head.shard_samples in here for key in self.excluded)
        return sum(record.samples for record in self.records) - excluded

    def count(self, record: ShardRecord, table: Any) -> None:
        """Adds a shard's record and table to what was read."""
        self.counted.count(record)
        self.counted.add(table)

    def skip(self, record: ShardRecord, reason: str) -> None:
        """Notes a shard that is left out, for the summary and the exit code."""
        self.skipped.append(Skipped(stem_of(self.head.name, record.shard), reason))


def open_source(store: Store) -> Source:
    """Reads head, records and splits; raises DatasetError where there is no dataset or no finished shard."""
    head = read_head(store)
    records, skipped = [], []
    present = {shard for folder in FOLDERS for shard in shards_in(store, folder, head.name)}
    for shard in numbers_up_to(present, store.uri):
        stem = stem_of(head.name, shard)
        try:
            record = read_record(store, stem)
            reason = _reason(store, head, record, shard)
        except (DatasetError, StorageError) as error:
            record, reason = None, error.found
        if record is None or reason:
            skipped.append(Skipped(stem, reason))
        else:
            records.append(record)
    if not records:
        raise DatasetError(
            where=store.uri, found="no finished shard: " + (str(skipped[0]) if skipped else "nothing was made yet"),
            wanted="at least one shard with its record",
            hint="run xreal-synth generate again; it goes on where it stopped",
        )  # fmt: skip
    excluded = frozenset(read_excluded(store))
    return Source(store, head, tuple(records), splits_of(store), skipped, excluded)


def _reason(store: Store, head: DatasetHead, record: ShardRecord | None, shard: int) -> str:
    """Why a shard cannot be used; empty if it can."""
    stem = stem_of(head.name, shard)
    if record is None:
        return f"it has no {record_key(stem)}, so it was not finished; run xreal-synth generate again"
    if reported := record_problems(record, shard, stem, head, None):
        return f"{record_key(stem)}: {reported[0]}"
    if (size := store.size(record.tar.path)) != record.tar.bytes:
        found = "is missing" if size is None else f"has {size} bytes, its record names {record.tar.bytes}"
        return f"{record.tar.path} {found}"
    return ""


def shard_table(source: Source, record: ShardRecord) -> Any:
    """The shard's pyarrow table with the present splits, or None: then the shard is in `source.skipped`."""
    key = record.table.path
    try:
        data = source.store.read_bytes(key)
    except StorageError as error:
        source.skip(record, error.found)
        return None
    if stamp(key, data) != record.table:
        source.skip(record, f"{key} is not the file that its record names")
        return None
    table = read_table(data, key)
    if table.num_rows != record.samples:
        source.skip(record, f"{key} has {table.num_rows} rows for {record.samples} images")
        return None
    return source.split_of.applied(table)


def read_shards(source: Source) -> Iterator[tuple[ShardRecord, Any, Iterator[TarSample]]]:
    """(record, its table, its images) shard by shard, with one image and one table in memory.

    An image's `sample.split` is the present one. Excluded images are in none of the three. A shard whose files are not
    those its record names goes to `source.skipped` before any image of it is given out. Raises DatasetError where a
    tar with the right hash contradicts itself or its table.
    """
    for record, table, path in _sound(source):
        rows = table.select(["key", "sha256", "split"]).to_pylist()
        images = _with_rows(read_samples(path, record.tar.path), rows, record)
        if source.excluded:
            images = (image for image in images if image.sample.meta.key not in source.excluded)
            table = without_excluded(source, table)
            groups = len(table.column("group").unique())
            record = replace(record, samples=table.num_rows, groups=groups)
        yield record, table, images


def without_excluded(source: Source, table: Any) -> Any:
    """A shard's table without the rows of excluded images."""
    return table.filter([key not in source.excluded for key in table.column("key").to_pylist()])


def check_shards(source: Source, on_image: OnImage) -> None:
    """Counts the shards whose table and tar are those their records name; the others are in `skipped` afterwards."""
    done, source.counted = 0, Tally()
    for record, table, _ in _sound(source):
        source.count(record, table)
        done += record.samples
        on_image(done, source.images)


def _sound(source: Source) -> Iterator[tuple[ShardRecord, Any, Path]]:
    for record in source.records:
        table = shard_table(source, record)
        if table is None:
            continue
        with local_copy(source.store, record.tar.path) as path:
            if stamp(record.tar.path, path) == record.tar:
                yield record, table, path
            else:
                source.skip(record, f"{record.tar.path} is not the file that its record names")


def _with_rows(images: Iterator[TarSample], rows: Sequence[dict[str, Any]], record: ShardRecord) -> Iterator[TarSample]:
    for image, row in zip(images, rows, strict=True):
        if (image.sample.meta.key, image.sha256) != (row["key"], row["sha256"]):
            raise DatasetError(
                where=record.tar.path,
                found=f"image {image.sample.meta.key} is not the one in the table's row for {row['key']}",
                hint="run xreal-synth verify",
            )
        yield replace(image, sample=replace(image.sample, split=row["split"]))


def each_image(source: Source, on_image: OnImage) -> Iterator[TarSample]:
    """Every image of every sound shard, counted in the source; raises DatasetError if there turns out to be none."""
    done, source.counted = 0, Tally()
    for record, table, images in read_shards(source):
        source.count(record, table)
        for image in images:
            yield image
            done += 1
            on_image(done, source.images)
    if not done:
        none = "all are excluded (excluded.csv)" if source.excluded else "every group was dropped"
        reason = str(source.skipped[0]) if source.skipped else none
        raise DatasetError(
            where=source.store.uri, found=f"no image to export: {reason}",
            hint="run xreal-synth verify to see what is wrong",
        )  # fmt: skip


def read_excluded(store: Store) -> dict[str, str]:
    """Key -> reason, nothing where there is no such file; raises DatasetError for a file that is not one."""
    if not store.exists(EXCLUDED):
        return {}
    where = f"{store.uri}/{EXCLUDED}"
    try:
        rows = list(csv.reader(io.StringIO(store.read_bytes(EXCLUDED).decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _faulty(where, str(error)) from error
    if not rows or tuple(rows[0]) != COLUMNS:
        raise _faulty(where, f"first line {rows[0] if rows else 'missing'}")
    found = {}
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(COLUMNS):
            raise _faulty(where, f"line {line}: {len(row)} cells")
        key, reason = row
        parse_key(key, f"{where} line {line}")
        found[key] = from_csv(reason)
    return found


def add_excluded(store: Store, images: Mapping[str, str]) -> int:
    """Adds images with their reasons, those that are named already keep theirs; returns how many are new."""
    former = read_excluded(store)
    new = {key: reason for key, reason in images.items() if key not in former}
    if new:
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows((key, for_csv(reason)) for key, reason in sorted({**former, **new}.items()))
        store.replace(EXCLUDED, text.getvalue().encode())
    return len(new)


def _faulty(where: str, found: str) -> DatasetError:
    return DatasetError(
        where=where, found=found, wanted=f"a table with the columns {', '.join(COLUMNS)}",
        hint="correct the file, or remove it to take all images in",
    )  # fmt: skip
