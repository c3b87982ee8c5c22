"""Bundles as their bundle.json says them: reading, checking and naming, without torch.

A bundle is a folder of safetensors parts in diffusers layout with a bundle.json that states what the weights
expect and the sha256 of every file.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from xreal_synth.errors import BundleError
from xreal_synth.models.bundle_file import (
    BUNDLE_FILE,
    EMBEDDINGS,
    MAX_IMAGE_SIZE,
    NULL_KEY,
    TEXT_PARTS,
    BundleFile,
    Prompts,
    content_hash,
    read_bundle_file,
    refuse_unsafe,
    tensor_names,
)
from xreal_synth.opening import UnreadableError, hashed_bytes, hashed_copy, parse_json
from xreal_synth.recipe.kinds import near
from xreal_synth.storage import is_remote, local_folder, sha256_file
from xreal_synth.types import Control, FileStamp, SamplingDefaults

Content = bytes
SHIPPED: Final = Path(__file__).parent.parent / "bundles"
BANK: Final = "anatomy_bank"
CONTROLLER: Final = "anatomy_controller"
CONTROLNET: Final = "controlnet"
UPSCALER: Final = "upscaler"
DETAIL: Final = f"{CONTROLLER}/detail.safetensors"
_AS_WRITTEN: Final = (
    "name", "format_version", "image_size", "latent_shape", "value_range", "channels", "scale_factor", "defaults",
    "licence", "use_restriction", "training_data",
)  # fmt: skip
REQUIRED: Final = ("vae", "unet", "scheduler", EMBEDDINGS)


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """A bundle's description, from its own files.

    `latent_shape` is (C, h, w); `value_range` the images' range inside the networks; `prompts` maps findings
    to their prompt in the order in which joint prompts name them; `known_prompts` have embeddings;
    `seconds_per_evaluation` is the denoiser's cost per image by device, as measured when the bundle was made;
    `upscaled_size` the side of the images that its upscaler makes; `region_maps` the findings whose regions its
    denoiser is shown.
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
    seconds_per_evaluation: dict[str, float]
    parts: tuple[str, ...]
    files: tuple[FileStamp, ...]
    known_prompts: frozenset[str] = field(repr=False)
    upscaled_size: int | None = None
    region_maps: tuple[str, ...] = ()

    @property
    def factor(self) -> int:
        """Pixels per latent cell."""
        return self.image_size // self.latent_shape[1]

    @property
    def bytes(self) -> int:
        """Bytes of all its files."""
        return sum(stamp.bytes for stamp in self.files)

    def refusal(self, found: str, wanted: str, hint: str) -> BundleError:
        """The error that names this bundle."""
        return BundleError(where=f"bundle {self.name}", found=found, wanted=wanted, hint=hint)

    def part(self, name: str) -> Path:
        """The folder or file of a part; raises BundleError if the bundle has none."""
        if name not in self.parts:
            raise self.refusal(
                f"no {name}",
                f"a bundle with the part {name}; this one has {', '.join(self.parts)}",
                "choose another bundle, or add the part and rewrite bundle.json",
            )
        return self.root / name

    def stamp(self, path: str) -> FileStamp:
        """Size and hash of a file by its name in bundle.json; raises BundleError if that does not list it."""
        found = next((stamp for stamp in self.files if stamp.path == path), None)
        if found is None:
            raise self.refusal(
                f"bundle.json does not list {path}",
                "every file that is read, with its sha256",
                "fetch the bundle again; if you made it, write bundle.json again",
            )
        return found

    def read(self, path: str) -> Content:
        """The bytes of a listed file, which are those that bundle.json was written for; raises BundleError."""
        with self._checked(path) as sha256:
            return hashed_bytes(self.root / path, sha256)

    @contextmanager
    def held(self, path: str) -> Iterator[Path]:
        """A copy of a listed file that stays as bundle.json has it whatever becomes of the bundle's folder."""
        with self._checked(path) as sha256, hashed_copy(self.root / path, sha256) as copy:
            yield copy

    def copy_file(self, path: str, folder: Path) -> None:
        """Copies a listed file below a folder; raises BundleError."""
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.held(path) as copy:
            shutil.copyfile(copy, target)

    @contextmanager
    def _checked(self, path: str) -> Iterator[str]:
        """The listed hash; raises BundleError for whatever reading meets in the block."""
        sha256 = self.stamp(path).sha256
        try:
            yield sha256
        except (OSError, UnreadableError) as error:
            raise altered(self.root / path, str(error), sha256) from error


