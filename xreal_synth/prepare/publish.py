"""The folder's own files: manifest, what was done with which settings, and WebDataset tars for training; and the audit
of what it holds, to be read before training on it: splits that leak, images unlike the rest.

In a tar, an image's members are `KEY.png`, `KEY.mask.png` and `KEY.json` (its row of the manifest). A tar holds one
split.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xreal_synth.dataset.tar import add_member
from xreal_synth.escaping import for_csv
from xreal_synth.images.manifest import MANIFEST, ImageBox, splits_of_patients
from xreal_synth.prepare.found import FoundImages
from xreal_synth.prepare.run import PreparedImage, image_key, mask_key
from xreal_synth.storage import LocalStore

REFUSED: Final = "refused.json"
SHARDS: Final = "shards"
PREPARED: Final = "prepared.json"
ALIKE: Final = 0.99
"""Least correlation of two small pictures of one image. Of 2,010 real images, the nearest of another patient came to
0.98 at most; after another contrast, size and JPEG at quality 60 an image and itself came to 0.9997 at least."""
FAR: Final = 3.5
"""Robust standard deviations from the median beyond which an image is unlike the rest."""
_BLOCK: Final = 1024
_LEAST_SPREAD: Final = {"shorter side": 0.05, "width over height": 0.05, "mean grey": 4.0, "contrast": 2.0}
"""Of each measure, in its own unit; the sides' are logarithms."""


def manifest_rows(images: Iterable[PreparedImage], mask_source: str) -> list[dict[str, str]]:
    """The manifest's rows by column, in the columns' order."""
    rows = []
    for image in images:
        source, done = image.image, image.done
        rows.append(
            {
                "image": image_key(source.key),
                "original_id": source.name,
                "patient_id": source.patient,
                "view": source.view or done.view,
                "age": source.age or done.age,
                "sex": source.sex or done.sex,
                "labels": "|".join(source.labels),
                "unknown": "|".join(source.unknown),
                "boxes_xywh_norm": _boxes(image.boxes),
                "native": f"{done.width}x{done.height}",
                "mask_source": source.mask_source or "given" if source.mask else mask_source,
                "mask_score": "" if image.score is None else f"{image.score:.3f}",
                "mask": mask_key(source.key),
                "split": source.split,
            }
        )
    return rows


