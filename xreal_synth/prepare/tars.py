"""Prepared images as WebDataset tars beside a manifest: a folder of its own that training reads as it is.

An image's members are `KEY.png`, `KEY.mask.png` and `KEY.json` (its row of the manifest). A tar holds one split.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from xreal_synth.dataset.tar import add_member
from xreal_synth.images.manifest import MANIFEST
from xreal_synth.prepare.publish import COLUMNS, write_manifest
from xreal_synth.storage import LocalStore

SHARDS: Final = "shards"


def write_tars(out: LocalStore, rows: Sequence[dict[str, str]], images: int) -> LocalStore:
    """`shards/SPLIT-000000.tar`, `images` each, byte-reproducible, and `shards/manifest.csv`, written last.

    Tars of an earlier run are replaced; without the manifest, the folder is not whole.
    """
    folder = out.local_path
    assert folder is not None
    shards = LocalStore(folder / SHARDS)
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
    write_manifest(shards, written, (*COLUMNS, "shard"))
    return shards


def _write_tar(
    out: LocalStore, shards: LocalStore, name: str, rows: Sequence[dict[str, str]]
) -> list[dict[str, str]]:
    folder = out.local_path
    assert folder is not None
    moved = []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".tmp-") as place:
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