def altered(path: Path, found: str, sha256: str) -> BundleError:
    """A file that is not the one meant."""
    return BundleError(
        where=str(path), found=f"is not the file that bundle.json was written for: {found}",
        wanted=f"sha256 {sha256}",
        hint="fetch the bundle again; if you changed it yourself, write bundle.json again",
    )  # fmt: skip


def shipped_bundles() -> list[str]:
    """Names of the bundles that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{BUNDLE_FILE}"))


def find_bundle(ref: str | Path) -> Path:
    """The folder of a bundle given by shipped name, path or URI (fetched once); raises BundleError."""
    text = str(ref)
    if is_remote(text):
        from xreal_synth.models.fetch import fetched_bundle

        return fetched_bundle(text)
    shipped = shipped_bundles()
    if text in shipped:
        return SHIPPED / text
    folder = local_folder(text)
    if (folder / BUNDLE_FILE).is_file():
        return folder.absolute()
    found = f"{folder} has no {BUNDLE_FILE}" if folder.is_dir() else f"no bundle {text!r}"
    raise BundleError(
        found=found,
        wanted=f"a shipped bundle ({', '.join(shipped) or 'none'}), or a folder or URI with a {BUNDLE_FILE}",
        hint=near(text, shipped) or "check the name or the path (a relative one starts at the current folder)",
    )


def describe(ref: str | Path, content: str | None = None) -> BundleInfo:
    """Reads and checks a bundle's bundle.json, file names and prompt table; hashes are left to verify_files.

    Raises BundleError for a missing or newer bundle, wrong fields, unsafe or missing files, pickles, and for
    another than that of the content hash `content`.
    """
    root = find_bundle(ref)
    record = read_bundle_file(root / BUNDLE_FILE)
    if content is not None and content_hash(record) != content:
        raise BundleError(
            where=str(root), found=f"a bundle with the content hash {content_hash(record)}",
            wanted=f"{content}, the recipe's bundle_sha256", hint="give that bundle, or its hash if this one is meant",
        )  # fmt: skip
    refuse_unsafe(root, record)
    parts = tuple(sorted({PurePosixPath(path).parts[0] for path in record.files}))
    missing = [part for part in REQUIRED if part not in parts]
    if missing:
        raise BundleError(
            where=str(root),
            found=f"bundle.json lists no {', '.join(missing)}",
            wanted=f"the parts {', '.join(REQUIRED)}",
            hint="add the missing parts and write bundle.json again (python -m xreal_synth.models.save)",
        )
    stamps = tuple(FileStamp(path, entry.bytes, entry.sha256) for path, entry in sorted(record.files.items()))
    known = frozenset("" if key == NULL_KEY else key for key in tensor_names(root / EMBEDDINGS))
    _check_prompts(root, record.prompts, known)
    return BundleInfo(
        **{name: getattr(record, name) for name in _AS_WRITTEN},
        root=root,
        content_hash=content_hash(record),
        prompts=dict(record.prompts.findings),
        prompt_join=record.prompts.join,
        null_prompt=record.prompts.null,
        healthy_prompt=record.prompts.healthy,
        seconds_per_evaluation=dict(record.seconds_per_evaluation),
        parts=parts,
        files=stamps,
        known_prompts=known,
        upscaled_size=_upscaled_size(root, record),
        region_maps=record.region_maps or (),
    )


def describe_made_with(name: str, hash_: str) -> BundleInfo | None:
    """The bundle a dataset names, if it is here under that name and unchanged."""
    try:
        found = describe(name)
    except BundleError:
        return None
    return found if found.content_hash == hash_ else None


def verify_files(info: BundleInfo) -> None:
    """Hashes every file of the bundle; raises BundleError naming the first that differs."""
    for stamp in info.files:
        if sha256_file(info.root / stamp.path) != stamp.sha256:
            raise altered(info.root / stamp.path, "another hash", stamp.sha256)


def require_control(info: BundleInfo, control: Control) -> None:
    """Raises BundleError if the bundle lacks what the recipe's `sampling.control` needs."""
    if control == "xreal" and CONTROLLER not in info.parts:
        raise no_controller(f"bundle {info.name}")
    if control == "controlnet" and CONTROLNET not in info.parts:
        raise info.refusal(
            f"sampling.control: controlnet, but no {CONTROLNET}/",
            f"a bundle with the part {CONTROLNET}; this one has {', '.join(info.parts)}",
            "choose another bundle, use control: xreal, or train one for it (xreal-synth train controlnet)",
        )


