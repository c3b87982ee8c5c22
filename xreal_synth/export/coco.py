"""COCO: PNG images, and JSON files with boxes and exact regions, one of all images and one per split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xreal_synth import findings as vocab
from xreal_synth.dataset.names import CARD, IMAGE
from xreal_synth.dataset.origin import Origin, origin_of
from xreal_synth.dataset.source import OnImage, Source, each_image
from xreal_synth.dataset.tar import TarSample
from xreal_synth.export.place import JsonLists, write_member
from xreal_synth.export.provenance import provenance
from xreal_synth.export.regions import finding_region, kept_findings
from xreal_synth.masks import boxes_region
from xreal_synth.types import PixelBox, Sample

IMAGES = "images"
ALL = "annotations.json"
_LISTS = ("images", "annotations")
_README = """# {dataset}, as COCO

{notice}

- A `file_name` starts below `images/`: give that folder as the root of the images.
- `annotations.json` has all images, `annotations_SPLIT.json` those of one split, with the same ids.
- `bbox` is x, y, width, height in pixels, `segmentation` uncompressed RLE. An image's `labels` are 1, 0 or null
  (unknown); a finding without a place has a label and no annotation.
"""
_BOXED = dict.fromkeys((*vocab.FINDINGS, *vocab.IMAGE_LABELS[1:]))
CATEGORIES = {name: i for i, name in enumerate(_BOXED, start=1)}
"""Ids by finding, the same for every dataset: those that can be painted, then those only real images have."""


def write_coco(source: Source, folder: Path, on_image: OnImage) -> None:
    """Writes `images/SPLIT/KEY.png`, the JSON files and a README.

    A finding painted in has one annotation per box (`both` has two); `bbox` is x, y, width and height in
    pixels, `segmentation` the uncompressed RLE of the finding's region in that box, down the columns. The boxes
    that a real image came with, if nobody painted over them, follow with `painted` false. An image carries its
    labels, with null for unknown. Ids count from 1 in the order of the shards.
    """
    head = _head(source)
    image_id = annotation_id = 0
    with ExitStack() as stack:
        files: dict[str, JsonLists] = {}
        for image in each_image(source, on_image):
            sample = image.sample
            image_id += 1
            entry = _write_image(folder, image, image_id)
            annotations = list(_annotations(sample, image_id, annotation_id + 1))
            annotation_id += len(annotations)
            for name in (ALL, f"annotations_{sample.split}.json"):
                if name not in files:
                    files[name] = stack.enter_context(JsonLists(folder / name, head, _LISTS))
                files[name].add("images", entry)
                for annotation in annotations:
                    files[name].add("annotations", annotation)
    reported = provenance(source)
    readme = _README.format(dataset=reported.dataset, notice=reported.notice)
    (folder / CARD).write_text(readme, encoding="utf-8")


def _head(source: Source) -> dict[str, object]:
    reported = provenance(source)
    parents = {name: known.implies for name, known in vocab.FINDINGS.items()}
    return {
        "info": {"description": f"{reported.dataset}: {reported.notice}", "version": reported.digest[:12]}
        | reported.fields(),
        "licenses": [{"id": 1, "name": reported.licence, "url": ""}],
        "categories": [
            {"id": number, "name": name, "supercategory": (parents.get(name) or ("finding",))[-1]}
            for name, number in CATEGORIES.items()
        ],
    }


def _write_image(folder: Path, image: TarSample, image_id: int) -> dict[str, object]:
    meta = image.sample.meta
    name = f"{image.sample.split}/{meta.key}.png"
    write_member(folder, f"{IMAGES}/{name}", image, IMAGE)
    height, width = meta.image_size
    origin = origin_of(meta)
    return {
        "id": image_id, "file_name": name, "width": width, "height": height, "license": 1,
        "key": meta.key, "group": meta.group, "member": meta.member, "split": image.sample.split, "labels": meta.labels,
        "synthetic": origin is Origin.synthetic, "origin": origin.value,
    }  # fmt: skip


def _annotations(sample: Sample, image_id: int, first_id: int) -> Iterator[dict[str, object]]:
    """Of what was painted in, then of what the image came with."""
    parts: list[tuple[str, PixelBox, npt.NDArray[np.bool_], dict[str, object]]] = []
    for value, finding in enumerate(sample.meta.findings, start=1):
        region = finding_region(finding, value, sample.anatomy, sample.pathology)
        more = {"side": finding.side, "zone": finding.zone, "region": finding.region, "painted": True}
        for box in finding.boxes:
            parts.append((finding.name, box, region & boxes_region([box], region.shape), more))
    for own in kept_findings(sample.meta):
        parts.append((own.name, own.box, boxes_region([own.box], sample.image.shape), {"painted": False}))
    for number, (name, box, region, more) in enumerate(parts, start=first_id):
        x0, y0, x1, y1 = box
        yield {
            "id": number, "image_id": image_id, "category_id": CATEGORIES[name],
            "bbox": [x0, y0, x1 - x0, y1 - y0], "area": int(region.sum()), "iscrowd": 0,
            "segmentation": run_lengths(region), **more,
        }  # fmt: skip


def run_lengths(mask: npt.NDArray[np.bool_]) -> dict[str, object]:
    """bool [H, W] => COCO's uncompressed RLE: runs of 0 and 1 in turn, 0 first, down the columns."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(edges, prepend=0, append=mask.size)
    counts = counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts
    return {"size": list(mask.shape), "counts": counts.tolist()}
