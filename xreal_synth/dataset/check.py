"""One shard under the loupe: its files against its record; a sample's image, masks, boxes, labels and table row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from xreal_synth import findings as vocab
from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.names import rejects_key, table_key, tar_key
from xreal_synth.dataset.table import label_columns, label_counts, meta_columns, read_rejected, read_table
from xreal_synth.dataset.tar import TableRow, TarSample, read_samples
from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.masks import boxes_region
from xreal_synth.storage import Store, local_copy, sha256_of
from xreal_synth.types import FileStamp, PlacedFinding, Role, Sample, SampleMeta, ShardPlan, ShardRecord

MOST_PER_FILE = 20


def file_problems(store: Store, entry: FileStamp) -> list[str]:
    """Whether the file has the size and hash that its record names."""
    size = store.size(entry.path)
    if size is None:
        return ["missing"]
    if size != entry.bytes:
        return [f"{size} bytes, its record names {entry.bytes}"]
    return [] if sha256_of(store, entry.path) == entry.sha256 else ["its sha256 is not the one recorded"]


def record_problems(record: ShardRecord, shard: int, stem: str, head: DatasetHead, plan: ShardPlan | None) -> list[str]:
    """What in a record contradicts its own name, the dataset's head or the plan."""
    first = shard * head.shard_samples
    rejects = record.rejects.path if record.rejects is not None else rejects_key(stem)
    reported = {
        "shard": (record.shard, shard),
        "digest": (record.digest, head.digest),
        "tar": (record.tar.path, tar_key(stem)),
        "table": (record.table.path, table_key(stem)),
        "rejects": (rejects, rejects_key(stem)),
        "start": (record.start, plan.start if plan is not None else first),
        "stop": (record.stop, plan.stop if plan is not None else min(record.stop, first + head.shard_samples)),
        "groups and dropped": (record.groups + record.dropped, record.stop - record.start),
        "rejects and rejected": (record.rejects is not None, record.rejected > 0),
    }
    return [f"{name}: {found!r}, wanted {wanted!r}" for name, (found, wanted) in reported.items() if found != wanted]


def shard_problems(store: Store, head: DatasetHead, record: ShardRecord, deep: bool) -> Iterator[tuple[str, str]]:
    """(file, what is wrong with it) for the shard's tar, table and reject table."""
    stamps = [entry for entry in (record.tar, record.table, record.rejects) if entry is not None]
    reported = {entry.path: file_problems(store, entry) for entry in stamps}
    yield from ((path, text) for path, texts in reported.items() for text in texts)
    if not deep:
        return
    table = None
    if not reported[record.table.path]:
        table, texts = _table_problems(store.read_bytes(record.table.path), record)
        yield from ((record.table.path, text) for text in texts)
    if store.exists(record.tar.path):
        yield from ((record.tar.path, text) for text in _tar_problems(store, head, record, table))
    if record.rejects is not None and not reported[record.rejects.path]:
        yield from ((record.rejects.path, text) for text in _reject_problems(store, record.rejects.path, record))


def _table_problems(data: bytes, record: ShardRecord) -> tuple[Any, list[str]]:
    """The shard's table (None if unreadable) and what in it contradicts the record."""
    try:
        table = read_table(data, record.table.path)
    except DatasetError as error:
        return None, [error.found]
    if table.num_rows != record.samples:
        return table, [f"{table.num_rows} rows, its record names {record.samples} samples"]
    groups = len(table.column("group").unique())
    return table, [] if groups == record.groups else [f"{groups} groups, its record names {record.groups}"]


def _reject_problems(store: Store, key: str, record: ShardRecord) -> list[str]:
    """What in the shard's reject table contradicts the record."""
    try:
        rejected = read_rejected(store.read_bytes(key), key)
    except (DatasetError, StorageError) as error:
        return [error.found]
    dropped = sum(reject.dropped for reject in rejected)
    counts, wanted = (len(rejected), dropped), (record.rejected, record.dropped)
    return [] if counts == wanted else [f"{counts} attempts rejected and groups dropped, recorded {wanted}"]


