"""Croissant: JSON-LD metadata (version 1.0) that lets Croissant's readers find, check and load the dataset.

Nothing is copied: the file names the shards and samples.parquet where they lie, each with its sha256.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from xreal_synth.dataset.index import samples_stamp
from xreal_synth.dataset.names import ANATOMY, CHANGE, IMAGE, PATHOLOGY
from xreal_synth.dataset.source import OnImage, Source, check_shards
from xreal_synth.dataset.table import sample_schema
from xreal_synth.errors import DatasetError
from xreal_synth.export.provenance import Provenance, provenance
from xreal_synth.types import FileStamp, Role

CONFORMS_TO: Final = "http://mlcommons.org/croissant/1.0"
SAMPLES_ID: Final = "samples.parquet"
_TERMS: Final = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet",
    "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references",
    "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
CONTEXT: Final[dict[str, object]] = {
    "@language": "en", "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/", "sc": "https://schema.org/", "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"}, **{term: f"cr:{term}" for term in _TERMS},
}  # fmt: skip
"""The terms of the Croissant 1.0 specification, appendix 1."""

_KINDS: Final = {"string": "sc:Text", "double": "sc:Float"}
_IMAGE_GLOBS: Final = tuple(f"*-{role}.{IMAGE}" for role in (Role.healthy, "[vs]?", "[vs]??", "[vs]???"))
_IMAGES: Final = {
    "image": (_IMAGE_GLOBS, "8-bit grey image"),
    "anatomy": ((f"*.{ANATOMY}",), "organ codes: 0 background, 1 left lung, 2 right lung, 3 heart, 4 aorta"),
    "pathology": ((f"*.{PATHOLOGY}",), "0 none, i+1 where findings[i] was asked for"),
    "change": ((f"*.{CHANGE}",), "absolute difference from the healthy twin: 0 outside what was painted"),
}


def croissant_json(source: Source, out: Path, on_image: OnImage) -> bytes:
    """The file's bytes for the place `out`: local datasets are named relative to its folder.

    Every shard's tar and table is hashed first. Raises DatasetError where the dataset was not finished, or
    where a shard is not as its record says: samples.parquet has its images, so none can be left out.
    """
    if source.excluded:
        raise DatasetError(
            where=source.store.uri, found=f"{len(source.excluded)} images are excluded (excluded.csv)",
            wanted="a whole dataset: its metadata names the tars as they are",
            hint="export --to hf or coco, which leave them out, or take them in again",
        )  # fmt: skip
    samples = samples_stamp(source.store)
    check_shards(source, on_image)
    if source.skipped:
        raise DatasetError(
            where=source.store.uri, found=str(source.skipped[0]),
            wanted="a whole dataset: its metadata cannot leave images of samples.parquet out",
            hint="run xreal-synth generate again, then export",
        )  # fmt: skip
    content = _metadata(source, samples, out)
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _metadata(source: Source, samples: FileStamp, out: Path) -> dict[str, object]:
    reported = provenance(source)
    tars = [record.tar for record in source.records if record.samples]
    made_by = f"the model {reported.bundle.name}"
    return {
        "@context": CONTEXT, "@type": "sc:Dataset", "conformsTo": CONFORMS_TO, "name": reported.dataset,
        "description": f"{reported.notice} {source.images} images with labels, boxes and organ masks, "
        f"drawn by {made_by}.",
        "license": reported.licence, "version": f"1.0.0+{reported.digest[:12]}",
        "citeAs": f"{reported.dataset}, chest X-rays made with xreal-synth and {made_by}, "
        f"recipe digest {reported.digest}",
        "keywords": [
            "synthetic" if reported.synthetic else "edited by a model", "chest X-ray", "medical imaging",
            "not for diagnosis",
        ],
        "isLiveDataset": False, **_responsible(reported),
        "distribution": [*_files(source, [samples, *tars], out), *_file_sets(tars)],
        "recordSet": [_samples_records(), *(_image_records(name) for name in _IMAGES)],
    }  # fmt: skip


def _responsible(reported: Provenance) -> dict[str, object]:
    """Croissant's vocabulary for responsible use."""
    return {
        "rai:dataCollection": f"Drawn by the model {reported.bundle.name} (hash {reported.bundle.hash}) from "
        f"{reported.drawn_from}; recipe digest {reported.digest}. The model was trained on: {reported.training_data}.",
        "rai:dataCollectionType": "Synthetic data" if reported.synthetic else "Real images edited by a model",
        "rai:dataLimitations": "A label says what was asked for at that place, not what a radiologist read "
        "there. The images carry the biases of the model's training images.",
        "rai:dataUseCases": reported.use_restriction,
        "rai:personalSensitiveInformation": "None: no image shows a patient. The model may have kept parts of "
        "single training images."
        if reported.synthetic
        else "The images are patients' images, edited in part.",
    }


