"""MONAI: PNG images and organ masks, and the datalist that load_decathlon_datalist reads (as MONAI 1.6 does)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from xreal_synth import findings as vocab
from xreal_synth.dataset.names import ANATOMY, IMAGE
from xreal_synth.dataset.origin import Origin, origin_of, pseudonym
from xreal_synth.dataset.source import OnImage, Source, each_image
from xreal_synth.export.place import JsonLists, write_member
from xreal_synth.export.provenance import provenance
from xreal_synth.export.regions import boxed_findings
from xreal_synth.export.yolo import CLASSES

DATALIST: Final = "datalist.json"
LISTS: Final = {"train": "training", "val": "validation", "test": "test"}
"""A dataset's split -> its list."""


def write_monai(source: Source, folder: Path, on_image: OnImage) -> None:
    """Writes `images/SPLIT/KEY.png`, `labels/SPLIT/KEY.png` and `datalist.json`, with a list per split that has images.

    An entry has `image`; `label`, the organ codes (left out where the image follows no organ mask); `box`, half-open
    xyxy in pixels, and `box_label`, their classes; and `labels`, both label sets with null for unknown.
    `patient` is the same for images that must not be split apart.
    """
    reported = provenance(source)
    head: dict[str, object] = {
        "name": reported.dataset, "description": reported.notice, "licence": reported.licence,
        "tensorImageSize": "2D", "modality": {"0": "X-ray"},
        "labels": {"0": "background", **{str(code): organ for organ, code in vocab.ORGANS.items()}},
        "box_labels": {str(number): name for name, number in CLASSES.items()}, "provenance": reported.fields(),
    }  # fmt: skip
    with JsonLists(folder / DATALIST, head) as lists:
        for image in each_image(source, on_image):
            sample, meta = image.sample, image.sample.meta
            name = f"{sample.split}/{meta.key}.png"
            entry: dict[str, object] = {"image": write_member(folder, f"images/{name}", image, IMAGE)}
            if source.head.follows_masks and sample.anatomy.any():
                entry["label"] = write_member(folder, f"labels/{name}", image, ANATOMY)
            boxes = list(boxed_findings(meta))
            origin = origin_of(meta)
            entry |= {
                "box": [list(box) for _, box in boxes], "box_label": [CLASSES[finding] for finding, _ in boxes],
                "labels": meta.labels, "key": meta.key, "patient": pseudonym(meta),
                "synthetic": origin is Origin.synthetic, "origin": origin.value,
            }  # fmt: skip
            lists.add(LISTS[sample.split], entry)
        splits = source.counted.summary().splits
        for field, split in (("numTraining", "train"), ("numTest", "test")):
            head[field] = splits.get(split, 0)
