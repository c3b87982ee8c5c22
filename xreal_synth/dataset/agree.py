"""Agreement of a sample's image, masks, boxes, labels and table row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from xreal_synth import findings as vocab
from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.table import label_columns, meta_columns
from xreal_synth.dataset.tar import TableRow
from xreal_synth.masks import boxes_region
from xreal_synth.types import PlacedFinding, Role, Sample, SampleMeta


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