def _files(source: Source, stamps: list[FileStamp], out: Path) -> Iterator[dict[str, object]]:
    root = source.store.local_path
    for stamp in stamps:
        table = stamp.path == SAMPLES_ID
        relative = root and Path(os.path.relpath(root / stamp.path, out.parent)).as_posix()
        yield {
            "@type": "cr:FileObject", "@id": stamp.path, "name": Path(stamp.path).name,
            "contentUrl": relative or f"{source.store.uri}/{stamp.path}",
            "encodingFormat": "application/x-parquet" if table else "application/x-tar",
            "contentSize": f"{stamp.bytes} B", "sha256": stamp.sha256,
        }  # fmt: skip


def _file_sets(tars: list[FileStamp]) -> Iterator[dict[str, object]]:
    for name, (globs, description) in _IMAGES.items():
        yield {
            "@type": "cr:FileSet", "@id": f"{name}-files", "name": f"{name}-files",
            "description": f"PNG in every shard: {description}",
            "containedIn": [{"@id": tar.path} for tar in tars], "encodingFormat": "image/png", "includes": list(globs),
        }  # fmt: skip


def _samples_records() -> dict[str, object]:
    """A record per image from samples.parquet: all but the nested findings."""
    fields = []
    for field in sample_schema():
        if field.name != "findings":
            label_set, dot, label = field.name.partition(".")
            described = f"{label} ({label_set}): 1, 0 or empty for unknown" if dot else f"the image's {field.name}"
            source = {"fileObject": {"@id": SAMPLES_ID}, "extract": {"column": field.name}}
            kind = _KINDS.get(str(field.type), "sc:Integer")
            fields.append(_field(f"samples/{field.name}", described, kind, source))
    return _record_set("samples", "a row per image: labels, split and provenance", fields)


def _image_records(name: str) -> dict[str, object]:
    """A record per image, with its image's key; the key leads to the row in `samples`."""
    _, description = _IMAGES[name]
    files = {"fileSet": {"@id": f"{name}-files"}}
    named = {**files, "extract": {"fileProperty": "filename"}, "transform": {"regex": "^([^.]+)"}}
    content = {**files, "extract": {"fileProperty": "content"}}
    key = _field(f"{name}/key", "the image's key", "sc:Text", named)
    key["references"] = {"field": {"@id": "samples/key"}}
    image = _field(f"{name}/image", description, "sc:ImageObject", content)
    split = _field(f"{name}/split", "the image's split", "sc:Text", {"field": {"@id": "samples/split"}})
    return _record_set(name, description, [key, image, split])


def _field(name: str, description: str, kind: str, source: dict[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:Field", "@id": name.replace(" ", "_"), "name": name, "description": description,
        "dataType": kind, "source": source,
    }  # fmt: skip


def _record_set(name: str, description: str, fields: list[dict[str, Any]]) -> dict[str, object]:
    return {
        "@type": "cr:RecordSet", "@id": name, "name": name, "description": description,
        "key": {"@id": f"{name}/key"}, "field": fields,
    }  # fmt: skip
