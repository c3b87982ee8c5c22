"""bundle.json: its fields, and what makes a bundle folder safe to read. No torch here."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from xreal_synth import vocab
from xreal_synth.errors import BundleError
from xreal_synth.types import SamplingDefaults

FORMAT_VERSION: Final = 1
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]*$"
BUNDLE_FILE: Final = "bundle.json"
EMBEDDINGS: Final = "label_embeddings.safetensors"
NULL_KEY: Final = "<null>"
PICKLES: Final = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
ORGAN_CODES: Final = {"background": vocab.BACKGROUND, **vocab.ORGANS}
_DOCUMENTS: Final = (".md", ".txt", ".png")
TEXT_PARTS: Final = ("text_encoder", "tokenizer")
"""What encodes prompts; every file of these decides the tokens, a vocabulary in .txt too."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Prompts(_Strict):
    """`null` is guidance's unconditional prompt, `healthy` the one of stage A; `findings` by project name."""

    null: str
    healthy: str
    join: str = " "
    findings: dict[str, Annotated[str, Field(min_length=1)]]


class BundleFields(_Strict):
    """bundle.json without what is computed from the files.

    `region_maps` are the findings whose regions the denoiser takes as maps, in its order.
    """

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    image_size: Annotated[int, Field(ge=8)]
    channels: Literal[1, 3]
    value_range: tuple[float, float]
    latent_shape: tuple[int, int, int]
    scale_factor: Annotated[float, Field(gt=0)]
    organ_codes: dict[str, int] = ORGAN_CODES
    prompts: Prompts
    region_maps: tuple[str, ...] | None = None
    defaults: SamplingDefaults
    licence: str
    use_restriction: str
    training_data: str
    seconds_per_evaluation: dict[str, Annotated[float, Field(gt=0)]] = {}

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
            raise ValueError(
                f"region_maps must name findings of prompts.findings, each once: {', '.join(strange)}"
            )
        unknown = sorted(name for name in self.prompts.findings if vocab.canonical(name) != name)
        if unknown:
            raise ValueError(f"prompts.findings names findings that do not exist: {', '.join(unknown)}")
        return self


class _File(_Strict):
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class BundleFile(BundleFields):
    """The whole of bundle.json."""

    format_version: Literal[1] = 1
    files: dict[str, _File]


def read_bundle_file(path: Path) -> BundleFile:
    """The bundle.json at a path; raises BundleError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(str(path), error) from error
    return parse_bundle_file(data, str(path))


def parse_bundle_file(text: bytes, where: str) -> BundleFile:
    """What a bundle.json holds; raises BundleError that names `where`."""
    try:
        data = json.loads(text.decode("utf-8"))
    except ValueError as error:
        raise _unreadable(where, error) from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BundleError(
            where=where,
            found=f"format version {version}",
            wanted=f"format version {FORMAT_VERSION}, the newest that this xreal-synth reads",
            mend="upgrade xreal-synth, or use an older bundle",
        )
    try:
        return BundleFile.model_validate(data)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'bundle.json'}: {e['msg']}" for e in error.errors()
        )
        raise BundleError(
            where=where,
            found=wrong,
            wanted=f"the fields of format version {FORMAT_VERSION}",
            mend="correct them",
        ) from error


def _unreadable(where: str, error: Exception) -> BundleError:
    return BundleError(where=where, found=f"cannot be read: {error}", wanted="JSON", mend="fetch it again")


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
                mend="do not use this bundle",
            )


def refuse_unsafe(root: Path, record: BundleFile) -> None:
    pickles = sorted(path for path in root.rglob("*") if path.suffix.lower() in PICKLES)
    if pickles:
        raise _pickle(str(root), pickles[0].name)
    refuse_unsafe_names(str(root), record)
    for name, entry in record.files.items():
        target = root / name
        if not target.is_file() or target.stat().st_size != entry.bytes:
            size = f"{target.stat().st_size} bytes" if target.is_file() else "missing"
            raise BundleError(
                where=str(root),
                found=f"{name}: {size}",
                wanted=f"{entry.bytes} bytes",
                mend="fetch the bundle again",
            )
        if not target.resolve().is_relative_to(root.resolve()):
            raise BundleError(
                where=str(root),
                found=f"{name} leads outside the bundle",
                wanted="a file inside it",
                mend="copy it in",
            )


def _pickle(where: str, name: str) -> BundleError:
    return BundleError(
        where=where,
        found=f"{name} is a pickle, which can run code when it is read",
        wanted="safetensors only",
        mend="convert the weights to safetensors and delete the pickle",
    )


def tensor_names(path: Path) -> list[str]:
    """Names in a safetensors file's header: 8 bytes of length, then JSON."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("header longer than the file")
            header = json.loads(file.read(length))
        return [name for name in header if name != "__metadata__"]
    except (OSError, ValueError, struct.error) as error:
        raise BundleError(
            where=str(path),
            found=f"not a safetensors file: {error}",
            wanted="safetensors",
            mend="fetch it again",
        ) from error


def content_hash(record: BundleFile) -> str:
    """sha256 over what decides the films: the files but for documents, and the fields the networks need."""
    kept = {path: entry.sha256 for path, entry in record.files.items() if not _is_document(path)}
    fields = record.model_dump(
        include={
            "format_version", "image_size", "channels", "value_range", "latent_shape", "scale_factor",
            "organ_codes", "prompts", "region_maps",
        },
        exclude_none=True,
    )  # fmt: skip
    text = json.dumps(
        {"files": kept, "fields": fields}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _is_document(path: str) -> bool:
    return Path(path).suffix in _DOCUMENTS and PurePosixPath(path).parts[0] not in TEXT_PARTS
