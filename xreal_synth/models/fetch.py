"""Bundles on object storage, fetched to this machine's cache with every hash checked. No torch here."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from xreal_synth.cache import fetch, forget, kept
from xreal_synth.errors import BundleError, StorageError
from xreal_synth.models.bundle_file import (
    BUNDLE_FILE,
    MAX_BUNDLE_FILE,
    BundleFile,
    parse_bundle_file,
    refuse_unsafe_names,
)
from xreal_synth.opening import UnreadableError, read_file
from xreal_synth.storage import Store, open_store, sha256_bytes, sha256_file

KIND: Final = "bundles"


def fetched_bundle(uri: str) -> Path:
    """The folder of a remote bundle (s3://, gs://, hf://): in the cache, fetched first if it is not there.

    It is known by the sha256 of its bundle.json, which names every file with size and sha256: a bundle that
    was changed in its place is another one. Names are checked before a byte is written. Raises BundleError.
    """
    try:
        store = open_store(uri, reading=True)
        text = _bundle_json(store)
        record = parse_bundle_file(text, f"{uri.rstrip('/')}/{BUNDLE_FILE}")
        refuse_unsafe_names(uri, record)
        size = sum(entry.bytes for entry in record.files.values())
        name = sha256_bytes(text)
        keep = partial(kept, KIND, name, partial(_fill, store, record, text), size)
        folder = keep()
        if not _is(folder, text):
            forget(KIND, name)
            folder = keep()
        return folder
    except StorageError as error:
        raise BundleError(where=error.where or uri, found=error.found, wanted=error.wanted, hint=error.hint) from error


def _is(folder: Path, text: bytes) -> bool:
    """Whether what was kept has this bundle.json; its files are hashed where they are read."""
    try:
        return read_file(folder / BUNDLE_FILE) == text
    except (OSError, UnreadableError):
        return False


def _bundle_json(store: Store) -> bytes:
    size = store.size(BUNDLE_FILE)
    if size is None or size > MAX_BUNDLE_FILE:
        raise BundleError(
            where=store.uri,
            found=f"no {BUNDLE_FILE} there" if size is None else f"{BUNDLE_FILE} of {size} bytes",
            wanted=f"a bundle's folder with its {BUNDLE_FILE}",
            hint="check the URI; a bundle is put there file by file, as it lies in its folder",
        )
    return store.read_bytes(BUNDLE_FILE, MAX_BUNDLE_FILE)


def _fill(store: Store, record: BundleFile, text: bytes, folder: Path) -> None:
    def check(key: str, path: Path) -> None:
        found = sha256_file(path)
        if found != record.files[key].sha256:
            raise BundleError(
                where=f"{store.uri}/{key}",
                found=f"sha256 {found}",
                wanted=f"sha256 {record.files[key].sha256}, as {BUNDLE_FILE} has it",
                hint="put the bundle there again, its bundle.json last",
            )

    fetch(store, {key: entry.bytes for key, entry in record.files.items()}, folder, check)
    (folder / BUNDLE_FILE).write_bytes(text)
