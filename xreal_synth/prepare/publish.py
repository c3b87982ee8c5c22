"""The folder's own files: manifest, what was done with which settings, and WebDataset tars for training.

In a tar, an image's members are `KEY.png`, `KEY.mask.png` and `KEY.json` (its row of the manifest). A tar holds one
split.
"""

from __future__ import annotations

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

from xreal_synth.dataset.tar import add_member
from xreal_synth.escaping import for_csv
from xreal_synth.images.manifest import MANIFEST, ImageBox
from xreal_synth.prepare.found import FoundImages
from xreal_synth.prepare.run import PreparedImage, image_key, mask_key
from xreal_synth.storage import LocalStore

REFUSED: Final = "refused.json"
SHARDS: Final = "shards"
PREPARED: Final = "prepared.json"


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
    rows: Sequence[dict[str, str]],
    found: FoundImages,
    settings: dict[str, Any],
    licence: str,
    audit: dict[str, Any],
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
        "audit": audit,
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
