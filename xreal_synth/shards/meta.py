"""KEY.json: a sample's meta data as JSON, and back.

Fields that a later version adds are ignored by this one; a missing field or a wrong type is an error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, TypeAdapter, ValidationError

from xreal_synth import vocab
from xreal_synth.errors import DatasetError
from xreal_synth.shards.names import parse_key
from xreal_synth.types import (
    FilmQuality,
    LabelValue,
    NormBox,
    OwnFinding,
    PixelBox,
    PlacedFinding,
    SampleMeta,
    SourceFilm,
)

REAL: Final = "a real film"
EDITED: Final = "edited from a real film"
TWIN: Final = "h"
SHAM: Final = "s"


def _no_bool(value: object) -> object:
    """pydantic would take true for 1."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is not 1, 0 or null")
    return value


def _known(region: str) -> str:
    if region not in vocab.REGIONS:
        raise ValueError(f"{region!r} is none of {', '.join(vocab.REGIONS)}")
    return region


_Region = Annotated[str, AfterValidator(_known)]


@dataclass(frozen=True, slots=True)
class _FindingJson:
    name: str
    side: str
    zone: str
    region: _Region
    size: float | None
    box_xyxy: PixelBox
    box_xyxyn: NormBox
    boxes_xyxy: tuple[PixelBox, ...]


