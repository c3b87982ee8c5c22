"""A dataset's own prompts: texts of the recipe that the bundle has not, encoded once, kept in its folder.

The driver has them encoded (by what the command line gives it: no text encoder here) before any actor starts,
and puts `prompts.safetensors` into the output; actors, resuming and `replay` read that file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xreal_synth.dataset.head import DatasetHead, read_head
from xreal_synth.dataset.names import DATASET, PROMPTS
from xreal_synth.errors import BundleError, DatasetError
from xreal_synth.models.describe import BundleInfo, joint_prompt
from xreal_synth.models.prompt_table import read_about
from xreal_synth.recipe.findings import FindingRow
from xreal_synth.recipe.schema import Recipe
from xreal_synth.storage import Store, missing_folders, remove_empty, sha256_bytes
from xreal_synth.types import FileStamp

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run

ENCODER = "text_encoder"
"""The digested setting that names the text encoder, where one was needed."""

Encode = Callable[[BundleInfo, Sequence[str], str], bytes]
"""(bundle, texts, encoder's hash) -> their table: a file as models/prompt_table.py writes it."""


@dataclass(frozen=True, slots=True)
class OwnPrompts:
    """`texts` that `encoder` (the hash of its files) encodes; `table` is the file, empty until it is there."""

    encoder: str
    texts: tuple[str, ...]
    table: bytes = b""

    @property
    def stamp(self) -> FileStamp | None:
        return FileStamp(PROMPTS, len(self.table), sha256_bytes(self.table)) if self.table else None


def unknown_texts(recipe: Recipe, bundle: BundleInfo) -> tuple[str, ...]:
    """The recipe's own and joint prompts that the bundle has not encoded, each once, in order."""
    wanted = [text for row in recipe.findings for text in _texts(row, bundle)]
    return tuple(dict.fromkeys(text for text in wanted if text not in bundle.known_prompts))


def _texts(row: FindingRow, bundle: BundleInfo) -> list[str]:
    if row.joint:
        return [joint_prompt(bundle, [label.name for label in row.labels])]
    return [label.prompt for _, labels in row.kinds for label in labels if label.prompt is not None]


def stored_encoder(store: Store) -> str | None:
    """What encoded the own prompts of the dataset at this place; None without a dataset or such prompts."""
    return encoder_in(read_head(store).settings) if store.exists(DATASET) else None


def encoder_in(settings: Mapping[str, object]) -> str | None:
    """The text encoder among a dataset's digested settings."""
    found = settings.get(ENCODER)
    return found if isinstance(found, str) else None


def encoded(run: Run, encode: Encode) -> Run:
    """The run with its own prompts encoded, if it has any."""
    if run.own is None or run.own.table:
        return run
    return replace(run, own=replace(run.own, table=encode(run.bundle, run.own.texts, run.own.encoder)))


def with_table(run: Run, store: Store, stamp: FileStamp | None) -> Run:
    """The run with its own prompts as the dataset keeps them. Raises DatasetError, StorageError."""
    if run.own is None:
        return run
    if stamp is None:
        raise DatasetError(where=store.uri, found=f"{DATASET} names no {PROMPTS}", wanted="its hash")
    table = store.read_bytes(PROMPTS)
    if sha256_bytes(table) != stamp.sha256:
        raise _changed(store, "is not the file that the dataset was begun with", stamp)
    return replace(run, own=replace(run.own, table=table))


@contextmanager
def kept(run: Run, store: Store, head: DatasetHead | None, encode: Encode | None) -> Iterator[Run]:
    """The run with its own prompts' table, which lies in the output while the block runs, and stays if the
    dataset has been begun by its end.

    What lies there already is read, else `encode` is called. Raises DatasetError if the dataset's own file is
    changed or cannot be made again, BundleError if nothing can encode.
    """
    if run.own is None:
        yield run
        return
    folder = store.local_path
    created = missing_folders(folder) if folder is not None else []
    ready, put = _placed(run, store, head, encode)
    try:
        yield ready
    finally:
        if put and not store.exists(DATASET):
            store.delete(PROMPTS)
            remove_empty(created)


def _placed(run: Run, store: Store, head: DatasetHead | None, encode: Encode | None) -> tuple[Run, bool]:
    """The run with its table, and whether the file was put there now."""
    assert run.own is not None
    if head is not None and store.exists(PROMPTS):
        return with_table(run, store, head.prompts), False
    if head is None and store.exists(PROMPTS):
        if _fits(run.own, store):
            return replace(run, own=replace(run.own, table=store.read_bytes(PROMPTS))), False
        store.delete(PROMPTS)  # left by a run that never began its dataset
    if encode is None and not run.own.table:
        raise BundleError(
            found=f"{len(run.own.texts)} prompts that nothing encodes: {', '.join(map(repr, run.own.texts))}",
            wanted="prompts that the bundle or the dataset has, or a text encoder",
        )
    ready = encoded(run, encode) if encode is not None else run
    assert ready.own is not None
    assert ready.own.stamp is not None
    if head is not None and head.prompts != ready.own.stamp:
        raise _changed(store, "is missing, and encoding anew here gives other bytes", head.prompts)
    put = store.put_if_absent(PROMPTS, ready.own.table)
    return replace(ready, own=replace(ready.own, table=store.read_bytes(PROMPTS))), put


def _fits(own: OwnPrompts, store: Store) -> bool:
    try:
        return read_about(store.read_bytes(PROMPTS)) == (own.encoder, own.texts)
    except DatasetError:
        return False


def _changed(store: Store, found: str, stamp: FileStamp | None) -> DatasetError:
    return DatasetError(
        where=store.uri,
        found=f"{PROMPTS} {found}",
        wanted=f"sha256 {stamp.sha256}" if stamp is not None else f"a file that {DATASET} names",
        hint="restore it from a copy, or begin the dataset anew in another place",
    )