def write_manifest(out: LocalStore, rows: Sequence[dict[str, str]]) -> None:
    """Replaces manifest.csv; cells that a spreadsheet would take for a formula begin with an apostrophe."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({name: for_csv(cell) for name, cell in row.items()} for row in rows)
    out.replace(MANIFEST, text.getvalue().encode())


def write_account(
    out: LocalStore,
    images: Sequence[PreparedImage],
    rows: Sequence[dict[str, str]],
    found: FoundImages,
    settings: dict[str, Any],
    licence: str,
) -> dict[str, Any]:
    """`prepared.json`: settings, tables and libraries, counts, the audit; returns what it holds."""
    account = {
        "format_version": 1,
        **settings,
        "tables": found.tables,
        "notes": found.notes,
        "licence": licence,
        "libraries": {name: version(name) for name in ("xreal-synth", "torchxrayvision", "torch", "pillow")},
        "images": len(rows),
        "patients": len({row["patient_id"] for row in rows}),
        "images_by_split": dict(Counter(row["split"] for row in rows)),
        "labels": _label_counts(rows),
        "left_out": dict(found.left_out.most_common()),
        "audit": audit(images, rows),
        "refused": dict(Counter(str(refusal.fault) for refusal in found.refused).most_common()),
    }
    out.replace(PREPARED, json.dumps(account, indent=1, ensure_ascii=False).encode())
    return account


def write_tars(out: LocalStore, rows: Sequence[dict[str, str]], images: int) -> None:
    """`shards/SPLIT-000000.tar`, `images` each, byte-reproducible, and `shards/manifest.csv`, written last.

    Tars of an earlier run are replaced; without the manifest, the folder is not whole.
    """
    shards = LocalStore(out.local_path / SHARDS)
    shards.delete(MANIFEST)
    written: list[dict[str, str]] = []
    for split in dict.fromkeys(row["split"] for row in rows):
        own = [row for row in rows if row["split"] == split]
        for number, start in enumerate(range(0, len(own), images)):
            name = f"{split}-{number:06d}.tar"
            written += _write_tar(out, shards, name, own[start : start + images])
    named = {row["shard"] for row in written}
    for key in shards.list(""):
        if key.endswith(".tar") and key not in named:
            shards.delete(key)
    write_manifest(shards, written)


def _write_tar(out: LocalStore, shards: LocalStore, name: str, rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    moved = []
    with tempfile.TemporaryDirectory(dir=out.local_path, prefix=".tmp-") as place:
        file = Path(place) / name
        with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in rows:
                key = Path(row["image"]).stem
                add_member(tar, f"{key}.png", out.read_bytes(row["image"]))
                add_member(tar, f"{key}.mask.png", out.read_bytes(row["mask"]))
                add_member(tar, f"{key}.json", json.dumps(row, ensure_ascii=False).encode())
                moved.append({**row, "image": f"{key}.png", "mask": f"{key}.mask.png", "shard": name})
        shards.replace(name, file)
    return moved


def _boxes(boxes: Sequence[ImageBox]) -> str:
    found = [[b.name, *(round(v, 4) for v in (*b.box[:2], b.box[2] - b.box[0], b.box[3] - b.box[1]))] for b in boxes]
    return json.dumps(found) if found else ""


def _label_counts(rows: Sequence[dict[str, str]]) -> dict[str, dict[str, int]]:
    positive = Counter(name for row in rows for name in row["labels"].split("|") if name)
    unknown = Counter(name for row in rows for name in row["unknown"].split("|") if name)
    names = sorted({*positive, *unknown})
    return {
        name: {
            "positive": positive[name],
            "negative": len(rows) - positive[name] - unknown[name],
            "unknown": unknown[name],
        }
        for name in names
    }


def audit(images: Sequence[PreparedImage], rows: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Of the images and their rows in the manifest, as prepared.json has it: positives of each label by "split view",
    pairs of sources in different splits that show the same, patients in two splits, and outliers by their source's
    name, the farthest first."""
    labels: dict[str, Counter[str]] = {}
    splits = splits_of_patients((row["patient_id"], row["split"]) for row in rows)
    for row in rows:
        for name in filter(None, row["labels"].split("|")):
            labels.setdefault(name, Counter())[f"{row['split']} {row['view'] or 'no view'}"] += 1
    looks = np.stack([np.frombuffer(base64.b64decode(image.done.look), np.uint8) for image in images])
    return {
        "positives_by_split_and_view": {name: dict(sorted(labels[name].items())) for name in sorted(labels)},
        "alike_across_splits": _alike(looks.astype(np.float32), rows),
        "patients_across_splits": sorted(patient for patient, found in splits.items() if len(found) > 1),
        "outliers": _outliers(images, looks),
    }


def _alike(measurements: NDArray[np.float32], rows: Sequence[dict[str, str]]) -> list[list[str]]:
    measurements = measurements - measurements.mean(axis=1, keepdims=True)
    measurements /= np.maximum(np.linalg.norm(measurements, axis=1, keepdims=True), 1e-6)
    names, splits = [row["original_id"] for row in rows], np.array([row["split"] for row in rows])
    found = []
    for split in sorted(set(splits))[:-1]:
        (own,), (others,) = np.nonzero(splits == split), np.nonzero(splits > split)
        for start in range(0, len(own), _BLOCK):
            block = own[start : start + _BLOCK]
            for i, j in np.argwhere(measurements[block] @ measurements[others].T >= ALIKE):
                found.append([names[block[i]], names[others[j]]])
    return found


def _outliers(images: Sequence[PreparedImage], measurements: NDArray[np.uint8]) -> list[dict[str, str]]:
    sides = np.array([(image.done.width, image.done.height) for image in images], np.float64)
    measures = {
        "shorter side": np.log(sides.min(axis=1)),
        "width over height": np.log(sides[:, 0] / sides[:, 1]),
        "mean grey": measurements.mean(axis=1),
        "contrast": measurements.std(axis=1),
    }
    found: dict[int, tuple[float, str]] = {}
    for name, values in measures.items():
        middle = float(np.median(values))
        spread = 1.4826 * float(np.median(np.abs(values - middle))) + _LEAST_SPREAD[name]
        shown = np.exp if name in ("shorter side", "width over height") else np.asarray
        for at in np.flatnonzero(np.abs(values - middle) > FAR * spread):
            far = abs(float(values[at]) - middle) / spread
            reported = f"{name} {float(shown(values[at])):.3g}, of most {float(shown(middle)):.3g}"
            found[int(at)] = max(found.get(int(at), (0.0, "")), (far, reported))
    order = sorted(found, key=lambda at: -found[at][0])
    return [{"file": images[at].image.name, "reason": found[at][1]} for at in order]