@dataclass(frozen=True, slots=True)
class _ShamJson:
    of: str
    side: str
    zone: str
    region: _Region
    size: float | None
    box_xyxy: PixelBox
    box_xyxyn: NormBox
    boxes_xyxy: tuple[PixelBox, ...]

    @property
    def finding(self) -> _FindingJson:
        return _FindingJson(
            self.of, self.side, self.zone, self.region, self.size,
            self.box_xyxy, self.box_xyxyn, self.boxes_xyxy,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _BundleJson:
    name: str
    hash: str


@dataclass(frozen=True, slots=True)
class _AnatomyJson:
    source: str
    id: str
    ctr: float | None


@dataclass(frozen=True, slots=True)
class _OwnJson:
    name: str
    box_xyxy: PixelBox
    healed_xyxy: PixelBox | None


@dataclass(frozen=True, slots=True)
class _SourceJson:
    origin: Literal["a real film", "edited from a real film"]
    id: str
    sha256: str
    labels: tuple[str, ...]
    findings: tuple[_OwnJson, ...]


@dataclass(frozen=True, slots=True)
class _QualityJson:
    profile: str
    scores: dict[str, float]
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _MetaJson:
    key: str
    group: int
    member: str
    attempt: int
    row: int
    image_size: tuple[int, int]
    findings: tuple[_FindingJson, ...]
    labels: dict[str, dict[str, Annotated[LabelValue, BeforeValidator(_no_bool)]]]
    prompt: str
    sampling: dict[str, object]
    anatomy: _AnatomyJson
    bundle: _BundleJson
    digest: str
    seed: int
    synthetic: bool
    source: _SourceJson | None = None
    quality: _QualityJson | None = None
    sham: tuple[_ShamJson, ...] = ()


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[_MetaJson]:
    return TypeAdapter(_MetaJson)


def norm_box(box: PixelBox, image_size: tuple[int, int]) -> NormBox:
    """Pixel xyxy over (width, height); `image_size` is (height, width)."""
    height, width = image_size
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def finding_fields(finding: PlacedFinding, image_size: tuple[int, int]) -> dict[str, object]:
    """A finding as it stands in KEY.json and, under the same names, in the table."""
    return {
        "name": finding.name,
        "side": finding.side,
        "zone": finding.zone,
        "region": finding.region,
        "size": finding.size,
        "box_xyxy": list(finding.box_xyxy),
        "box_xyxyn": list(norm_box(finding.box_xyxy, image_size)),
        "boxes_xyxy": [list(box) for box in finding.boxes],
    }


def sham_fields(place: PlacedFinding, image_size: tuple[int, int]) -> dict[str, object]:
    """A region that a sham was painted in: `of` names the finding that the first variant shows there."""
    fields = finding_fields(place, image_size)
    return {"of": fields.pop("name"), **fields}


def meta_json(meta: SampleMeta) -> bytes:
    """Canonical bytes of KEY.json: fixed field order, no spaces, label sets in vocab's order.

    `synthetic` is true where nothing of the film is a patient's. A real film, or one edited from it, has
    `source`, which says so. `quality` is there where a gate was, `sham`, the regions that were painted, in a
    sham alone.
    """
    fields: dict[str, object] = {
        "key": meta.key,
        "group": meta.group,
        "member": meta.member,
        "attempt": meta.attempt,
        "row": meta.row,
        "image_size": list(meta.image_size),
        "findings": [finding_fields(finding, meta.image_size) for finding in meta.findings],
        "labels": {
            set_name: {name: meta.labels[set_name][name] for name in names}
            for set_name, names in vocab.LABEL_SETS.items()
        },
        "prompt": meta.prompt,
        "sampling": dict(sorted(meta.sampling.items())),
        "anatomy": {"source": meta.anatomy_source, "id": meta.anatomy_id, "ctr": meta.ctr},
        "bundle": {"name": meta.bundle_name, "hash": meta.bundle_hash},
        "digest": meta.digest,
        "seed": meta.seed,
        "synthetic": meta.source is None,
    }
    if meta.source is not None:
        fields["source"] = _source_fields(meta.source, meta.member)
    if meta.quality is not None:
        fields["quality"] = {
            "profile": meta.quality.profile,
            "scores": dict(sorted(meta.quality.scores.items())),
            "flags": list(meta.quality.flags),
        }
    if meta.sham:
        fields["sham"] = [sham_fields(place, meta.image_size) for place in meta.sham]
    return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()


def _source_fields(source: SourceFilm, member: str) -> dict[str, object]:
    """What KEY.json says of a real film, or of the one that a film was edited from."""
    return {
        "origin": REAL if member == TWIN else EDITED,
        "id": source.id,
        "sha256": source.sha256,
        "labels": list(source.labels),
        "findings": [
            {
                "name": own.name,
                "box_xyxy": list(own.box),
                "healed_xyxy": None if own.healed is None else list(own.healed),
            }
            for own in source.findings
        ],
    }


def parse_meta(data: bytes, where: str) -> SampleMeta:
    """The meta data in a KEY.json; raises DatasetError if it is not one or contradicts itself."""
    try:
        raw = _adapter().validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(map(str, first["loc"]))
        raise DatasetError(where=where, found=f"{path or 'the file'}: {first['msg']}") from error
    meta = SampleMeta(
        key=raw.key, group=raw.group, member=raw.member, attempt=raw.attempt, row=raw.row, digest=raw.digest,
        bundle_name=raw.bundle.name, bundle_hash=raw.bundle.hash, seed=raw.seed,
        anatomy_source=raw.anatomy.source, anatomy_id=raw.anatomy.id, ctr=raw.anatomy.ctr,
        image_size=raw.image_size, findings=tuple(_finding(finding, where) for finding in raw.findings),
        labels=raw.labels, prompt=raw.prompt, sampling=raw.sampling, source=_source(raw.source),
        quality=_quality(raw.quality),
        sham=tuple(_finding(place.finding, where) for place in raw.sham),
    )  # fmt: skip
    _check(meta, raw, where)
    return meta


def _finding(raw: _FindingJson, where: str) -> PlacedFinding:
    if not raw.boxes_xyxy:
        raise DatasetError(where=where, found=f"finding {raw.name!r} has no box")
    return PlacedFinding(raw.name, raw.side, raw.zone, raw.region, raw.boxes_xyxy, raw.size)


def _source(raw: _SourceJson | None) -> SourceFilm | None:
    if raw is None:
        return None
    own = tuple(OwnFinding(one.name, one.box_xyxy, one.healed_xyxy) for one in raw.findings)
    return SourceFilm(raw.id, raw.sha256, raw.labels, own)


def _quality(raw: _QualityJson | None) -> FilmQuality | None:
    return None if raw is None else FilmQuality(raw.profile, raw.scores, raw.flags)


def _check(meta: SampleMeta, raw: _MetaJson, where: str) -> None:
    key = parse_key(meta.key, where)
    if (meta.group, meta.member) != key:
        raise DatasetError(
            where=where, found=f"key {meta.key} but group {meta.group}, member {meta.member!r}"
        )
    for set_name, names in vocab.LABEL_SETS.items():
        if set(meta.labels.get(set_name, {})) != set(names):
            raise DatasetError(
                where=where,
                found=f"labels.{set_name}",
                wanted="each finding of the set once, as 1, 0 or null",
            )
    _check_source(meta, raw, where)
    if meta.quality is not None and not set(meta.quality.flags) <= set(meta.quality.scores):
        raise DatasetError(where=where, found="quality.flags names scores that are not there")
    if (meta.member[0] == SHAM) != bool(meta.sham):
        raise DatasetError(where=where, found=f"member {meta.member} with {len(meta.sham)} sham regions")
    if meta.sham and (meta.findings or (meta.source is not None and meta.source.healed)):
        raise DatasetError(where=where, found="a sham with findings painted in or over")
    told_places = (*raw.findings, *(place.finding for place in raw.sham))
    for finding, told in zip((*meta.findings, *meta.sham), told_places, strict=True):
        _check_boxes(finding, told, meta.image_size, where)


def _check_source(meta: SampleMeta, raw: _MetaJson, where: str) -> None:
    """A film is synthetic or has a source, and only an edited one has findings painted in or over."""
    if raw.synthetic != (raw.source is None):
        raise DatasetError(
            where=where, found=f"synthetic: {raw.synthetic} and source: {raw.source is not None}"
        )
    if meta.source is None or raw.source is None:
        return
    if (raw.source.origin == REAL) != (meta.member == TWIN):
        raise DatasetError(where=where, found=f"member {meta.member} is {raw.source.origin}")
    if meta.member == TWIN and (meta.findings or meta.source.healed):
        raise DatasetError(where=where, found="a real film with findings painted in or over")
    for own in meta.source.findings:
        for box in (own.box, own.healed or own.box):
            _check_inside(own.name, box, meta.image_size, where)


def _check_inside(name: str, box: PixelBox, size: tuple[int, int], where: str) -> None:
    (x0, y0, x1, y1), (height, width) = box, size
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise DatasetError(
            where=where,
            found=f"{name}: box {[x0, y0, x1, y1]} in a film of {width} x {height}",
            wanted="a half-open xyxy box inside the film",
        )


def _check_boxes(finding: PlacedFinding, told: _FindingJson, size: tuple[int, int], where: str) -> None:
    for box in finding.boxes:
        _check_inside(finding.name, box, size, where)
    if told.box_xyxy != finding.box_xyxy or told.box_xyxyn != norm_box(finding.box_xyxy, size):
        raise DatasetError(
            where=where, found=f"{finding.name}: box_xyxy, box_xyxyn and boxes_xyxy do not agree"
        )
