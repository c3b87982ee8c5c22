"""YOLO: Ultralytics' layout of PNG images, a text file of boxes for each, and data.yaml (as Ultralytics 8.4 reads)."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

import yaml

from xreal_synth.dataset.names import IMAGE
from xreal_synth.dataset.source import OnImage, Source, each_image
from xreal_synth.dataset.table import LABEL_COLUMNS, label_columns
from xreal_synth.escaping import for_csv
from xreal_synth.export.coco import CATEGORIES
from xreal_synth.export.place import new_file, write_member
from xreal_synth.export.provenance import provenance
from xreal_synth.export.regions import boxed_findings, has_unboxed
from xreal_synth.types import SampleMeta

CLASSES: Final = {name: number - 1 for name, number in CATEGORIES.items()}
"""Ids from 0 by finding, in COCO's order, the same for every dataset."""
UNBOXED: Final = "unboxed"
NEEDED: Final = ("train", "val")
"""The splits without which Ultralytics takes no dataset."""


def write_yolo(source: Source, folder: Path, on_image: OnImage) -> None:
    """Writes `images/SPLIT/KEY.png`, `labels/SPLIT/KEY.txt`, `data.yaml` and `labels.csv`.

    A line of a text file is a class, then the box's centre, width and height as shares of the image; an image
    without finding has an empty one. YOLO takes what has no box for absent, so an image with a positive label that
    none of its boxes accounts for is in no split: it is `unboxed/SPLIT/KEY.png`. Every image has its labels in
    `labels.csv`, empty for unknown.
    """
    splits: dict[str, str] = {}
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "key", "split", *LABEL_COLUMNS])
        for image in each_image(source, on_image):
            meta, split = image.sample.meta, image.sample.split
            place = UNBOXED if has_unboxed(meta) else "images"
            name = write_member(folder, f"{place}/{split}/{meta.key}.png", image, IMAGE)
            if place != UNBOXED:
                splits[split] = f"images/{split}"
                new_file(folder, f"labels/{split}/{meta.key}.txt").write_text(_lines(meta), encoding="utf-8")
            table.writerow(map(for_csv, [name, meta.key, split, *label_columns(meta).values()]))
    content: dict[str, object] = {
        **{split: splits[split] for split in ("train", "val", "test") if split in splits},
        "names": {number: name for name, number in CLASSES.items()},
        "provenance": provenance(source).fields(),
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _lines(meta: SampleMeta) -> str:
    height, width = meta.image_size
    rows = (
        (CLASSES[name], (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
        for name, (x0, y0, x1, y1) in boxed_findings(meta)
    )
    return "".join(f"{number} {cx:.8g} {cy:.8g} {w:.8g} {h:.8g}\n" for number, cx, cy, w, h in rows)
