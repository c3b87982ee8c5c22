"""bundle.json: its fields, and what makes a bundle folder safe to read. No torch here."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from xreal_synth import findings as vocab
from xreal_synth.errors import BundleError, faults
from xreal_synth.opening import UnreadableError, open_file, parse_json, read_file, roots_of
from xreal_synth.types import SamplingDefaults

FORMAT_VERSION: Final = 1
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]*$"
BUNDLE_FILE: Final = "bundle.json"
EMBEDDINGS: Final = "label_embeddings.safetensors"
NULL_KEY: Final = "<null>"
PICKLES: Final = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
ORGAN_CODES: Final = {"background": vocab.BACKGROUND, **vocab.ORGANS}
MAX_BUNDLE_FILE: Final = 64 << 20
_MAX_HEADER: Final = 100_000_000
"""Bytes of a safetensors file's header, as its readers have it."""
_DOCUMENTS: Final = (".md", ".txt", ".png")
TEXT_PARTS: Final = ("text_encoder", "tokenizer")
"""What encodes prompts; every file of these decides the tokens, a vocabulary in .txt too."""


MAX_IMAGE_SIZE: Final = 8192
_MAX_NUMBER: Final = 65_536
_MAX_LENGTH: Final = 16_384
_MAX_PARTS: Final = 20_000
_LAYERED: Final = re.compile(r"layer|block|depth|repeat|_res")
_SIZES: Final = re.compile(r"channel|dim|scale|type")
"""Keys of a configuration whose numbers say how many parts a network is built of, and those that only sound so."""

Words = Annotated[str, Field(max_length=20_000)]
Prompt = Annotated[str, Field(max_length=4_000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Prompts(_Strict):
    """`null` is guidance's unconditional prompt, `healthy` the one of stage A; `findings` by project name."""

    null: Prompt
    healthy: Prompt
    join: Prompt = " "
    findings: dict[str, Annotated[str, Field(min_length=1, max_length=4_000)]]


class BundleFields(_Strict):
    """bundle.json without what is computed from the files.

    `region_maps` are the findings whose regions the denoiser takes as maps, in its order.
    """

    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=200)]
    image_size: Annotated[int, Field(ge=8, le=MAX_IMAGE_SIZE)]
    channels: Literal[1, 3]
    value_range: tuple[Annotated[float, Field(ge=-1e6)], Annotated[float, Field(le=1e6)]]
    latent_shape: tuple[
        Annotated[int, Field(ge=1, le=1024)], Annotated[int, Field(le=MAX_IMAGE_SIZE)],
        Annotated[int, Field(le=MAX_IMAGE_SIZE)],
    ]  # fmt: skip
    scale_factor: Annotated[float, Field(gt=0, le=1e6)]
    organ_codes: dict[str, int] = ORGAN_CODES
    prompts: Prompts
    region_maps: Annotated[tuple[str, ...], Field(max_length=100)] | None = None
    defaults: SamplingDefaults
    licence: Words
    use_restriction: Words
    training_data: Words
    seconds_per_evaluation: Annotated[dict[str, Annotated[float, Field(gt=0, le=1e6)]], Field(max_length=100)] = {}

    @model_validator(mode="after")
    def _consistent(self) -> BundleFields:
        _, height, width = self.latent_shape
        if height != width or height < 1 or self.image_size % height:
            raise ValueError("latent_shape must be [C, n, n] with image_size a multiple of n")
        if not self.value_range[0] < self.value_range[1]:
            raise ValueError("value_range must be [low, high] with low < high")
        if self.organ_codes != ORGAN_CODES:
            raise ValueError(f"organ_codes must be {ORGAN_CODES}")
        strange = sorted(set(self.region_maps or ()) - set(self.prompts.findings))
        if strange or len(set(self.region_maps or ())) != len(self.region_maps or ()):
            raise ValueError(f"region_maps must name findings of prompts.findings, each once: {', '.join(strange)}")
        unknown = sorted(name for name in self.prompts.findings if vocab.canonical(name) != name)
        if unknown:
            raise ValueError(f"prompts.findings names findings that do not exist: {', '.join(unknown)}")
        return self


