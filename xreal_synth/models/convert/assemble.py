"""A bundle from converted parts, or from another bundle and one part more: written beside its place, then renamed."""

from __future__ import annotations

import errno
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from diffusers import DDIMScheduler
from safetensors.torch import save_file
from torch import Tensor

from xreal_synth.errors import ConversionError
from xreal_synth.models.bundle_file import BUNDLE_FILE, EMBEDDINGS, NAME_PATTERN, NULL_KEY, BundleFields
from xreal_synth.models.convert.checkpoints import Report
from xreal_synth.models.convert.published import Published
from xreal_synth.models.describe import BANK, BundleInfo, describe
from xreal_synth.models.load import WEIGHTS
from xreal_synth.models.save import read_fields, write_bundle
from xreal_synth.storage import TEMPORARY_PREFIX

StoredDtype = Literal["fp32", "fp16"]
_DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Stored:
    """Form in which a bundle is written: number format, where its mask bank comes from (a bundle, or None)."""

    dtype: StoredDtype = "fp32"
    bank: str | None = None
    keep_text_encoder: bool = False


PLAIN: Final = Stored()


@dataclass(frozen=True, slots=True)
class Parts:
    """A bundle's parts in memory; `extras` write folders of their own."""

    networks: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    embeddings: Mapping[str, Tensor]
    extras: Sequence[Callable[[Path], None]] = ()


def silent(what: str, done: int, total: int) -> None:
    """A Report that says nothing."""


def write_parts(out: Path, parts: Parts, fields: BundleFields, stored: Stored, report: Report = silent) -> BundleInfo:
    """Writes the whole bundle, or nothing. Raises ConversionError if `out` is there, or cannot be written."""
    with new_folder(out) as folder:
        for at, (name, network) in enumerate(parts.networks.items()):
            report(f"writing {name}", at, len(parts.networks))
            save_network(folder / name, network, stored.dtype)
        DDIMScheduler(**parts.scheduler).save_config(folder / "scheduler")
        save_embeddings(folder / EMBEDDINGS, parts.embeddings, stored.dtype)
        if stored.bank is not None:
            shutil.copytree(describe(stored.bank).part(BANK), folder / BANK)
        for write in parts.extras:
            write(folder)
        report("hashing files", 0, 1)
        write_bundle(folder, fields)
    return describe(out)


def check_words(out: Path, published: Published, stored: Stored) -> dict[str, Any]:
    """bundle.json's words, prompts and defaults; the mask bank's licence is named beside the weights'.

    What may fail after a long conversion is tried first. Raises ConversionError if `out` is there, for a name that
    cannot be one, or no licence; BundleError for the mask bank's bundle.
    """
    refuse_existing(out)
    bank = ""
    if stored.bank is not None:
        describe(stored.bank).part(BANK)
        bank = f"; anatomy_bank: that of {Path(stored.bank).name}"
    if not published.licence:
        raise ConversionError(
            found="no licence",
            wanted="the licence of the weights, as their publisher states it",
            hint="give it with --licence",
        )
    if not re.fullmatch(NAME_PATTERN, published.name):
        raise ConversionError(
            found=f"the name {published.name!r}",
            wanted="lower-case letters, digits, . _ -",
            hint="give another with --name",
        )
    words = {key: getattr(published, key) for key in ("name", "use_restriction", "training_data", "defaults")}
    return {**words, "licence": published.licence + bank, "prompts": published.prompts.for_bundle()}


def refuse_existing(out: Path) -> None:
    """Raises ConversionError if something is at `out`: nothing is ever written over."""
    if out.exists() or out.is_symlink():
        raise ConversionError(
            where=str(out), found="already there", wanted="a folder that does not exist",
            hint="give another path, or move it away",
        )  # fmt: skip


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that takes the place `out` when the block ends well, and is gone otherwise.

    Raises ConversionError where the disk fails or the place is taken.
    """
    refuse_existing(out)
    temporary = out.parent / f"{TEMPORARY_PREFIX}{out.name}-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        refuse_existing(out)
        temporary.rename(out)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise ConversionError(
            where=str(out.parent),
            found=f"cannot be written: {error.strerror or error}",
            wanted="room for the whole bundle" if full else "a folder that can be written",
            hint="free some space, or give a path on another disk" if full else "give another path",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_network(folder: Path, network: Any, dtype: StoredDtype) -> None:
    """config.json and safetensors of a diffusers network."""
    network.save_config(folder)
    state = {key: _stored(f"{folder.name}: {key}", v, dtype) for key, v in network.state_dict().items()}
    _save(state, folder / WEIGHTS)


def save_embeddings(path: Path, embeddings: Mapping[str, Tensor], dtype: StoredDtype) -> None:
    """Writes the encoded prompts, [L, D] each, as safetensors; raises ConversionError for NaN."""
    table = {text or NULL_KEY: _stored(f"prompt {text!r}", v, dtype) for text, v in embeddings.items()}
    _save(table, path)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """safetensors makes its file for the owner alone; a bundle is read by whoever may read its folder."""
    save_file(tensors, path)
    path.chmod(0o644)


def _stored(name: str, value: Tensor, dtype: StoredDtype) -> Tensor:
    stored = value.detach().to(_DTYPES[dtype]).contiguous()
    if not torch.isfinite(stored).all():
        whole = bool(torch.isfinite(value).all())
        raise ConversionError(
            where=name,
            found="a value too large for fp16" if whole else "a value that is no number",
            wanted="finite weights",
            hint="use --dtype fp32" if whole else "fetch the checkpoint again",
        )
    return stored


def extend_bundle(
    bundle: str | Path,
    out: Path,
    part: str,
    write: Callable[[Path, BundleInfo], None],
    licence: str,
    *,
    report: Report = silent,
) -> BundleInfo:
    """Copies `bundle` to `out` and lets `write` add `part` to it; the part's licence stands beside the rest's.

    Raises ConversionError if the bundle has the part already or `out` is there; BundleError for a broken one.
    """
    refuse_existing(out)
    info = describe(bundle)
    if part in info.parts:
        raise ConversionError(
            where=f"bundle {info.name}", found=f"it has a part {part} already", wanted="a bundle without",
            hint="choose another bundle",
        )  # fmt: skip
    report("checking the bundle", 0, 3)
    fields = read_fields(info.root / BUNDLE_FILE)
    with new_folder(out) as folder:
        report(f"adding {part}", 1, 3)
        write(folder, info)
        report("copying the bundle", 2, 3)
        for stamp in info.files:
            info.copy_file(stamp.path, folder)
        update = {"licence": f"{fields.licence}; {part}: {licence}"}
        write_bundle(folder, fields.model_copy(update=update))
    return describe(out)
