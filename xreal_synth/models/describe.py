"""Bundles as their bundle.json says them: reading, checking and naming, without torch.

A bundle is a folder of safetensors parts in diffusers layout with a bundle.json that states what the weights
expect and the sha256 of every file.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from xreal_synth import vocab
from xreal_synth.errors import BundleError
from xreal_synth.storage import scheme_of, sha256_file
from xreal_synth.types import FileStamp, SamplingDefaults

FORMAT_VERSION: Final = 1
BUNDLE_FILE: Final = "bundle.json"
EMBEDDINGS: Final = "label_embeddings.safetensors"
NULL_KEY: Final = "<null>"
SHIPPED: Final = Path(__file__).parent.parent / "bundles"
REQUIRED: Final = ("anatomy_controller", "vae", "unet", "scheduler", EMBEDDINGS)
PICKLES: Final = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
ORGAN_CODES: Final = {"background": vocab.BACKGROUND, **vocab.ORGANS}
_DOCUMENTS: Final = (".md", ".txt")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Prompts(_Strict):
    """`null` is guidance's unconditional prompt, `healthy` the one of stage A; `findings` by project name."""

    null: str
    healthy: str
    join: str = " "
    findings: dict[str, Annotated[str, Field(min_length=1)]]


class Defaults(_Strict):
    """What the weights are best sampled with."""

    mode: Literal["branch", "reference"] = "branch"
    steps: Annotated[int, Field(ge=1, le=999)]
    hold: Annotated[float, Field(ge=0, le=1)]
    branch: Annotated[float, Field(ge=0, le=1)]
    guidance: Annotated[float, Field(ge=0)]
    soft: Annotated[float, Field(ge=0, le=1)] = 0.2


class BundleFields(_Strict):
    """bundle.json without what is computed from the files."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    image_size: Annotated[int, Field(ge=8)]
    channels: Literal[1, 3]
    value_range: tuple[float, float]
    latent_shape: tuple[int, int, int]
    scale_factor: Annotated[float, Field(gt=0)]
    organ_codes: dict[str, int] = ORGAN_CODES
    prompts: Prompts
    defaults: Defaults
    licence: str
    use_restriction: str
    training_data: str

    @model_validator(mode="after")
    def _consistent(self) -> BundleFields:
        _, height, width = self.latent_shape
        if height != width or height < 1 or self.image_size % height:
            raise ValueError("latent_shape must be [C, n, n] with image_size a multiple of n")
        if not self.value_range[0] < self.value_range[1]:
            raise ValueError("value_range must be [low, high] with low < high")
        if self.organ_codes != ORGAN_CODES:
            raise ValueError(f"organ_codes must be {ORGAN_CODES}")
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


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """What a bundle says of itself.

    `latent_shape` is (C, h, w); `value_range` the films' range inside the networks; `prompts` maps findings to
    their prompt in the order in which joint prompts name them; `known_prompts` are those with embeddings.
    """

    name: str
    root: Path
    content_hash: str
    format_version: int
    image_size: int
    latent_shape: tuple[int, int, int]
    value_range: tuple[float, float]
    channels: int
    scale_factor: float
    prompts: dict[str, str]
    prompt_join: str
    null_prompt: str
    healthy_prompt: str
    defaults: SamplingDefaults
    licence: str
    use_restriction: str
    training_data: str
    parts: tuple[str, ...]
    files: tuple[FileStamp, ...]
    known_prompts: frozenset[str] = field(repr=False)

    @property
    def factor(self) -> int:
        """Pixels per latent cell."""
        return self.image_size // self.latent_shape[1]

    @property
    def bytes(self) -> int:
        return sum(stamp.bytes for stamp in self.files)

    def part(self, name: str) -> Path:
        """The folder or file of a part; raises BundleError if the bundle has none."""
        if name not in self.parts:
            raise BundleError(
                where=f"bundle {self.name}",
                found=f"no {name}",
                wanted=f"a bundle with the part {name}; this one has {', '.join(self.parts)}",
                mend="choose another bundle, or add the part and rewrite bundle.json",
            )
        return self.root / name


def shipped_bundles() -> list[str]:
    """Names of the bundles that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{BUNDLE_FILE}"))


def find_bundle(ref: str | Path) -> Path:
    """The folder of a bundle given by shipped name or path; raises BundleError."""
    text = str(ref)
    if scheme_of(text):
        raise BundleError(
            found=f"bundle {text} is remote",
            wanted="a shipped bundle's name or a local folder",
            mend=f"copy it to a folder and give that; remote bundles are not built yet (not even {scheme_of(text)})",
        )
    shipped = shipped_bundles()
    if text in shipped:
        return SHIPPED / text
    folder = Path(text).expanduser()
    if (folder / BUNDLE_FILE).is_file():
        return folder.absolute()
    found = f"{folder} has no {BUNDLE_FILE}" if folder.is_dir() else f"no bundle {text!r}"
    raise BundleError(
        found=found,
        wanted=f"one of the shipped bundles ({', '.join(shipped) or 'none'}) or a folder with a {BUNDLE_FILE}",
        mend="check the name or the path (a relative one starts at the current folder)",
    )