def require_upscaler(info: BundleInfo, side: int) -> None:
    """Raises BundleError if the bundle cannot make images of `side` pixels from its own."""
    made = info.upscaled_size
    if made == side:
        return
    has = f"makes {made} pixels" if made else "has no upscaler"
    adding = "leave output.upscale out, or add one (xreal-synth convert cheff --bundle BUNDLE --upscaler FILE)"
    raise info.refusal(
        f"output.upscale: {side}, but the bundle {has}",
        f"output.upscale: {made}" if made else f"a bundle with {UPSCALER}/",
        "set that, or leave output.upscale out" if made else adding,
    )


def _upscaled_size(root: Path, record: BundleFile) -> int | None:
    """The side in the upscaler's configuration; raises BundleError unless it is a multiple of the bundle's."""
    name = f"{UPSCALER}/config.json"
    if name not in record.files:
        return None
    try:
        side = parse_json(hashed_bytes(root / name, record.files[name].sha256)).get("sample_size")
    except (OSError, ValueError, AttributeError):
        side = None
    if not isinstance(side, int) or not record.image_size < side <= MAX_IMAGE_SIZE or side % record.image_size:
        raise BundleError(
            where=str(root / name),
            found=f"sample_size {side!r}",
            wanted=f"a multiple of the bundle's image_size, {record.image_size}",
            hint="add an upscaler that was trained on images of the bundle's size",
        )
    return side


def prompt_for(info: BundleInfo, names: Sequence[str]) -> str:
    """The prompt that names these findings, in the bundle's order; without findings the healthy prompt.

    Raises BundleError if the bundle does not know a finding, or has no embedding for them together.
    """
    unknown = [name for name in names if name not in info.prompts]
    if unknown:
        raise info.refusal(
            f"cannot make {', '.join(unknown)}",
            f"findings among {', '.join(info.prompts)}" if info.prompts else "a recipe without findings",
            "change the recipe's findings, or choose a bundle trained on them",
        )
    if not names:
        return info.healthy_prompt
    prompt = joint_prompt(info, names)
    if prompt not in info.known_prompts:
        raise info.refusal(
            f"no embedding for {prompt!r}",
            f"a prompt in {EMBEDDINGS}",
            f"{_adding(info, prompt)}; or ask for fewer findings",
        )
    return prompt


def prompt_of(info: BundleInfo, name: str, text: str | None) -> str:
    """A finding's prompt: the recipe's own `text` for it, or the bundle's.

    Raises BundleError if the bundle has no embedding for the text, or does not know the finding.
    """
    if text is None:
        return prompt_for(info, (name,))
    if text not in info.known_prompts:
        raise info.refusal(
            f"no embedding for {text!r}, the recipe's prompt for {name}",
            f"a prompt that the bundle has encoded, {len(info.known_prompts)} so far",
            _adding(info, text),
        )
    return text


def _adding(info: BundleInfo, text: str) -> str:
    own = all(part in info.parts for part in TEXT_PARTS)
    source = "" if own else " --text-encoder PATH (what the bundle was converted from)"
    return f"add it, once: xreal-synth bundle add-prompt {info.root} {text!r}{source}"


def joint_prompt(info: BundleInfo, names: Sequence[str]) -> str:
    """The text that names those of the findings that the bundle knows, in its order, encoded or not."""
    return info.prompt_join.join(text for name, text in info.prompts.items() if name in names)


def no_controller(what: str) -> BundleError:
    """A bundle that cannot turn an organ mask into a rough image was asked to."""
    return BundleError(
        where=what,
        found=f"no {CONTROLLER}: nothing turns an organ mask into a rough image",
        wanted="a bundle with an Anatomy Controller, for sampling.control: xreal",
        hint="edit real images (anatomy.source: images), choose another sampling.control, or train a controller "
        "on this bundle's images: xreal-synth train anatomy-controller",
    )


def _check_prompts(root: Path, prompts: Prompts, known: frozenset[str]) -> None:
    missing = [text for text in (prompts.null, prompts.healthy, *prompts.findings.values()) if text not in known]
    if missing:
        raise BundleError(
            where=str(root / EMBEDDINGS),
            found=f"no embedding for {', '.join(map(repr, missing))}",
            wanted="one for every prompt that bundle.json names",
            hint="write the embeddings again",
        )
