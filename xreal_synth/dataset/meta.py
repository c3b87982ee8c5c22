"""KEY.json: a sample's meta data as JSON, and back; FACTS is what it and the table's columns follow from.

Fields that a later version adds are ignored by this one, and null in samples of this one; any other missing field or
a wrong type is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Any, Final, Literal

from annotated_types import MinLen
from pydantic import AfterValidator, BaseModel, BeforeValidator, ValidationError, create_model

from xreal_synth import findings as vocab
from xreal_synth.dataset.names import parse_key
from xreal_synth.dataset.seal import first_problem
from xreal_synth.errors import DatasetError
from xreal_synth.types import (
    ExistingFinding,
    ImageQuality,
    LabelValue,
    NormBox,
    PixelBox,
    PlacedFinding,
    Role,
    SampleMeta,
    SourceImage,
)

REAL: Final = "a real film"
EDITED: Final = "edited from a real film"


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
class PlaceJson:
    """A place as KEY.json and the table have it, after its name."""

    side: str
    zone: str
    region: _Region
    size: float | None
    box_xyxy: PixelBox
    box_xyxyn: NormBox
    boxes_xyxy: Annotated[tuple[PixelBox, ...], MinLen(1)]


@dataclass(frozen=True, slots=True)
class _FindingJson(PlaceJson):
    name: str


@dataclass(frozen=True, slots=True)
class _ShamJson(PlaceJson):
    of: str


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
class Fact:
    """A field of SampleMeta, in KEY.json and in the table.

    `path` is where KEY.json has it, of JSON type `kind`. `write` gives its JSON value, None where it is left out
    (only with a default), `read` turns that back into SampleMeta's. `columns` are the table's: name -> (arrow type,
    value). A fact that a later version adds has a default, with which samples that lack it are read: its columns are
    null there.
    """

    name: str
    path: tuple[str, ...]
    kind: Any
    write: Callable[[SampleMeta], object]
    read: Callable[[Any], object] = lambda value: value
    default: Any = ...
    columns: Mapping[str, tuple[str, Callable[[SampleMeta], object]]] = field(default_factory=dict)


def _fact(name: str, kind: Any, arrow: str = "", path: tuple[str, ...] = (), **more: Any) -> Fact:
    """One whose value stands in KEY.json, and in a column of an arrow type, as it is."""
    value = attrgetter(name)
    return Fact(name, path or (name,), kind, value, columns={name: (arrow, value)} if arrow else {}, **more)


def _findings(meta: SampleMeta) -> list[dict[str, object]]:
    return [finding_fields(finding, meta.image_size) for finding in meta.findings]


def _labels(meta: SampleMeta) -> dict[str, dict[str, LabelValue]]:
    return {
        set_name: {name: meta.labels[set_name][name] for name in names} for set_name, names in vocab.LABEL_SETS.items()
    }


FACTS: Final = (
    _fact("key", str, "string"),
    _fact("group", int, "int64"),
    _fact("member", str, "string"),
    _fact("attempt", int, "int32"),
    _fact("row", int, "int32"),
    Fact(
        "image_size", ("image_size",), tuple[int, int], lambda meta: list(meta.image_size),
        columns={"height": ("int32", lambda meta: meta.image_size[0]),
                 "width": ("int32", lambda meta: meta.image_size[1])},
    ),
    Fact(
        "findings", ("findings",), tuple[_FindingJson, ...], _findings,
        read=lambda raw: tuple(_finding(one, one.name) for one in raw), columns={"findings": ("findings", _findings)},
    ),
    Fact(
        "labels", ("labels",), dict[str, dict[str, Annotated[LabelValue, BeforeValidator(_no_bool)]]], _labels
    ),
    _fact("prompt", str, "string"),
    Fact("sampling", ("sampling",), dict[str, object], lambda meta: dict(sorted(meta.sampling.items()))),
    _fact("anatomy_source", str, "string", ("anatomy", "source")),
    _fact("anatomy_id", str, "string", ("anatomy", "id")),
    _fact("ctr", float | None, "float64", ("anatomy", "ctr")),
    _fact("bundle_name", str, path=("bundle", "name")),
    _fact("bundle_hash", str, path=("bundle", "hash")),
    _fact("digest", str),
    _fact("seed", int),
    Fact("", ("synthetic",), bool, lambda meta: meta.source is None),
    Fact(
        "source", ("source",), _SourceJson | None,
        lambda meta: meta.source and _source_fields(meta.source, meta.member),
        read=lambda raw: raw and _source(raw), default=None,
    ),
    Fact(
        "quality", ("quality",), ImageQuality | None,
        lambda meta: meta.quality and asdict(replace(meta.quality, scores=dict(sorted(meta.quality.scores.items())))),
        default=None,
    ),
    Fact(
        "sham", ("sham",), tuple[_ShamJson, ...],
        lambda meta: [sham_fields(place, meta.image_size) for place in meta.sham] or None,
        read=lambda raw: tuple(_finding(one, one.of) for one in raw), default=(),
    ),
)  # fmt: skip
"""In the order of KEY.json. `synthetic` is true where nothing of the image is a patient's, and is no field."""