def describe(ref: str | Path) -> BundleInfo:
    """Reads and checks a bundle's bundle.json, file names and prompt table; hashes are left to verify_files.

    Raises BundleError for a missing or newer bundle, wrong fields, unsafe or missing files, pickles.
    """
    root = find_bundle(ref)
    record = _read(root / BUNDLE_FILE)
    _refuse_unsafe(root, record)
    parts = tuple(sorted({PurePosixPath(path).parts[0] for path in record.files}))
    missing = [part for part in REQUIRED if part not in parts]
    if missing:
        raise BundleError(
            where=str(root),
            found=f"bundle.json lists no {', '.join(missing)}",
            wanted=f"the parts {', '.join(REQUIRED)}",
            mend="add the missing parts and write bundle.json again (python -m xreal_synth.models.save)",
        )
    stamps = tuple(FileStamp(path, entry.bytes, entry.sha256) for path, entry in sorted(record.files.items()))
    known = frozenset("" if key == NULL_KEY else key for key in _tensor_names(root / EMBEDDINGS))
    _check_prompts(root, record.prompts, known)
    return BundleInfo(
        name=record.name,
        root=root,
        content_hash=_content_hash(record),
        format_version=record.format_version,
        image_size=record.image_size,
        latent_shape=record.latent_shape,
        value_range=record.value_range,
        channels=record.channels,
        scale_factor=record.scale_factor,
        prompts=dict(record.prompts.findings),
        prompt_join=record.prompts.join,
        null_prompt=record.prompts.null,
        healthy_prompt=record.prompts.healthy,
        defaults=SamplingDefaults(**record.defaults.model_dump()),
        licence=record.licence,
        use_restriction=record.use_restriction,
        training_data=record.training_data,
        parts=parts,
        files=stamps,
        known_prompts=known,
    )


def verify_files(info: BundleInfo) -> None:
    """Hashes every file of the bundle; raises BundleError naming the first that differs."""
    for stamp in info.files:
        if sha256_file(info.root / stamp.path) != stamp.sha256:
            raise BundleError(
                where=f"bundle {info.name}",
                found=f"{info.root / stamp.path} is not the file that bundle.json was written for",
                wanted=f"sha256 {stamp.sha256}",
                mend="fetch the bundle again; if you changed it yourself, write bundle.json again",
            )


def prompt_for(info: BundleInfo, names: Sequence[str]) -> str:
    """The prompt that names these findings, in the bundle's order; without findings the healthy prompt.

    Raises BundleError if the bundle does not know a finding, or has no embedding for them together.
    """
    unknown = [name for name in names if name not in info.prompts]
    if unknown:
        raise BundleError(
            where=f"bundle {info.name}",
            found=f"cannot make {', '.join(unknown)}",
            wanted=f"findings among {', '.join(info.prompts)}",
            mend="change the recipe's findings, or choose a bundle trained on them",
        )
    if not names:
        return info.healthy_prompt
    prompt = info.prompt_join.join(text for name, text in info.prompts.items() if name in names)
    if prompt not in info.known_prompts:
        raise BundleError(
            where=f"bundle {info.name}",
            found=f"no embedding for {prompt!r}",
            wanted=f"a prompt in {EMBEDDINGS}",
            mend="ask for fewer findings at once",
        )
    return prompt


def _read(path: Path) -> BundleFile:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(
            where=str(path), found=f"cannot be read: {error}", wanted="JSON", mend="fetch it again"
        ) from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BundleError(
            where=str(path),
            found=f"format version {version}",
            wanted=f"format version {FORMAT_VERSION}, the newest that this xreal-synth reads",
            mend="upgrade xreal-synth, or use an older bundle",
        )
    try:
        return BundleFile.model_validate(data)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'bundle.json'}: {e['msg']}" for e in error.errors())
        raise BundleError(
            where=str(path), found=wrong, wanted=f"the fields of format version {FORMAT_VERSION}", mend="correct them"
        ) from error


def _refuse_unsafe(root: Path, record: BundleFile) -> None:
    pickles = sorted(path for path in root.rglob("*") if path.suffix.lower() in PICKLES)
    pickles += [Path(path) for path in record.files if Path(path).suffix.lower() in PICKLES]
    if pickles:
        raise BundleError(
            where=str(root),
            found=f"{pickles[0].name} is a pickle, which can run code when it is read",
            wanted="safetensors only",
            mend="convert the weights to safetensors and delete the pickle",
        )
    for name, entry in record.files.items():
        path = PurePosixPath(name)
        target = root / name
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or str(path) != name:
            raise BundleError(
                where=str(root),
                found=f"unsafe file name {name!r}",
                wanted="a path inside the bundle",
                mend="do not use this bundle",
            )
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
                where=str(root), found=f"{name} leads outside the bundle", wanted="a file inside it", mend="copy it in"
            )


def _check_prompts(root: Path, prompts: Prompts, known: frozenset[str]) -> None:
    missing = [text for text in (prompts.null, prompts.healthy, *prompts.findings.values()) if text not in known]
    if missing:
        raise BundleError(
            where=str(root / EMBEDDINGS),
            found=f"no embedding for {', '.join(map(repr, missing))}",
            wanted="one for every prompt that bundle.json names",
            mend="write the embeddings again",
        )


def _tensor_names(path: Path) -> list[str]:
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
            where=str(path), found=f"not a safetensors file: {error}", wanted="safetensors", mend="fetch it again"
        ) from error


def _content_hash(record: BundleFile) -> str:
    """sha256 over what decides the films: the files but for documents, and the fields the networks need."""
    kept = {path: entry.sha256 for path, entry in record.files.items() if Path(path).suffix not in _DOCUMENTS}
    fields = record.model_dump(
        include={
            "format_version", "image_size", "channels", "value_range", "latent_shape", "scale_factor",
            "organ_codes", "prompts",
        }
    )  # fmt: skip
    text = json.dumps({"files": kept, "fields": fields}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