def _tar_problems(store: Store, head: DatasetHead, record: ShardRecord, table: Any) -> Iterator[str]:
    """Decodes every sample and holds it against itself, its group, its row and the record."""
    try:
        with local_copy(store, record.tar.path) as path:
            samples = read_samples(path, record.tar.path)
            for number, problem in enumerate(_content_problems(samples, head, record, table), start=1):
                yield problem
                if number == MOST_PER_FILE:
                    yield "and more"
                    return
    except StorageError as error:
        yield error.found
    except DatasetError as error:
        yield error.message()


def _content_problems(
    samples: Iterable[TarSample], head: DatasetHead, record: ShardRecord, table: Any
) -> Iterator[str]:
    edited = bool(head.setting("pairs", "edit_negatives"))
    batches = [] if table is None else table.to_batches(max_chunksize=256)
    rows = (row for batch in batches for row in batch.to_pylist())
    metas: list[SampleMeta] = []
    for group, run in groupby(samples, key=lambda read: read.sample.meta.group):
        if not record.start <= group < record.stop:
            yield f"group {group} in a shard of groups {record.start} to {record.stop - 1}"
        members = []
        for read in run:
            sample, row = read.sample, next(rows, None)
            if row is not None:
                found = TableRow(sample.meta, sample.split, read.sha256)
                yield from row_problems(found, row, record.tar.path, record.shard)
            yield from sample_problems(sample, head)
            members.append(sample)
        yield from group_problems(members, edited_negatives=edited)
        metas += [member.meta for member in members]
    groups = [meta.group for meta in metas]
    if groups != sorted(groups):
        yield "its groups do not ascend"
    if len(metas) != record.samples:
        yield f"{len(metas)} samples, its record names {record.samples}"
    elif label_counts(metas) != {name: record.label_counts.get(name) for name in label_counts(())}:
        yield "its record's label_counts are not those of its samples"


def sample_problems(sample: Sample, head: DatasetHead) -> list[str]:
    """What contradicts itself within one sample, or contradicts the dataset's head."""
    problems = (*_provenance(sample.meta, head), *_labels(sample.meta), *_masks(sample))
    return [f"{sample.meta.key}: {problem}" for problem in problems]


def group_problems(members: Sequence[Sample], *, edited_negatives: bool = False) -> list[str]:
    """What differs between the members of one group that must not: anatomy, and image outside the edit.

    A paste leaves every pixel outside the regions that were painted as it is in the twin; where the
    twin is delivered, the change maps say by how much the others differ from it. In mode joint images share their
    anatomy alone. Only with `edited_negatives` a sham may have no variant beside it.
    """
    first, problems = members[0], list(_sham_problems(members, edited_negatives))
    for sample in members[1:]:
        key = sample.meta.key
        if _image_of(sample.meta) != _image_of(first.meta):
            problems.append(f"{key}: another source image than {first.meta.key}")
        if not np.array_equal(sample.anatomy, first.anatomy):
            problems.append(f"{key}: another anatomy mask than {first.meta.key}")
            continue
        if sample.meta.sampling.get("paste") and sample.meta.sampling.get("mode") != "joint":
            outside = ~(_painted_on(sample, members) | _painted_on(first, members))
            if not np.array_equal(sample.image[outside], first.image[outside]):
                problems.append(f"{key}: the image differs from {first.meta.key} outside its findings")
    for sample in members:
        problems += [f"{sample.meta.key}: {text}" for text in _change_problems(sample, members)]
    return problems


def _painted_on(sample: Sample, members: Sequence[Sample]) -> npt.NDArray[np.bool_]:
    """Where an image was painted on, bool [H, W]; a sham's regions are those of the first variant."""
    region = np.asarray(sample.pathology > 0)
    if sample.meta.sham:
        variants = [member for member in members if member.meta.member == Role.variant.member()]
        return np.asarray(variants[0].pathology > 0) if variants else ~region
    removed = sample.meta.source.removed if sample.meta.source is not None else ()
    return region | boxes_region(removed, region.shape)