class _File(_Strict):
    bytes: Annotated[int, Field(ge=0, le=1 << 42)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class BundleFile(BundleFields):
    """The whole of bundle.json."""

    format_version: Literal[1] = 1
    files: Annotated[dict[str, _File], Field(max_length=10_000)]


def read_bundle_file(path: Path) -> BundleFile:
    """The bundle.json at a path; raises BundleError."""
    try:
        data = read_file(path, MAX_BUNDLE_FILE)
    except (OSError, UnreadableError) as error:
        raise _unreadable(str(path), error) from error
    return parse_bundle_file(data, str(path))


def parse_bundle_file(text: bytes, where: str) -> BundleFile:
    """What a bundle.json holds; raises BundleError that names `where`."""
    try:
        data = parse_json(text.decode("utf-8"))
    except ValueError as error:
        raise _unreadable(where, error) from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BundleError(
            where=where,
            found=f"format version {version}",
            wanted=f"format version {FORMAT_VERSION}, the newest that this xreal-synth reads",
            hint="upgrade xreal-synth, or use an older bundle",
        )
    try:
        return BundleFile.model_validate(data)
    except ValidationError as error:
        raise BundleError(
            where=where,
            found=faults(error, BUNDLE_FILE),
            wanted=f"the fields of format version {FORMAT_VERSION}",
            hint="correct them",
        ) from error


def bounded_config(text: bytes, where: str) -> dict[str, Any]:
    """A part's configuration, whose numbers build no endless network; raises BundleError."""
    try:
        data = parse_json(text, MAX_BUNDLE_FILE)
    except ValueError as error:
        raise _unreadable(where, error) from error
    wrong = _unbounded(data, "") if isinstance(data, dict) else "not a JSON object"
    if not wrong and (parts := _parts(data)) > _MAX_PARTS:
        wrong = f"a network of {parts} layers"
    if wrong:
        raise BundleError(where=where, found=wrong, wanted="a configuration", hint="choose another bundle")
    assert isinstance(data, dict)
    return data


def _unbounded(value: object, key: str) -> str:
    """What in a configuration is larger than any network's; empty if nothing is."""
    if isinstance(value, dict | list):
        if len(value) > _MAX_LENGTH:
            return f"{key or 'the configuration'} with {len(value)} entries"
        pairs = value.items() if isinstance(value, dict) else ((key, item) for item in value)
        return next((reported for name, item in pairs if (reported := _unbounded(item, str(name)))), "")
    if isinstance(value, int | float) and not abs(value) <= _MAX_NUMBER:
        return f"{key}: {value:g}, at most {_MAX_NUMBER}"
    return ""


def _parts(config: dict[str, Any]) -> int:
    """At most how many layers a network of this configuration is built of."""
    layered = {key: value for key, value in config.items() if _LAYERED.search(key)}
    longest = max((len(value) for value in layered.values() if isinstance(value, list)), default=1)
    numbers = (
        [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int)]
        for key, value in layered.items()
        if not _SIZES.search(key)
    )
    return math.prod((max(1, *found) for found in numbers if found), start=longest)


def _unreadable(where: str, error: Exception) -> BundleError:
    return BundleError(where=where, found=f"cannot be read: {error}", wanted="JSON", hint="fetch it again")


def refuse_unsafe_names(where: str, record: BundleFile) -> None:
    """Raises BundleError for a file that is a pickle by its name, or would lie outside of the bundle's folder."""
    for name in record.files:
        path = PurePosixPath(name)
        if path.suffix.lower() in PICKLES:
            raise _pickle(where, path.name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or str(path) != name:
            raise BundleError(
                where=where,
                found=f"unsafe file name {name!r}",
                wanted="a path inside the bundle",
                hint="do not use this bundle",
            )


def refuse_unsafe(root: Path, record: BundleFile) -> None:
    """Raises BundleError for pickles, unsafe names, links, and files of other sizes than recorded."""
    pickles = sorted(path for path in root.rglob("*") if path.suffix.lower() in PICKLES)
    if pickles:
        raise _pickle(str(root), pickles[0].name)
    refuse_unsafe_names(str(root), record)
    roots = roots_of(root)
    for name, entry in record.files.items():
        target = root / name
        if not target.is_file() or target.stat().st_size != entry.bytes:
            size = f"{target.stat().st_size} bytes" if target.is_file() else "missing"
            raise BundleError(
                where=str(root), found=f"{name}: {size}", wanted=f"{entry.bytes} bytes", hint="fetch the bundle again"
            )
        if not any(target.resolve().is_relative_to(taken) for taken in roots):
            raise BundleError(
                where=str(root), found=f"{name} leads outside the bundle", wanted="a file inside it", hint="copy it in"
            )


def _pickle(where: str, name: str) -> BundleError:
    return BundleError(
        where=where,
        found=f"{name} is a pickle, which can run code when it is read",
        wanted="safetensors only",
        hint="convert the weights to safetensors and delete the pickle",
    )


def tensor_names(path: Path) -> list[str]:
    """Names in a safetensors file's header: 8 bytes of length, then JSON. Raises BundleError."""
    try:
        with open_file(path) as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER:
                raise ValueError("a header of more than 100 MB")
            header = parse_json(file.read(length))
        return [name for name in header if name != "__metadata__"]
    except (OSError, ValueError, struct.error) as error:
        raise BundleError(
            where=str(path), found=f"not a safetensors file: {error}", wanted="safetensors", hint="fetch it again"
        ) from error


def content_hash(record: BundleFile) -> str:
    """sha256 over what decides the images and their use: the files but for documents, the fields the networks need,
    and the licence."""
    kept = {path: entry.sha256 for path, entry in record.files.items() if not _is_document(path)}
    fields = record.model_dump(
        include={
            "format_version", "image_size", "channels", "value_range", "latent_shape", "scale_factor",
            "organ_codes", "prompts", "region_maps", "licence", "use_restriction",
        },
        exclude_none=True,
    )  # fmt: skip
    text = json.dumps({"files": kept, "fields": fields}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_document(path: str) -> bool:
    return Path(path).suffix in _DOCUMENTS and PurePosixPath(path).parts[0] not in TEXT_PARTS
