"""Speeds that `doctor` measured, kept in the user's cache by machine and bundle, for `plan` to reckon with."""

from __future__ import annotations

import json
import platform
import re

from xreal_synth.cache import cache_folder, private_folder
from xreal_synth.errors import StorageError
from xreal_synth.opening import parse_json
from xreal_synth.storage import LocalStore

FOLDER = "speeds"


def keep_speed(bundle_hash: str, device: str, seconds: float) -> str:
    """Keeps the seconds of a network evaluation in the place of those measured before; returns the file.

    Raises StorageError, OSError.
    """
    store, name = LocalStore(private_folder(FOLDER)), _file()
    speeds = {**_kept(store, name), bundle_hash: {device: seconds}}
    store.replace(name, json.dumps(speeds, indent=1).encode())
    return f"{store.uri}/{name}"


def kept_speeds(bundle_hash: str) -> dict[str, float]:
    """Seconds of a network evaluation by device, as measured on this machine; empty where nothing was.

    Raises StorageError for a damaged file, or a folder that others may write into and that stays so.
    """
    try:
        there = (cache_folder() / FOLDER).exists()
    except StorageError:  # no home folder: nothing was kept
        return {}
    return _kept(LocalStore(private_folder(FOLDER)), _file()).get(bundle_hash, {}) if there else {}


def _file() -> str:
    """Of this machine: a home folder may be many machines'."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', platform.node()) or 'machine'}.json"


def _kept(store: LocalStore, name: str) -> dict[str, dict[str, float]]:
    if not store.exists(name):
        return {}
    try:
        kept = parse_json(store.read_bytes(name))
        return {
            str(bundle): {str(device): float(seconds) for device, seconds in speeds.items()}
            for bundle, speeds in kept.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise StorageError(
            where=f"{store.uri}/{name}", found=f"damaged: {error}", wanted="what xreal-synth doctor wrote",
            hint="delete it; doctor measures again",
        ) from error  # fmt: skip
