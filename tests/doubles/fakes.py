"""Fake samples, drawn without any model, and a dataset of them: to test readers and writers against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tests.doubles.tars import build_tar
from xreal_synth import findings as vocab
from xreal_synth.dataset.head import BundleRef, DatasetHead
from xreal_synth.dataset.names import record_key, rejects_key, table_key, tar_key
from xreal_synth.dataset.record import build_record, record_bytes, stamp
from xreal_synth.dataset.table import build_rejects, build_table
from xreal_synth.dataset.tar import encode_sample
from xreal_synth.storage import Store
from xreal_synth.types import (
    LabelValue,
    Mask,
    PixelBox,
    PlacedFinding,
    Rejected,
    Sample,
    SampleMeta,
    ShardPlan,
    ShardRecord,
    sample_key,
)

DIGEST = "d" * 64
FINGERPRINT = {"device": "cpu", "torch": "2"}
SAMPLING: dict[str, object] = {"mode": "branch", "steps": 4, "hold": 0.5, "branch": 0.25, "guidance": 2.0}


def _ellipse(size: int, cx: float, cy: float, rx: float, ry: float) -> npt.NDArray[np.bool_]:
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    inside: npt.NDArray[np.bool_] = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1
    return inside


def fake_anatomy(size: int, rng: np.random.Generator) -> Mask:
    """Organ codes uint8 [size, size]: the patient's left lung on the picture's right."""
    dx, dy = rng.uniform(-0.02, 0.02, 2)
    mask = np.zeros((size, size), np.uint8)
    mask[_ellipse(size, 0.70 + dx, 0.47 + dy, 0.15, 0.30)] = vocab.LEFT_LUNG
    mask[_ellipse(size, 0.30 + dx, 0.45 + dy, 0.16, 0.31)] = vocab.RIGHT_LUNG
    mask[_ellipse(size, 0.56 + dx, 0.62 + dy, 0.16, 0.15)] = vocab.HEART
    mask[_ellipse(size, 0.54 + dx, 0.32 + dy, 0.05, 0.16)] = vocab.AORTA
    return mask


def fake_labels(findings: Sequence[PlacedFinding]) -> dict[str, dict[str, LabelValue]]:
    """1 for the findings and their parents, 0 for the rest; Hernia stays unknown in an image without any."""
    labels: dict[str, dict[str, LabelValue]] = {
        name: dict.fromkeys(names, 0) for name, names in vocab.LABEL_SETS.items()
    }
    for finding in findings:
        known = vocab.FINDINGS[finding.name]
        for name in (finding.name, known.chexpert, *known.implies):
            for values in labels.values():
                if name in values:
                    values[name] = 1
    if not findings:
        labels["txrv18"]["Hernia"] = None
    return labels


def box_finding(name: str, box: PixelBox) -> PlacedFinding:
    """A finding that fills one fixed box of the right lung."""
    return PlacedFinding(name, "right", "lower", "box", (box,), 0.125)


def fake_pathology(findings: Sequence[PlacedFinding], anatomy: Mask) -> Mask:
    """pathology.png of these findings."""
    mask = np.zeros_like(anatomy)
    for value, finding in enumerate(findings, start=1):
        inside = np.zeros(anatomy.shape, bool)
        for x0, y0, x1, y1 in finding.boxes:
            inside[y0:y1, x0:x1] = True
        shape = vocab.REGIONS[finding.region].mask
        if shape is not None:
            inside &= shape(anatomy, finding.side, finding.size)
        mask[inside] = value
    return mask


def fake(
    group: int,
    member: str,
    findings: Sequence[PlacedFinding] = (),
    *,
    size: int = 32,
    attempt: int = 0,
    sham: Sequence[PlacedFinding] = (),
) -> Sample:
    """An image of `size` x `size`: the same anatomy and noise for the same group, brighter in its findings, and a
    little where it is a sham."""
    anatomy = fake_anatomy(size, np.random.default_rng(group))
    noise = np.random.default_rng(group + 1).normal(0, 6, (size, size))
    image = 150.0 - 90 * np.isin(anatomy, vocab.LUNGS) + 40 * (anatomy == vocab.HEART) + noise
    pathology = fake_pathology(findings, anatomy)
    twin = np.clip(image, 0, 255).astype(np.uint8)
    image[pathology > 0] += 50
    image[fake_pathology(sham, anatomy) > 0] += 5
    meta = SampleMeta(
        key=sample_key(group, member), group=group, member=member, attempt=attempt, row=group % 3, digest=DIGEST,
        bundle_name="fake", bundle_hash="b" * 64, seed=7, anatomy_source="bank", anatomy_id="bank",
        ctr=0.46, image_size=(size, size), findings=tuple(findings), labels=fake_labels(findings),
        prompt=" ".join(f"{finding.name} is present." for finding in findings), sampling=SAMPLING,
        sham=tuple(sham),
    )  # fmt: skip
    made = np.clip(image, 0, 255).astype(np.uint8)
    return Sample(made, anatomy, pathology, meta, "train", made - twin)


def fake_groups(start: int, stop: int, size: int = 32) -> list[Sample]:
    """Groups with a twin and a variant; every third group is healthy and has the twin alone."""
    samples = []
    for group in range(start, stop):
        samples.append(fake(group, "h", size=size))
        if group % 3:
            box = (size // 4, size // 2, size // 2, size // 2 + size // 4)
            findings = [box_finding("Pneumonia" if group % 2 else "Effusion", box)]
            samples.append(fake(group, "v0", findings, size=size))
    return samples


def fake_head(name: str = "fakes", shard_samples: int = 4) -> DatasetHead:
    """The head that fake samples belong to."""
    settings: dict[str, object] = {"seed": 7, "sampling": {"steps": 4}, "findings": [{"weight": 1}]}
    return DatasetHead(DIGEST, settings, BundleRef("fake", "b" * 64), FINGERPRINT, name, shard_samples)


def publish_fakes(
    store: Store, shard: ShardPlan, samples: Sequence[Sample], rejected: Sequence[Rejected] = (), *, gated: bool = False
) -> ShardRecord:
    """Writes a shard as the engine does: tar, tables, record."""
    rows = [encode_sample(sample).row for sample in samples]
    tar, table = build_tar(samples), build_table(shard, rows)
    rejects = build_rejects(shard, rejected) if rejected else None
    stem = shard.stem
    record = build_record(
        shard, rows, rejected, tar=stamp(tar_key(stem), tar), table=stamp(table_key(stem), table),
        rejects=stamp(rejects_key(stem), rejects) if rejects else None, digest=DIGEST,
        fingerprint=FINGERPRINT, timings={"sample": 1.5}, actor="actor-0", attempt=0,
        gated=gated,
    )  # fmt: skip
    store.put_if_absent(record.tar.path, tar)
    store.put_if_absent(record.table.path, table)
    if rejects and record.rejects:
        store.put_if_absent(record.rejects.path, rejects)
    store.put_if_absent(record_key(stem), record_bytes(record))
    return record