def _sham_problems(members: Sequence[Sample], edited_negatives: bool) -> Iterator[str]:
    """Whether a sham lies in the first variant's regions, where its group has one, and is labelled as an image without
    them."""
    by_name = {sample.meta.member: sample.meta for sample in members}
    first, twin = by_name.get(Role.variant.member()), by_name.get(Role.healthy)
    for meta in by_name.values():
        if not meta.sham:
            continue
        alone = first is None and edited_negatives
        if not alone and (first is None or first.findings != meta.sham):
            yield f"{meta.key}: its regions are not those of the group's v0"
        if twin is not None and twin.labels != meta.labels:
            yield f"{meta.key}: other labels than {twin.key}"


def _change_problems(sample: Sample, members: Sequence[Sample]) -> Iterator[str]:
    """Whether change.png is 0 where nothing was painted, and the difference from the twin if that is there."""
    if sample.change[~_painted_on(sample, members)].any():
        yield "change.png is not 0 outside what was painted"
    twin = next((member.image for member in members if member.meta.member == Role.healthy), None)
    if twin is not None and not np.array_equal(sample.change, np.abs(np.subtract(sample.image, twin, dtype=int))):
        yield "change.png is not the difference from the twin"


def _image_of(meta: SampleMeta) -> tuple[str, str] | None:
    return None if meta.source is None else (meta.source.id, meta.source.sha256)


def row_problems(read: TableRow, row: Mapping[str, object], tar: str, shard: int) -> list[str]:
    """Columns of a table's row that differ from what the tar holds."""
    wanted = {**meta_columns(read.meta), "sha256": read.sha256, "tar": tar, "shard": shard}
    return [
        f"{read.meta.key}: table has {column} = {row.get(column)!r}, the tar {value!r}"
        for column, value in wanted.items()
        if row.get(column) != value
    ]


def _provenance(meta: SampleMeta, head: DatasetHead) -> Iterator[str]:
    if meta.digest != head.digest:
        yield f"digest {meta.digest[:12]}, the dataset's is {head.digest[:12]}"
    if (meta.bundle_name, meta.bundle_hash) != (head.bundle.name, head.bundle.hash):
        yield f"made with bundle {meta.bundle_name}, the dataset with {head.bundle.name}"


def _labels(meta: SampleMeta) -> Iterator[str]:
    for finding in meta.findings:
        known = vocab.FINDINGS.get(finding.name)
        if known is None:
            yield f"finding {finding.name!r} is unknown"
            continue
        for set_name, names in vocab.LABEL_SETS.items():
            for name in set(names).intersection((finding.name, known.chexpert or "", *known.implies)):
                if meta.labels[set_name][name] != 1:
                    yield f"{finding.name} was placed but {set_name}.{name} is not 1"
    columns = label_columns(meta)
    no_finding = f"chexpert14.{vocab.NO_FINDING}"
    if columns.pop(no_finding) == 1 and any(value != 0 for value in columns.values()):
        yield f"{no_finding} is 1 beside a positive or unknown label"


def _masks(sample: Sample) -> Iterator[str]:
    if sample.anatomy.max(initial=0) > max(vocab.ORGANS.values()):
        yield f"anatomy.png holds code {sample.anatomy.max()}"
    findings = sample.meta.findings
    if sample.pathology.max(initial=0) > len(findings):
        yield f"pathology.png holds value {sample.pathology.max()} for {len(findings)} findings"
    for value, finding in enumerate(findings, start=1):
        if not _painted(sample, value, finding):
            yield f"pathology.png does not show {finding.name} where its boxes are"


def _painted(sample: Sample, value: int, finding: PlacedFinding) -> bool:
    """The finding's region holds its value or a later one, and its value stands nowhere else.

    Of one that is no box the boxes are known here, and the organs that its rule says it holds in full.
    """
    allowed = boxes_region(finding.boxes, sample.pathology.shape)
    shown, rule = sample.pathology >= value, vocab.REGIONS[finding.region]
    held = set(rule.covers).intersection(vocab.LUNGS_OF[finding.side])
    needed = allowed if rule.mask is None else allowed & np.isin(sample.anatomy, list(held))
    covered = bool(shown[allowed].any()) and bool(shown[needed].all())
    return covered and not bool((sample.pathology == value)[~allowed].any())