@lru_cache(maxsize=1)
def _model() -> type[BaseModel]:
    """KEY.json as a pydantic model; `anatomy` and `bundle` are parts of it."""
    plain: dict[str, Any] = {fact.path[0]: (fact.kind, fact.default) for fact in FACTS if len(fact.path) == 1}
    nested: dict[str, dict[str, Any]] = {}
    for fact in FACTS:
        if len(fact.path) == 2:
            nested.setdefault(fact.path[0], {})[fact.path[1]] = (fact.kind, fact.default)
    parts: dict[str, Any] = {name: (create_model(name, **fields), ...) for name, fields in nested.items()}
    model: type[BaseModel] = create_model("KEY.json", **plain, **parts)
    return model


def norm_box(box: PixelBox, image_size: tuple[int, int]) -> NormBox:
    """Pixel xyxy over (width, height); `image_size` is (height, width)."""
    height, width = image_size
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def finding_fields(finding: PlacedFinding, image_size: tuple[int, int]) -> dict[str, object]:
    """A finding as it stands in KEY.json and, under the same names, in the table."""
    return {
        **{name: getattr(finding, name) for name in ("name", "side", "zone", "region", "size")},
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

    A real image, or one edited from it, has `source`, which says so. `quality` is there where a gate was, `sham`, the
    regions that were painted, in a sham alone.
    """
    fields: dict[str, Any] = {}
    for fact in FACTS:
        value = fact.write(meta)
        if value is not None or fact.default is ...:
            *part, name = fact.path
            (fields.setdefault(part[0], {}) if part else fields)[name] = value
    return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()


def _source_fields(source: SourceImage, member: str) -> dict[str, object]:
    """What KEY.json says of a real image, or of the one that an image was edited from."""
    findings = [{"name": own.name, "box_xyxy": own.box, "healed_xyxy": own.removed} for own in source.findings]
    return {
        "origin": REAL if member == Role.healthy else EDITED, "id": source.id, "sha256": source.sha256,
        "labels": source.labels, "findings": findings,
    }  # fmt: skip


def parse_meta(data: bytes, where: str) -> SampleMeta:
    """The meta data in a KEY.json; raises DatasetError if it is not one or contradicts itself."""
    try:
        raw: Any = _model().model_validate_json(data, strict=True)
    except ValidationError as error:
        raise DatasetError(where=where, found=first_problem(error)) from error
    values: dict[str, Any] = {fact.name: fact.read(attrgetter(".".join(fact.path))(raw)) for fact in FACTS if fact.name}
    meta = SampleMeta(**values)
    parse_key(meta.key, where)
    for found, wanted in _problems(meta, raw):
        raise DatasetError(where=where, found=found, wanted=wanted)
    return meta


def _finding(raw: PlaceJson, name: str) -> PlacedFinding:
    return PlacedFinding(name, raw.side, raw.zone, raw.region, raw.boxes_xyxy, raw.size)


def _source(raw: _SourceJson) -> SourceImage:
    own = tuple(ExistingFinding(one.name, one.box_xyxy, one.healed_xyxy) for one in raw.findings)
    return SourceImage(raw.id, raw.sha256, raw.labels, own)


def _problems(meta: SampleMeta, raw: Any) -> Iterator[tuple[str, str]]:
    """(found, wanted) of what in a KEY.json contradicts itself."""
    if (meta.group, meta.member) != parse_key(meta.key):
        yield f"key {meta.key} but group {meta.group}, member {meta.member!r}", ""
    for set_name, names in vocab.LABEL_SETS.items():
        reported = meta.labels.setdefault(set_name, {})
        reported |= {name: None for name in names if name in vocab.LATER_LABELS and name not in reported}
        if set(reported) != set(names):
            yield f"labels.{set_name}", "each finding of the set once, as 1, 0 or null"
    real = meta.member == Role.healthy
    if raw.synthetic != (raw.source is None):
        yield f"synthetic: {raw.synthetic} and source: {raw.source is not None}", ""
    if meta.source is not None:
        if (raw.source.origin == REAL) != real:
            yield f"member {meta.member} is {raw.source.origin}", ""
        if real and (meta.findings or meta.source.removed):
            yield "a real image with findings painted in or over", ""
        for own in meta.source.findings:
            yield from _outside(own.name, (own.box, own.removed or own.box), meta.image_size)
    if meta.quality is not None and not set(meta.quality.flags) <= set(meta.quality.scores):
        yield "quality.flags names scores that are not there", ""
    if (Role.of(meta.member) is Role.sham) != bool(meta.sham):
        yield f"member {meta.member} with {len(meta.sham)} sham regions", ""
    if meta.sham and (meta.findings or (meta.source is not None and meta.source.removed)):
        yield "a sham with findings painted in or over", ""
    for place, reported in zip((*meta.findings, *meta.sham), (*raw.findings, *raw.sham), strict=True):
        yield from _outside(place.name, place.boxes, meta.image_size)
        if (reported.box_xyxy, reported.box_xyxyn) != (place.box_xyxy, norm_box(place.box_xyxy, meta.image_size)):
            yield f"{place.name}: box_xyxy, box_xyxyn and boxes_xyxy do not agree", ""


def _outside(name: str, boxes: Iterable[PixelBox], size: tuple[int, int]) -> Iterator[tuple[str, str]]:
    height, width = size
    for x0, y0, x1, y1 in boxes:
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            found = f"{name}: box {[x0, y0, x1, y1]} in an image of {width} x {height}"
            yield found, "a half-open xyxy box inside the image"
